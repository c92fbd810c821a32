"""`d3llm leaderboard`: AUP of measured results and of the published tables, as tables and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tables import table_console


if TYPE_CHECKING:
    from d3llm.evaluation.leaderboard import Board


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
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the pictures, PNG and SVG")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
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
