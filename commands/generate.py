"""`d3llm generate`: decodes one prompt, or a file of them, with any checkpoint folder of a family of the package."""

import argparse
import sys
from pathlib import Path
from typing import Any

from . import generate_drafted, generate_file
from .fields import add_decoding_arguments, checkpoint_folder, not_empty, parse_fields


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="decode prompts with a diffusion language model",
        usage="%(prog)s {--prompt TEXT | --input FILE --output FILE} [--model DIR] [--preset NAME] [--FIELD VALUE]...",
        add_help=False,
    )
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", metavar="TEXT")
    prompts.add_argument(
        "--input", type=Path, metavar="FILE", help="prompts as JSON lines: `prompt` or `messages`, and optionally `id`"
    )
    generate_file.add_arguments(parser)
    add_decoding_arguments(parser)
    parser.add_argument(
        "--assistant",
        "--assistant-model",
        type=not_empty,
        metavar="DIR",
        help="checkpoint folder of a model that drafts for this one",
    )
    parser.add_argument(
        "--drafter", type=not_empty, metavar="DIR", help="drafter of --model, which is a causal model then"
    )
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether to use the chat template (default: if there is one)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    generate_file.check_arguments(args)
    if args.input is None and not args.prompt.strip():
        raise ValueError("--prompt is empty: give at least one word.")
    if args.drafter is not None:
        generate_drafted.run(args)
        return
    fields = parse_fields(args)
    (run_prompt if args.input is None else generate_file.run)(args, checkpoint_folder(args), fields)


def run_prompt(args: argparse.Namespace, folder: Path, fields: dict[str, Any]) -> None:
    """
    Decodes the prompt of the command line and prints the texts; in a terminal, it shows the canvas meanwhile.

    Args:
        args (`argparse.Namespace`): The parsed arguments.
        folder (`Path`): The checkpoint.
        fields (`dict[str, Any]`): The given fields of `DiffusionGenerationConfig`.
    """
    import torch
    from rich.console import Console
    from rich.live import Live

    from d3llm.evaluation import encode_prompt
    from d3llm.quickstart.stories.caution import caution_of

    from .canvas import LiveCanvas
    from .loading import load_assistant, load_model
    from .tables import count_forwards

    model, tokenizer = load_model(folder, device=args.device, trust_remote_code=args.trust_remote_code)
    assistant = load_assistant(args)
    input_ids = torch.tensor([encode_prompt(tokenizer, args.prompt, chat=args.chat)], device=model.device)

    def decode(streamer: LiveCanvas | None = None):
        return model.generate(
            input_ids, return_dict_in_generate=True, streamer=streamer, assistant_model=assistant, **fields
        )

    console = Console(highlight=False)
    if console.is_terminal and fields.get("num_return_sequences", 1) == 1:
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def show(streamer: LiveCanvas) -> None:
                live.update(streamer.with_caption(), refresh=True)

            output = decode(LiveCanvas(tokenizer, show))
    else:
        output = decode()
    for sequence, tokens, forwards, rows, drafting, parallelism in zip(
        output.sequences,
        output.tokens.tolist(),
        output.forward_passes.tolist(),
        output.row_forwards.tolist(),
        output.assistant_forwards.tolist(),
        output.tokens_per_forward.tolist(),
        strict=True,
    ):
        generated = sequence[input_ids.shape[1] :][:tokens]
        text = tokenizer.decode(generated, skip_special_tokens=True).strip("\n")
        sys.stdout.write(f"{text}\n")
        if console.is_terminal:
            counted = count_forwards(forwards, rows, drafting)
            console.print(f"{tokens} tokens in {counted}, TPF {parallelism:.2f}", style="dim")
        warning = caution_of(folder)(args.prompt, text)
        if warning is not None:
            sys.stderr.write(f"d3llm: {warning}\n")
