"""`d3llm compare`: models or presets on one prompt, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fields import add_decoding_arguments, parse_fields


if TYPE_CHECKING:
    import torch
    from rich.console import Console, RenderableType
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..generation import DiffusionGenerationConfig
    from ..hub_cards.canvas_space.turns import Turns
    from .canvas import LiveCanvas

MOST_SIDES = 4
SHIPPED = {"teacher": "llada", "student": "d3llm"}  # the sides when none are given


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="watch models or presets fill their canvases side by side",
        usage="%(prog)s --prompt TEXT [--model DIR...] [--preset NAME...] [--FIELD VALUE]...",
        description="One --model with several --preset compares presets; several --model with at most one --preset "
        "models; as many of both are pairs.",
        add_help=False,
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    add_decoding_arguments(parser, default_model="student; teacher and student without --preset", nargs="+")
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether to use the chat template (default: if there is one)",
    )
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Contender:
    """
    What decodes one side.

    Attributes:
        folder (`Path`): The checkpoint.
        fields (`dict[str, Any]`): The given fields of `DiffusionGenerationConfig`, with the preset.
    """

    folder: Path
    fields: dict[str, Any]


@dataclass
class Side:
    """
    One side while it is decoded.

    Attributes:
        name (`str`): The model.
        model (`PreTrainedModel`), tokenizer (`PreTrainedTokenizerBase`): What decodes.
        input_ids (`torch.LongTensor` of shape `(1, P)`): The prompt.
        config ([`DiffusionGenerationConfig`]): The decoding parameters, all filled in.
        streamer ([`LiveCanvas`]): The canvas.
        seconds (`list[float]`): Time of decoding after each forward; at the end its last entry is that of all.
        facts (`dict[str, float]`, *optional*): Once it has ended: tokens, forwards and row forwards.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    input_ids: torch.Tensor
    config: DiffusionGenerationConfig
    streamer: LiveCanvas
    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] | None = None

    @property
    def decoding(self) -> str:
        """The preset."""
        return self.config.preset or "its own values"

    @property
    def text(self) -> str:
        """The answer, without special tokens."""
        facts = self.facts or {}
        tokens = self.streamer.frames[-1][: facts.get("tokens")]
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def __rich__(self) -> RenderableType:
        return self.view(len(self.streamer.frames))

    def view(self, forward: int) -> RenderableType:
        """The canvas after a forward; after the last one with what all of them took."""
        from rich.panel import Panel
        from rich.text import Text

        canvas = self.streamer.render(forward) if forward else Text("░░", "bright_black")
        if self.facts is not None and forward == self.facts["forwards"]:
            tokens = self.facts["tokens"]
            state = f"{tokens} tokens in {forward} forwards, TPF {tokens / forward:.2f}, {self.seconds[-1]:.2f} s"
        else:
            tokens = self.streamer.count_committed(forward) if forward else 0
            seconds = self.seconds[forward - 1] if forward else 0.0
            state = f"forward {forward}: {tokens} tokens, {seconds:.2f} s"
        return Panel(canvas, title=f"[bold]{self.name}[/bold], {self.decoding}", subtitle=state)


def run(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.live import Live

    from ..hub_cards.canvas_space.turns import Turns
    from ..quickstart.stories.caution import caution_of
    from .tables import beside

    if not args.prompt.strip():
        raise ValueError("--prompt is empty: give at least one word.")
    given = contenders(args)
    sides = load_sides(given, args)
    console = Console(highlight=False)
    console.print(f"[bold]{_escaped(args.prompt)}[/bold]\n")
    turns = Turns(len(sides))
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            decode_sides(sides, turns, lambda: live.update(beside(sides), refresh=True))
            live.update(beside(sides), refresh=True)
    else:
        decode_sides(sides, turns, lambda: None)
        console.print(beside(sides))
    show_table(console, sides)
    for contender, side in zip(given, sides, strict=True):
        note = caution_of(contender.folder)(args.prompt, side.text)
        if note is not None:
            console.print(f"{side.name}, {side.decoding}: {_escaped(note)}", style="dim", soft_wrap=True)


def contenders(args: argparse.Namespace) -> list[Contender]:
    """
    The sides that the arguments name.

    Raises:
        `ValueError`: For a single side, too many, or numbers of models and presets that do not fit.
    """
    from ..quickstart import checkpoint_path

    models = None if args.model is None else [Path(folder) for folder in args.model]
    presets = args.preset
    if models is None and presets is None:
        models, presets = [checkpoint_path(name) for name in SHIPPED], [*SHIPPED.values()]
    models, presets = models or [checkpoint_path("student")], presets or [None]
    count = max(len(models), len(presets))
    if count == 1:
        raise ValueError("There is one side: give a second --model or a second --preset.")
    if count > MOST_SIDES:
        raise ValueError(f"{count} sides do not fit beside each other: give at most {MOST_SIDES}.")
    if {len(models), len(presets)} - {1, count}:
        raise ValueError(f"--model names {len(models)} and --preset {len(presets)}: give one, or as many of both.")
    models, presets = ([*given] * (count if len(given) == 1 else 1) for given in (models, presets))
    given = [
        parse_fields(argparse.Namespace(fields=args.fields, preset=preset, parser=args.parser)) for preset in presets
    ]
    if any(fields.get("num_return_sequences", 1) > 1 for fields in given):
        raise ValueError("Each side shows one sequence: omit --num-return-sequences.")
    return [Contender(folder, fields) for folder, fields in zip(models, given, strict=True)]


def load_sides(given: list[Contender], args: argparse.Namespace) -> list[Side]:
    """Loads the models, each once, and checks that the decoding parameters fit them."""
    import torch

    from ..evaluation import encode_prompt
    from .canvas import LiveCanvas
    from .loading import load_model

    loaded: dict[Path, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}
    sides = []
    for contender in given:
        if contender.folder not in loaded:
            options = {"device": args.device, "trust_remote_code": args.trust_remote_code}
            loaded[contender.folder] = load_model(contender.folder, **options)
        model, tokenizer = loaded[contender.folder]
        input_ids = torch.tensor([encode_prompt(tokenizer, args.prompt, chat=args.chat)], device=model.device)
        config = model.diffusion_config(None, dict(contender.fields), input_ids.shape[1])
        name = _escaped(contender.folder.resolve().name)
        sides.append(Side(name, model, tokenizer, input_ids, config, LiveCanvas(tokenizer)))
    return sides


def decode_sides(sides: list[Side], turns: Turns, draw: Callable[[], None]) -> None:
    """
    Decodes all sides in turns, so that each is timed alone.

    Args:
        sides (`list[Side]`): The sides.
        turns ([`Turns`]): Their clocks.
        draw (`Callable[[], None]`): Called after each forward of any side.
    """
    from ..hub_cards.canvas_space.turns import run_in_turns

    for side in sides:  # so that none pays for what its first call sets up
        side.model.generate(side.input_ids, generation_config=side.config, max_new_tokens=1)

    def decode(number: int) -> None:
        side = sides[number]

        def show() -> None:
            side.seconds.append(turns.seconds[number])
            draw()

        def after_forward(_: LiveCanvas) -> None:
            turns.next(number, show)

        side.streamer.listener = after_forward
        output = side.model.generate(
            side.input_ids,
            generation_config=side.config,
            streamer=side.streamer,
            tokenizer=side.tokenizer,
            return_dict_in_generate=True,
        )
        taken = {"forwards": int(output.forward_passes), "row_forwards": int(output.row_forwards)}
        side.facts = {"tokens": int(output.tokens), **taken}

    run_in_turns(turns, [partial(decode, number) for number in range(len(sides))])
    for number, side in enumerate(sides):
        side.seconds[-1] = turns.seconds[number]


def show_table(console: Console, sides: list[Side]) -> None:
    """Prints what the sides took, compared with the first."""
    from rich.table import Table

    first = sides[0]
    table = Table()
    table.add_column("model")
    table.add_column("preset")
    with_rows = any(side.facts["row_forwards"] != side.facts["forwards"] for side in sides if side.facts)
    columns = ("tokens", "forwards", *(["row forwards"] if with_rows else []), "TPF", "seconds", "times as fast")
    for name in (*columns, "text"):
        table.add_column(name, justify="right")
    for side in sides:
        facts = side.facts or {}
        table.add_row(
            side.name,
            f"[bold]{side.decoding}[/bold]",
            f"{facts['tokens']}",
            f"{facts['forwards']}",
            *([f"{facts['row_forwards']}"] if with_rows else []),
            f"{facts['tokens'] / facts['forwards']:.2f}",
            f"{side.seconds[-1]:.2f}",
            f"{first.seconds[-1] / side.seconds[-1]:.1f}",
            "" if side is first else "the same" if side.text == first.text else "another",
        )
    console.print()
    console.print(table)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
