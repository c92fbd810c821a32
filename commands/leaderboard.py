"""`d3llm leaderboard`: AUP of measured results and of the published tables, as tables and pictures."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tables import table_console


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from d3llm.evaluation.differences import Difference
    from d3llm.evaluation.factors import Factors
    from d3llm.evaluation.leaderboard import Board
    from d3llm.evaluation.lengths import LengthGains
    from d3llm.evaluation.resampling import Estimate, Resampling
    from d3llm.evaluation.result import Result

FLOOR_RULES = {"drop": ("drop",), "cross": ("cross",), "both": ("drop", "cross")}
FLOOR_RULE, Y_MAX = "drop", "table"  # by default


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("leaderboard", help="compare methods by AUP, with pictures")
    parser.add_argument(
        "results", nargs="*", type=Path, metavar="RESULT", help="result files of `d3llm eval`, or folders of them"
    )
    parser.add_argument("--published", action="store_true", help="show the published tables as well")
    parser.add_argument("--join", metavar="TABLE", help="add the results to a published table: LLaDA, Dream, Coder")
    parser.add_argument(
        "--y-max",
        default=Y_MAX,
        metavar="HOW",
        help="best accuracy that AUP refers to: table (the best of all methods, as published), own (each method's), "
        "or TASK=PERCENT,... (default: %(default)s)",
    )
    parser.add_argument(
        "--baseline",
        metavar="METHOD|RESULT",
        help="the teacher with one token per forward, by the name of its method or as its result files: drop points "
        "more than 5 %% below it, and tell how many times its AUP a curve has, by decoder and by distillation",
    )
    parser.add_argument(
        "--floor-rule",
        choices=FLOOR_RULES,
        default=FLOOR_RULE,
        help="drop points below the floor of AUP, as published, cut the curves where they cross it, or show both "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--difference",
        nargs=2,
        action="append",
        default=[],
        metavar=("ONE", "OTHER"),
        help="compare two methods by paired resampling; a pattern such as 'student-?-d3llm' is several runs of one",
    )
    parser.add_argument(
        "--judged-by", metavar="CHECK", help="let this check of the task decide (default: the task's own)"
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="resamples of an interval (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the resamples (default: %(default)s)"
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
    if args.output is not None:
        from d3llm.common.files import check_folder_to_be

        check_folder_to_be(args.output)
    if args.by_length is not None:
        show_lengths(args)
        return
    if args.lengths is not None:
        raise ValueError("--lengths is for --by-length: give both.")
    from d3llm.evaluation.leaderboard import MEASURED, make_boards, published, published_curves, result_curves
    from d3llm.evaluation.resampling import Resampling

    figures = published()
    if args.join is not None and (not args.published or args.join not in figures["tables"]):
        raise ValueError(f"--join must be one of {', '.join(figures['tables'])}, together with --published.")
    results, baseline = read_arguments(args)
    y_max, resampling = parse_y_max(args.y_max), Resampling(args.resamples, args.seed)
    table = args.join or MEASURED
    curves = result_curves(results, table) + (published_curves() if args.published else [])
    console = table_console(180)
    for number, rule in enumerate(FLOOR_RULES[args.floor_rule]):
        anchor: dict[str, Any] = {"baseline": baseline, "floor_rule": rule}
        boards = make_boards(curves, y_max, resamples=args.resamples, seed=args.seed, **anchor)
        for board in boards:
            console.print(board_table(board))
        for judged in by_further_checks(results):
            for board in make_boards(result_curves(judged), y_max, resamples=args.resamples, seed=args.seed, **anchor):
                console.print(board_table(board))
        best = next((board.y_max for board in boards if board.table == table), {})
        compare(console, results, args.difference, best, resampling, **anchor)
        if args.output is not None and number == 0:
            draw_boards(console, boards, args.output, figures)
    if args.published:
        console.print(closed_table(figures["closed"]))


def read_arguments(args: argparse.Namespace) -> tuple[list[Result], str | None]:
    """The results that the arguments name, judged as they say, and the name of the baseline."""
    from d3llm.evaluation.result import by_curve, read_results

    results = read_results(args.results) if args.results else []
    baseline = args.baseline
    if baseline is not None and baseline not in {result.method for result in results} and Path(baseline).exists():
        known = {result.file and result.file.resolve() for result in results}
        of_teacher = read_results([Path(baseline)])
        slowest = min(of_teacher, key=lambda result: result.tokens_per_forward or float("inf"))
        baseline = slowest.method
        results += [result for result in of_teacher if result.file and result.file.resolve() not in known]
    if args.judged_by is not None:
        results = [result.judged(args.judged_by) for result in results]
    if not results and not args.published:
        raise ValueError("Nothing to show: give result files, --published, or both.")
    if args.difference and not results:
        raise ValueError("--difference compares measured results: give their files.")
    if results and not by_curve(results):
        raise ValueError(f"No results in {', '.join(map(str, args.results))}: give result files of `d3llm eval`.")
    return results, baseline


def by_further_checks(results: Sequence[Result]) -> Iterator[list[Result]]:
    """The results by each further check that says other than the deciding one of some of them."""
    for name in dict.fromkeys(name for result in results for name in result.differing_percent):
        yield [result.judged(name) for result in results if name in (result.further_accuracy or {})]


def compare(
    console: Console,
    results: list[Result],
    pairs: list[list[str]],
    best: dict[str, float | None],
    resampling: Resampling,
    *,
    baseline: str | None,
    floor_rule: str,
) -> None:
    """Prints the factors over a measured baseline, and the differences that are asked for."""
    from d3llm.evaluation.differences import method_differences
    from d3llm.evaluation.factors import curve_factors

    options: dict[str, Any] = {"y_max": best, "floor_rule": floor_rule, "resampling": resampling}
    if baseline is not None and any(result.method == baseline for result in results):
        factors = curve_factors(results, baseline, **options)
        for task in dict.fromkeys(factor.task for factor in factors):
            console.print(factor_table(baseline, [factor for factor in factors if factor.task == task]))
    for one, other in pairs:
        found = method_differences(results, one, other, baseline=baseline, **options)
        console.print(difference_table(one, other, found, resampling))


def draw_boards(console: Console, boards: Sequence[Board], folder: Path, figures: dict[str, Any]) -> None:
    """Draws the pictures of tables and says where they are."""
    from d3llm.evaluation.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    for board in boards:
        paths = draw(board, folder, figures["speed"], figures["closed"])
        console.print(f"{len(paths)} pictures of the table {board.table} in {folder}")


def show_lengths(args: argparse.Namespace) -> None:
    """Prints, and draws, what one method gains over another by the length of the answer."""
    from d3llm.evaluation.lengths import EDGES, length_gains
    from d3llm.evaluation.result import read_results

    if not args.results:
        raise ValueError("--by-length compares measured results: give their files.")
    without: dict[str, Any] = {"baseline": None, "difference": [], "join": None, "published": False}
    for name, default in (without | {"floor_rule": FLOOR_RULE, "y_max": Y_MAX}).items():
        if getattr(args, name) != default:
            raise ValueError(f"--by-length takes no --{name.replace('_', '-')}: leave one of them out.")
    edges = EDGES if args.lengths is None else parse_lengths(args.lengths)
    results = [result.judged(args.judged_by) if args.judged_by else result for result in read_results(args.results)]
    gains = length_gains(results, *args.by_length, edges=edges, resamples=args.resamples, seed=args.seed)
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
    for part in re.findall(r".*?=[^,=]*(?:,|$)|.+", text):  # titles of tasks have commas too
        task, _, value = part.rstrip(",").partition("=")
        try:
            values[task.strip()] = float(value)
        except ValueError as error:
            raise ValueError(f"--y-max must be table, own or TASK=PERCENT,..., got {part!r}.") from error
    return values


def board_table(board: Board) -> Any:
    """A table of AUP by method and task, with the 95 % bootstrap interval of measured curves."""
    from rich.table import Table

    from d3llm.evaluation.result import short_name

    judged = f", by {short_name(board.judged_by)}" if board.judged_by else ""
    cut = ", cut at the floor" if board.floor_rule == "cross" else ""
    table = Table(title=f"AUP, table {board.table}{judged}{cut}", title_justify="left")
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


def factor_table(baseline: str, factors: Sequence[Factors]) -> Any:
    """A table of AUP over a baseline's on one task, with both anchors, as decoder times distillation."""
    from rich.table import Table

    from d3llm.evaluation.result import short_name

    first = factors[0]
    own = f"TPF {first.baseline_tokens_per_forward:.2f}"
    said = f"{first.baseline_accuracy:.1f}% at {own}, which the paper counts as 1.00"
    title = f"Times the AUP of {short_name(baseline)} on {short_name(first.task)} ({said})"
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    columns = (f"anchor\n{own}", "anchor\nTPF 1.00", f"decoder,\n{own}", "decoder,\nTPF 1.00", "distillation")
    for name in ("AUP", *columns):
        table.add_column(name, justify="right")
    for factor in factors:
        decoder = factor.decoder
        of_decoder = ["", ""] if decoder is None else [estimate(decoder.own), estimate(decoder.paper)]
        table.add_row(
            short_name(factor.method),
            estimate(factor.area, 1),
            estimate(factor.total.own),
            estimate(factor.total.paper),
            *of_decoder,
            estimate(factor.distillation),
        )
    return table


def difference_table(one: str, other: str, differences: Sequence[Difference], resampling: Resampling) -> Any:
    """A table of what one method has more of than another."""
    from rich.table import Table

    from d3llm.evaluation.result import short_name

    runs = max((difference.runs for difference in differences), default=(1, 1))
    drawn = f"problems, and of {runs[0]} and {runs[1]} runs" if max(runs) > 1 else "problems"
    said = f"{resampling.resamples} resamples of {drawn}"
    table = Table(title=f"{short_name(one)} minus {short_name(other)} ({said})", title_justify="left")
    for name in ("task", "what", "at"):
        table.add_column(name)
    for name in (short_name(one), short_name(other), f"difference ({100 * resampling.level:g} % interval)"):
        table.add_column(name, justify="right")
    table.add_column("")
    for found in differences:
        digits = 2 if found.quantity == "TPF" else 1
        table.add_row(
            short_name(found.task),
            found.quantity,
            " ".join(f"{name}={value}" for name, value in found.point.items()),
            f"{found.one:.{digits}f}",
            f"{found.other:.{digits}f}",
            estimate(found.difference, digits, sign="+"),
            "a difference" if found.shown else "no difference shown",
        )
    return table


def estimate(value: Estimate | None, digits: int = 2, sign: str = "") -> str:
    """A value with its interval as text; nothing where there is none."""
    return "" if value is None else with_interval(value.value, (value.low, value.high), f"{{:{sign}.{digits}f}}")


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
