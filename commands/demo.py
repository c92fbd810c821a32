"""`d3llm demo`: the shipped models solve unseen problems, the teacher with one token per forward, the student more."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from d3llm.evaluation import DecodingResult
    from d3llm.quickstart.stories.problem import Problem

    from .canvas import LiveCanvas

DEFAULTS = {"problems": 100, "batch_size": 8, "seed": 0}
PAUSE = 0.04  # seconds per forward while the canvas is shown, when nothing is measured


@dataclass(frozen=True)
class Method:
    """
    A model and how it decodes.

    Attributes:
        model (`str`): Name of a shipped checkpoint.
        decoder (`str`): Name of the one that says how it decodes.
        preset (`str`): Name of that decoder's preset.
        caption (`str`): Short description.
        is_shown (`bool`): Whether to draw its canvas.
    """

    model: str
    decoder: str
    preset: str
    caption: str
    is_shown: bool = True


METHODS = (
    Method("teacher", "teacher", "llada", "one token per forward"),
    Method("teacher", "student", "d3llm", "sure tokens from left to right", is_shown=False),
    Method("student", "student", "d3llm", "retrained, sure tokens from left to right"),
)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("demo", help="watch the shipped models solve unseen problems, and measure them")
    counts = {"problems": "number of problems", "batch_size": "rows per batch", "seed": "seed of the problems"}
    for name, meaning in counts.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, metavar="N", help=f"{meaning} (default: {DEFAULTS[name]})")
    parser.add_argument(
        "--threads",
        type=int,
        default=min(2, os.cpu_count() or 1),
        metavar="N",
        help="CPU threads; one is faster on a busy machine (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements to a file")
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="write a picture of the canvases and the table to a file"
    )
    parser.add_argument(
        "--real",
        action="store_true",
        help="show SmolLM2-135M-Instruct and its drafter instead (extra `real`), with a --prompt of your own",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="with --real: the question")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    _check_kind(args)
    from d3llm.common.threads import cpu_threads

    with cpu_threads(args.threads):
        if args.real:
            from . import real_demo

            real_demo.run(args)
        else:
            run_quickstart(args)


def _check_kind(args: argparse.Namespace) -> None:
    """Each kind of demo has options of its own."""
    options = {True: ("prompt",), False: ("problems", "batch_size", "seed", "svg")}
    for name in options[not args.real]:
        if getattr(args, name) is not None:
            is_for = "with" if name in options[True] else "without"
            raise ValueError(f"--{name.replace('_', '-')} is for the demo {is_for} --real: omit one of them.")
    if not 1 <= args.threads <= (os.cpu_count() or 1):
        raise ValueError(f"--threads must be 1 to {os.cpu_count() or 1}, got {args.threads}.")


def run_quickstart(args: argparse.Namespace) -> None:
    """Shows the shipped diffusion models and measures them."""
    for name, default in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    for name, highest in (("problems", 10_000), ("batch_size", 1024)):
        if not 1 <= getattr(args, name) <= highest:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 to {highest}, got {getattr(args, name)}.")
    from rich.console import Console

    from d3llm.common.files import check_writable, write_atomically
    from d3llm.common.progress import RunProgress
    from d3llm.evaluation import evaluate_decoding
    from d3llm.quickstart import checkpoint_path
    from d3llm.quickstart.stories.checker import is_right
    from d3llm.quickstart.stories.problem import generate_problems

    from .loading import load_model

    if args.json is not None and args.svg is not None and args.json.resolve() == args.svg.resolve():
        raise ValueError(f"--json and --svg are one file, {args.svg}: give each a file of its own.")
    for path in (args.json, args.svg):
        if path is not None:
            check_writable(path)
    console = Console(highlight=False)
    problems = generate_problems("test", args.problems, args.seed)
    models = {}
    for name in dict.fromkeys(method.model for method in METHODS):
        models[name], tokenizer = load_model(checkpoint_path(name), device="cpu")
    decoders = {name: model.generation_config for name, model in models.items()}

    console.print(f"[bold]An unseen problem[/bold] (of {len(problems)})\n{problems[0].question}\n")
    shown = {
        method: _show(console, models[method.model], decoders[method.decoder], tokenizer, problems[0], method)
        for method in METHODS
        if method.is_shown
    }

    results: dict[Method, DecodingResult] = {}
    for method in METHODS:
        with RunProgress(f"{method.model} with {method.preset}", len(problems), console=console) as progress:
            results[method] = evaluate_decoding(
                models[method.model],
                tokenizer,
                [problem.question for problem in problems],
                lambda index, text: is_right(problems[index], text),
                batch_size=args.batch_size,
                progress=progress.advance,
                generation_config=decoders[method.decoder],
            )
    table = _table(results)
    console.print()
    console.print(table)
    if args.json is not None:
        write_atomically(args.json, (json.dumps(_report(results, args), indent=2) + "\n").encode())
    if args.svg is not None:
        write_atomically(args.svg, _picture(problems[0].question, shown, table).encode())


def _show(
    console: Console,
    model: PreTrainedModel,
    decoder: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    method: Method,
) -> LiveCanvas:
    """Decodes one problem while its canvas is drawn; returns the streamer, which holds every frame."""
    import torch
    from rich.live import Live

    from d3llm.evaluation import encode_prompt
    from d3llm.quickstart.stories.checker import extract_answer, is_right

    from .canvas import LiveCanvas

    input_ids = torch.tensor([encode_prompt(tokenizer, problem.question)])
    streamer = LiveCanvas(tokenizer)

    def decode() -> None:
        model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=decoder,
            streamer=streamer,
        )

    def verdict() -> str:
        text = tokenizer.decode(streamer.frames[-1])
        answer = extract_answer(text)
        if answer is None:
            return f", no answer: it is {problem.answer}"
        if answer != problem.answer:
            return f", {answer} is wrong: it is {problem.answer}"
        return f", {answer} is right" + ("" if is_right(problem, text) else ", the way to it is not")

    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            streamer.listener = lambda streamer: live.update(_panel(streamer, method), refresh=True)
            streamer.pause = PAUSE
            decode()
            live.update(_panel(streamer, method, verdict=verdict()), refresh=True)
    else:
        decode()
        console.print(_panel(streamer, method, verdict=verdict()))
    return streamer


def _panel(streamer: LiveCanvas, method: Method, forward: int | None = None, verdict: str = "") -> RenderableType:
    from rich.panel import Panel

    forward = forward or len(streamer.frames)
    title = f"[bold]{method.model}, {method.preset}[/bold]: {method.caption}"
    subtitle = f"forward {forward}: {streamer.count_committed(forward)} tokens committed{verdict}"
    return Panel(streamer.render(forward), title=title, subtitle=subtitle)


def _table(results: dict[Method, DecodingResult]) -> RenderableType:
    from rich.table import Table

    n = len(next(iter(results.values())).records)
    table = Table(title=f"{n} unseen problem{'s' * (n > 1)}, whole solutions, early stop at EOS", title_justify="left")
    table.add_column("model")
    table.add_column("preset")
    with_rows = any(result.row_forwards != result.forwards for result in results.values())
    for name in ("accuracy (95 % interval)", "TPF", "TPS", "forwards", *(["row forwards"] if with_rows else [])):
        table.add_column(name, justify="right")
    for method, result in results.items():
        low, high = result.accuracy_interval
        table.add_row(
            method.model,
            f"[bold]{method.preset}[/bold]",
            f"{result.accuracy:.1%} ({low:.1%} to {high:.1%})",
            f"{result.tokens_per_forward:.2f}",
            f"{result.tokens_per_second:.0f}",
            f"{result.forwards}",
            *([f"{result.row_forwards}"] if with_rows else []),
        )
    return table


def _report(results: dict[Method, DecodingResult], args: argparse.Namespace) -> dict[str, Any]:
    """The measurements as JSON. `accuracy` and its interval are between 0 and 1; forwards (and of rows) are sums."""
    rows = [
        {
            "model": method.model,
            "preset": method.preset,
            "accuracy": result.accuracy,
            "accuracy_interval": list(result.accuracy_interval),
            "tokens_per_forward": result.tokens_per_forward,
            "tokens_per_second": result.tokens_per_second,
            "forwards": result.forwards,
            "row_forwards": result.row_forwards,
            "tokens": result.tokens,
            "seconds": result.seconds,
        }
        for method, result in results.items()
    ]
    return {
        "rows": rows,
        "split": "test",
        "problems": args.problems,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "interval": "95 % Wilson",
        "device": "cpu",
        "threads": args.threads,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("d3llm", "torch", "transformers")},
        },
    }


def _picture(question: str, shown: dict[Method, LiveCanvas], table: RenderableType) -> str:
    """An SVG of all canvases after the same number of forwards, and of the table."""
    from io import StringIO

    from rich.console import Console

    console = Console(record=True, width=92, file=StringIO(), force_terminal=True, highlight=False)
    console.print(f"[dim]$[/dim] d3llm demo\n\n{question}\n")
    forward = max(1, round(0.7 * min(len(streamer.frames) for streamer in shown.values())))
    for method, streamer in shown.items():
        console.print(_panel(streamer, method, forward))
    console.print()
    console.print(table)
    return console.export_svg(title="d3llm demo")
