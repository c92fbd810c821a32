"""`d3llm convert`: converts an adapter, a sharded checkpoint or a folder with old code to a clean model folder.

With `--to FAMILY` it puts an autoregressive checkpoint into a diffusion class, and with `--to gguf` it writes a file
for llama.cpp.
"""

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
    parser.add_argument(
        "--to",
        metavar="FAMILY",
        help="a family: put the autoregressive model in DIR into this diffusion class, to be trained; or gguf: write "
        "a LLaDA or Dream as a file for llama.cpp",
    )
    parser.add_argument("--mask-token", metavar="TEXT", help="with --to: text of the mask token (default: <|mask|>)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from d3llm.hub_cards.convert import convert
    from d3llm.hub_cards.convert_autoregressive import MASK_TOKEN, convert_autoregressive
    from d3llm.hub_cards.streaming import folder_streaming_faults

    from .loading import quiet_libraries

    quiet_libraries()
    if args.to == "gguf":
        _write_gguf(args)
        return
    known = {"license": args.license, "base_model_id": args.base_model_id}
    if args.to is None:
        if args.mask_token is not None:
            raise ValueError("--mask-token belongs to --to FAMILY: other models have their mask token.")
        facts = convert(args.source, args.output, base_model=args.base_model, **known)
    else:
        if args.base_model is not None:
            raise ValueError(
                "--base-model and --to do not go together: merge an adapter first, and convert the result."
            )
        mask_token = MASK_TOKEN if args.mask_token is None else args.mask_token
        facts = convert_autoregressive(args.source, args.output, to=args.to, mask_token=mask_token, **known)
    for fault in folder_streaming_faults(args.output):
        sys.stderr.write(f"d3llm: warning: {fault}\n")
    sys.stdout.write(f"{facts.architecture}, {facts.parameters} parameters, in {args.output}\n")
    if facts.conversion:
        mask_token, mask_row, recipe = (facts.conversion[name] for name in ("mask_token", "mask_row", "recipe"))
        sys.stdout.write(
            f"The row of the mask token {mask_token} is {mask_row}. The model is not trained yet: d3llm distill "
            f"--config {recipe} --model_name_or_path {args.output} ...\n"
        )


def _write_gguf(args: argparse.Namespace) -> None:
    from d3llm.hub_cards.convert_gguf import convert_gguf

    for name in ("base_model", "base_model_id", "mask_token"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} does not go with --to gguf: the file has what DIR has.")
    for warning in convert_gguf(args.source, args.output, license=args.license):
        sys.stderr.write(f"d3llm: warning: {warning}\n")
    size = args.output.stat().st_size / 1e6
    sys.stdout.write(f"{args.output}, {size:.1f} MB, for llama-diffusion-cli -m {args.output}\n")
