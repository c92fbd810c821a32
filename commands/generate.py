"""`d3llm generate`: decodes one prompt with any LLaDA or Dream checkpoint folder."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class _Help(argparse.Action):
    """`--help` that also lists the fields of the config; to import them only here keeps the command line quick."""

    def __call__(self, parser, namespace, values, option_string=None):
        from d3llm.generation.configuration_diffusion import CHOICES

        lines = ["fields of DiffusionGenerationConfig, which override the preset:"]
        for name, default in _fields().items():
            choices = f": {', '.join(CHOICES[name])}" if name in CHOICES else ""
            lines.append(f"  --{name.replace('_', '-')} (default {json.dumps(default)}){choices}")
        parser.epilog = "\n".join(lines)
        parser.print_help()
        parser.exit()


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="decode one prompt with a LLaDA or Dream checkpoint",
        usage="%(prog)s --prompt TEXT [--model DIR] [--preset NAME] [--FIELD VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help message and exit")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--model", metavar="DIR", help="checkpoint folder (default: the shipped teacher)")
    parser.add_argument("--preset", metavar="NAME", help="see `d3llm presets` (default: the checkpoint's own)")
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="use the chat template (default: if there is one)",
    )
    parser.add_argument("--device", help="for example cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the tokenizer run code from the folder")
    parser.set_defaults(run=run, takes_fields=True)


def run(args: argparse.Namespace) -> None:
    if not args.prompt.strip():
        raise ValueError("--prompt is empty: give at least one word.")
    overrides = _parse_fields(args.fields)
    if args.preset is not None:
        overrides["preset"] = args.preset

    import torch
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from d3llm.evaluation import encode_prompt
    from d3llm.generation import DiffusionGenerationConfig

    from .canvas import CanvasStreamer
    from .loading import load_model

    config = DiffusionGenerationConfig(**overrides)  # a wrong value should not have to wait for the weights
    if args.preset is not None:
        config.resolve()
    model, tokenizer = load_model(
        _default_model() if args.model is None else Path(args.model),
        device=args.device,
        trust_remote_code=args.trust_remote_code,
    )
    input_ids = torch.tensor([encode_prompt(tokenizer, args.prompt, chat=args.chat)], device=model.device)

    def decode(streamer: CanvasStreamer | None = None):
        return model.generate(input_ids, return_dict_in_generate=True, streamer=streamer, **overrides)

    console = Console(highlight=False)
    if console.is_terminal and overrides.get("num_return_sequences", 1) == 1:
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def show(streamer: CanvasStreamer) -> None:
                forward = len(streamer.frames)
                caption = f"forward {forward}, {streamer.committed(forward)} tokens committed"
                live.update(Group(streamer.render(), Text(caption, "dim")), refresh=True)

            mask_token_id = overrides.get("mask_token_id", model.config.mask_token_id)
            output = decode(CanvasStreamer(tokenizer, mask_token_id, show))
    else:
        output = decode()
    for sequence, forwards, parallelism in zip(
        output.sequences, output.forward_passes.tolist(), output.tokens_per_forward.tolist(), strict=True
    ):
        tokens = round(forwards * parallelism)
        generated = sequence[input_ids.shape[1] :][:tokens]
        sys.stdout.write(tokenizer.decode(generated, skip_special_tokens=True).strip("\n") + "\n")
        if console.is_terminal:
            console.print(f"{tokens} tokens in {forwards} forwards, TPF {parallelism:.2f}", style="dim")


def _fields() -> dict[str, Any]:
    """The fields of `DiffusionGenerationConfig` that are flags, with their defaults."""
    from d3llm.generation.configuration_diffusion import METHOD_DEFAULTS, RUN_DEFAULTS

    fields = {**RUN_DEFAULTS, "top_k": None, "top_p": None, **METHOD_DEFAULTS}
    for name in ("preset", "output_logprobs", "output_history"):  # an argument of its own, and what no text shows
        del fields[name]
    return fields


def _parse_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--block-size", "8", "--cache=block"]` as `{"block_size": 8, "cache": "block"}`; the config checks values."""
    from d3llm.generation.configuration_diffusion import suggestion

    defaults = _fields()
    fields = {f"--{name.replace('_', '-')}": name for name in defaults}
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        if flag not in fields:
            raise ValueError(f"unknown option {flag}{suggestion(flag, fields)}, see `d3llm generate --help`")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"{flag} needs a value")
            text = rest.pop(0)
        name = fields[flag]
        try:
            values[name] = json.loads(text)  # a number, true or false
        except json.JSONDecodeError:
            values[name] = text
        if isinstance(defaults[name], bool) and not isinstance(values[name], bool):
            raise ValueError(f"{flag} is true or false, not {text}")
    return values


def _default_model() -> Path:
    from d3llm.quickstart import checkpoint_path

    return checkpoint_path("teacher")
