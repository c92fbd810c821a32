"""`d3llm leaderboard`: AUP of measured results and of the published tables, as tables and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tables import table_console


if TYPE_CHECKING:
    from collections.abc import Sequence

    from d3llm.evaluation.leaderboard import Board
    from d3llm.evaluation.lengths import LengthGains


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("leaderboard", help="compare methods by AUP, with pictures")
    parser.add_argument(
        "results", nargs="*", type=Path, metavar="RESULT", help="result files of `d3llm eval`, or folders of them"
    )
    parser.add_argument("--published", action="store_true", help="show the published tables as well")
    parser.add_argument("--join", metavar="TABLE", help="add the results to a published table: LLaDA, Dream, Coder")
    parser.add_argument(
        "--y-max",
        default="table",
        metavar="HOW",
        help="best accuracy that AUP refers to: table (the best of all methods, as published), own (each method's), "
        "or TASK=PERCENT,... (default: %(default)s)",
    )
    parser.add_argument(
        "--baseline", metavar="METHOD", help="drop points more than 5 %% below this method's first point"
    )
    parser.add_argument(
        "--by-length",
        nargs=2,
        metavar=("ONE", "OTHER"),
        help="how many times the tokens per forward of method OTHER method ONE commits, by the length of the answer",
    )
    parser.add_argument(
        "--lengths",
        metavar="N,...",
        help="with --by-length: tokens of the longest answers of each group (default: 32,64,96,128,192)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the pictures, PNG and SVG")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.by_length is not None:
        show_lengths(args)
        return
    if args.lengths is not None:
        raise ValueError("--lengths is for --by-length: give both.")
    from d3llm.evaluation.leaderboard import MEASURED, make_boards, measured_curves, published, published_curves

    if not args.results and not args.published:
        raise ValueError("Nothing to show: give result files, --published, or both.")
    figures = published()
    if args.join is not None and (not args.published or args.join not in figures["tables"]):
        raise ValueError(f"--join must be one of {', '.join(figures['tables'])}, together with --published.")
    curves = measured_curves(args.results, args.join or MEASURED) if args.results else []
    if args.published:
        curves += published_curves()
    boards = make_boards(curves, parse_y_max(args.y_max), args.baseline)
    console = table_console(140)
    for board in boards:
        console.print(board_table(board))
    if args.published:
        console.print(closed_table(figures["closed"]))
    if args.output is not None:
        from d3llm.evaluation.plots import draw

        args.output.mkdir(parents=True, exist_ok=True)
        for board in boards:
            paths = draw(board, args.output, figures["speed"], figures["closed"])
            console.print(f"{len(paths)} pictures of the table {board.table} in {args.output}")


def show_lengths(args: argparse.Namespace) -> None:
    """Prints, and draws, what one method gains over another by the length of the answer."""
    from d3llm.evaluation.lengths import EDGES, length_gains
    from d3llm.evaluation.result import read_results

    if not args.results:
        raise ValueError("--by-length compares measured results: give their files.")
    edges = EDGES if args.lengths is None else parse_lengths(args.lengths)
    gains = length_gains(read_results(args.results), *args.by_length, edges=edges)
    console = table_console(140)
    for task in dict.fromkeys(gain.task for gain in gains):
        console.print(length_table([gain for gain in gains if gain.task == task]))
    if args.output is not None:
        from d3llm.evaluation.plots import save_lengths

        args.output.mkdir(parents=True, exist_ok=True)
        for path in save_lengths(gains, args.output):
            console.print(f"written to {path}")


def parse_lengths(text: str) -> list[int]:
    """Parses `"32,64"`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--lengths must be whole numbers N,..., got {text!r}.") from error


def parse_y_max(text: str) -> str | dict[str, float]:
    """Parses `"table"`, `"own"`, or values by task such as `"GSM8K-CoT=80,MATH=50"`."""
    if "=" not in text:
        return text
    values = {}
    for part in text.split(","):
        task, _, value = part.partition("=")
        try:
            values[task.strip()] = float(value)
        except ValueError as error:
            raise ValueError(f"--y-max must be table, own or TASK=PERCENT,..., got {part!r}.") from error
    return values


def board_table(board: Board) -> Any:
    """A table of AUP by method and task, with the 95 % bootstrap interval of measured curves."""
    from rich.table import Table

    from d3llm.evaluation.result import short_name

    table = Table(title=f"AUP, table {board.table}", title_justify="left")
    table.add_column("method")
    for task in board.tasks:
        best, title = board.y_max[task], short_name(task)
        table.add_column(title if best is None else f"{title}\n(y_max {best:.2f})", justify="right")
    table.add_column("average", justify="right", style="bold")
    rows = {method: board.rows_per_forward(method) for method in board.methods}
    if any(rows.values()):
        table.add_column("rows per\nforward", justify="right")
    for method in board.methods:
        cells = []
        for task in board.tasks:
            area, interval = board.areas.get((method, task)), board.intervals.get((method, task))
            cell = "" if area is None else f"{area:.1f}"
            cells.append(cell if interval is None else f"{cell} ({interval[0]:.1f} to {interval[1]:.1f})")
        average = board.average(method)
        last = [rows[method]] if any(rows.values()) else []
        table.add_row(short_name(method), *cells, "" if average is None else f"{average:.1f}", *last)
    return table


def length_table(gains: Sequence[LengthGains]) -> Any:
    """A table of what a method gains over another on a task, by the length of the answer."""
    from rich.table import Table

    from d3llm.evaluation.result import short_name

    one, other, task = short_name(gains[0].one), short_name(gains[0].other), short_name(gains[0].task)
    table = Table(title=f"{one} over {other} by the length of {other}'s answers, {task}", title_justify="left")
    table.add_column("point")
    for name in ("tokens", "n", f"TPF of\n{one}", f"TPF of\n{other}", "gain (95 % interval)", "accuracy, points"):
        table.add_column(name, justify="right")
    for gain in gains:
        for group in gain.groups:
            table.add_row(
                " ".join(f"{name}={value}" for name, value in gain.point.items()),
                group.range,
                str(group.problems),
                f"{group.one:.2f}",
                f"{group.other:.2f}",
                with_interval(group.gain, group.gain_interval, "{:.2f}"),
                with_interval(group.change, group.change_interval, "{:+.1f}"),
                end_section=group is gain.groups[-1],
            )
    return table


def with_interval(value: float, interval: tuple[float, float] | None, form: str) -> str:
    """A value with its interval, if it has one."""
    if interval is None:
        return form.format(value)
    low, high = map(form.format, interval)
    return f"{form.format(value)} ({low} to {high})"


def closed_table(closed: dict[str, dict[str, Any]]) -> Any:
    """A table of closed systems, marked as quoted."""
    from rich.table import Table

    table = Table(title="Closed systems: quoted from their makers, not measured, not comparable", title_justify="left")
    table.add_column("system")
    table.add_column("TPS (quoted)", justify="right")
    table.add_column("hardware")
    table.add_column("source")
    for name, system in closed.items():
        table.add_row(name, str(system["tokens_per_second"]), system["hardware"], system["source"])
    return table
