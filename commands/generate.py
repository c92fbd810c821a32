"""`d3llm generate`: decodes one prompt with any LLaDA or Dream checkpoint folder."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def whole_number(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def number(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


# The fields of `DiffusionGenerationConfig` (it checks their ranges): how they are read, and what they mean.
FIELDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "max_new_tokens": (whole_number, "length of the generated region"),
    "early_stop": (true_or_false, "true: stop at the first EOS"),
    "temperature": (number, "0 takes the most probable token"),
    "top_k": (whole_number, "sample among so many tokens"),
    "top_p": (number, "sample among this share of the probability"),
    "cfg_scale": (number, "weight of classifier-free guidance"),
    "mask_token_id": (whole_number, "the mask token, if the model does not name it"),
    "score": (str, "probability, entropy, margin or random"),
    "selection": (str, "count, fraction or threshold"),
    "threshold": (number, "in the unit of the score: nats at most for entropy, otherwise at least"),
    "forced_progress": (str, "best, first_block, best_and_first_block or every_block"),
    "steps": (whole_number, "total forwards, for the selections count and fraction"),
    "eps": (number, "time at the end of the grid of the selection fraction"),
    "block_size": (whole_number, "positions per block"),
    "block_add_threshold": (number, "share of the last block to commit before the next one opens"),
    "block_activate_threshold": (number, "share of the previous block before a block is guaranteed progress"),
    "cache": (str, "none, prefix, dual or block"),
    "cache_delay": (whole_number, "forwards that a completed block stabilises"),
    "cache_refresh_interval": (whole_number, "forwards between full refreshes"),
    "window_edge": (str, "exact or published"),
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("generate", help="decode one prompt with a LLaDA or Dream checkpoint")
    parser.add_argument("--model", metavar="DIR", help="checkpoint folder (default: the shipped teacher)")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument(
        "--preset", metavar="NAME", help="see `d3llm presets` (default: the checkpoint's own settings)"
    )
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="use the chat template (default: if there is one)",
    )
    parser.add_argument("--seed", type=int, help="seed, for a temperature above 0")
    parser.add_argument("--device", help="for example cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the tokenizer run code from the folder")
    fields = parser.add_argument_group("fields of DiffusionGenerationConfig, which override the preset")
    for name, (kind, meaning) in FIELDS.items():
        fields.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            metavar={whole_number: "N", number: "X", true_or_false: "BOOL", str: "NAME"}[kind],
            help=meaning,
            default=argparse.SUPPRESS,
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if not args.prompt.strip():
        raise ValueError("--prompt is empty: give at least one word.")
    overrides = {name: value for name, value in vars(args).items() if name in FIELDS}

    import torch
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from d3llm.evaluation import encode_prompt

    from .canvas import CanvasStreamer
    from .loading import load_model

    model, tokenizer = load_model(
        _default_model() if args.model is None else Path(args.model),
        device=args.device,
        trust_remote_code=args.trust_remote_code,
    )
    if args.seed is not None:
        torch.manual_seed(args.seed)
    if args.preset is not None:
        overrides["preset"] = args.preset
    input_ids = torch.tensor([encode_prompt(tokenizer, args.prompt, chat=args.chat)], device=model.device)

    def decode(streamer: CanvasStreamer | None = None):
        return model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            return_dict_in_generate=True,
            streamer=streamer,
            **overrides,
        )

    console = Console(highlight=False)
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def show(streamer: CanvasStreamer) -> None:
                caption = (
                    f"forward {len(streamer.frames)}, {streamer.committed(len(streamer.frames))} tokens committed"
                )
                live.update(Group(streamer.render(), Text(caption, "dim")), refresh=True)

            output = decode(CanvasStreamer(tokenizer, model.config.mask_token_id, show))
    else:
        output = decode()
    forwards, parallelism = int(output.forward_passes[0]), float(output.tokens_per_forward[0])
    tokens = round(forwards * parallelism)
    generated = output.sequences[0, input_ids.shape[1] :][:tokens]
    sys.stdout.write(tokenizer.decode(generated, skip_special_tokens=True).strip("\n") + "\n")
    if console.is_terminal:
        console.print(f"{tokens} tokens in {forwards} forwards, TPF {parallelism:.2f}", style="dim")


def _default_model() -> Path:
    from d3llm.quickstart import checkpoint_path

    return checkpoint_path("teacher")
