"""`d3llm convert`: converts an adapter, a sharded checkpoint or a folder with old code to a clean model folder."""

import argparse
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "convert", help="convert an adapter, a sharded checkpoint or old remote code to a self-contained model folder"
    )
    parser.add_argument(
        "source", type=Path, metavar="DIR", help="LoRA adapter, FSDP or DeepSpeed checkpoint, or model"
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the folder to write; it must not exist")
    parser.add_argument("--base-model", type=Path, metavar="DIR", help="base model of the adapter or checkpoint")
    parser.add_argument("--license", metavar="ID", help="licence of the base model (default: the one named in DIR)")
    parser.add_argument("--base-model-id", metavar="OWNER/NAME", help="the base model on the Hub, for the card")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from d3llm.hub_cards.convert import convert
    from d3llm.hub_cards.streaming import folder_streaming_faults

    from .loading import quiet_libraries

    quiet_libraries()
    facts = convert(
        args.source,
        args.output,
        base_model=args.base_model,
        license=args.license,
        base_model_id=args.base_model_id,
    )
    for fault in folder_streaming_faults(args.output):
        sys.stderr.write(f"d3llm: warning: {fault}\n")
    sys.stdout.write(f"{facts.architecture}, {facts.parameters} parameters, in {args.output}\n")
