"""Pictures of a leaderboard, as PNG and SVG. Lines, markers and hatches distinguish the methods without colour."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
from matplotlib.figure import Figure

from ..common.files import write_atomically
from .aup.aup import weight
from .leaderboard import Board, make_boards, result_curves
from .lengths import LengthGains
from .result import Result, short_name


MARKERS = "oDs^vP*Xh"
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
IN_PANEL = 9  # curves whose legend has room within a panel
HATCHES = ("", "///", "...", "\\\\\\", "xx", "++", "oo", "--")


def draw(
    board: Board, folder: Path, speed: Mapping[str, Mapping[str, float]], closed: Mapping[str, Any]
) -> list[Path]:
    """
    Draws every picture that a table has data for.

    Args:
        board ([`~d3llm.evaluation.leaderboard.Board`]): The table.
        folder (`Path`): Folder for `NAME-TABLE.png` and `NAME-TABLE.svg`.
        speed (`Mapping[str, Mapping[str, float]]`): Published tokens per second on the first task, by hardware and
            method.
        closed (`Mapping[str, Any]`): Closed systems, with `tokens_per_second` and `hardware`.

    Returns:
        `list[Path]`: The written files.
    """
    figures = {"curves": draw_curves(board), "bars": draw_bars(board)}
    if len(board.tasks) >= 3:
        figures["radar"] = draw_radar(board)
    speeds = speed_points(board, speed)
    if speeds:
        figures["speed"] = draw_speed(board, speeds, closed)
    return [path for name, figure in figures.items() for path in save(figure, folder / f"{name}-{board.table}")]


def curves_png(results: Sequence[Result]) -> bytes:
    """
    Draws measured accuracy against TPF. The AUP of each curve is relative to its own best accuracy.

    Args:
        results (`Sequence[Result]`): The results.

    Returns:
        `bytes`: A PNG file.
    """
    (board,) = make_boards(result_curves(results), "own", resamples=0)
    file = io.BytesIO()
    draw_curves(board).savefig(file, format="png", dpi=150, bbox_inches="tight")
    return file.getvalue()


def style(board: Board, method: str) -> dict[str, Any]:
    """Colour, marker, line and hatch of a method, the same in all pictures of the table."""
    index = board.methods.index(method)
    shade = 0.85 * index / max(1, len(board.methods) - 1)
    return {
        "color": matplotlib.colormaps["viridis"](shade),
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "hatch": HATCHES[index % len(HATCHES)],
    }


def caption(name: str) -> str:
    """A name as text in a picture: shortened, and with dollars escaped, which would start a formula."""
    return short_name(name).replace("$", r"\$")


def label(board: Board, method: str) -> str:
    """A method in a legend, with its rows per forward if they are more than one."""
    rows = board.rows_per_forward(method)
    return caption(method) + (f" ({rows} rows per forward)" if rows else "")


def draw_curves(board: Board) -> Figure:
    """Accuracy against TPF, one panel per task. The shaded area is the AUP of the best method."""
    columns = min(3, len(board.tasks))
    rows = math.ceil(len(board.tasks) / columns)
    beside = len(board.methods) > IN_PANEL
    height = 0.8 + 0.17 * len(board.methods) if beside else 4.0
    figure = _figure((8.0 if beside else 5.2) * columns, max(4.0, height) * rows)
    for number, task in enumerate(board.tasks):
        axes = figure.add_subplot(rows, columns, number + 1)
        methods = sorted(
            (method for method in board.methods if (method, task) in board.areas),
            key=lambda method: -board.areas[method, task],
        )
        for method in methods:
            points = board.curves[method, task].points
            look = style(board, method)
            axes.plot(
                [point.tokens_per_forward for point in points],
                [point.accuracy for point in points],
                color=look["color"],
                marker=look["marker"],
                linestyle=look["linestyle"],
                label=f"{label(board, method)}: {board.areas[method, task]:.1f}",
                zorder=3,
            )
            kept = [point for piece in board.pieces[method, task] for point in piece]
            dropped = [(p.tokens_per_forward, p.accuracy) for p in points]
            dropped = [point for point in dropped if point not in kept]
            axes.plot(
                [parallelism for parallelism, _ in dropped],
                [accuracy for _, accuracy in dropped],
                color=look["color"],
                marker=look["marker"],
                markerfacecolor="white",
                linestyle="",
                zorder=4,
            )
        _shade_area(axes, board, methods[0], task)
        axes.set_xlim(left=0)
        axes.set_title(caption(task))
        axes.set_xlabel("tokens per forward")
        axes.set_ylabel(f"accuracy by {caption(board.judged_by)} (%)" if board.judged_by else "accuracy (%)")
        axes.grid(color="0.88", linewidth=0.6)
        place: dict[str, Any] = (
            {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if beside else {"loc": "lower right"}
        )
        axes.legend(title="AUP", fontsize=7, title_fontsize=8, **place)
    figure.supxlabel(
        "shaded: the AUP of the best method, under its weighted accuracy (dotted)\n"
        "hollow: points below the floor, which do not count; the accuracy axis does not start at 0",
        fontsize=8,
    )
    return figure


def _shade_area(axes: Any, board: Board, method: str, task: str) -> None:
    """Shades the AUP of a method, and starts the accuracy axis just below the lowest value shown."""
    curves = [curve for (_, other), curve in board.curves.items() if other == task]
    accuracies = [point.accuracy for curve in curves for point in curve.points]
    pieces = board.pieces[method, task]
    best = board.y_max[task] or max(point.accuracy for point in board.curves[method, task].points) or 1.0
    weighted = [[y * weight(y, best) for _, y in piece] for piece in pieces]
    lowest = min([y for piece in weighted for y in piece] + accuracies)
    axes.set_ylim(max(0, 5 * math.floor(lowest / 5) - 5), min(102.0, max(accuracies) + 3))
    if pieces:
        (parallelism, y), *_ = pieces[0]
        axes.fill_between([0, parallelism], y, color="0.87", zorder=0, linewidth=0)
    for piece, heights in zip(pieces, weighted, strict=True):
        if len(piece) > 1:
            positions = [tokens_per_forward for tokens_per_forward, _ in piece]
            axes.fill_between(positions, heights, color="0.87", zorder=0, linewidth=0)
            axes.plot(positions, heights, color="0.4", linewidth=0.8, linestyle=":", zorder=1)


def draw_bars(board: Board) -> Figure:
    """AUP by task and method, with intervals for measured curves."""
    figure = _figure(2.6 + 2.3 * len(board.tasks), 4.2)
    axes = figure.add_subplot()
    width = 0.86 / len(board.methods)
    for index, method in enumerate(board.methods):
        look = style(board, method)
        present = [(place, task) for place, task in enumerate(board.tasks) if (method, task) in board.areas]
        positions = [place + (index - (len(board.methods) - 1) / 2) * width for place, _ in present]
        heights = [board.areas[method, task] for _, task in present]
        axes.bar(
            positions,
            heights,
            width,
            color=look["color"],
            hatch=look["hatch"],
            edgecolor="white",
            label=label(board, method),
        )
        tops = list(heights)
        for number, (_, task) in enumerate(present):
            if (method, task) in board.intervals:
                low, tops[number] = board.intervals[method, task]
                axes.plot([positions[number]] * 2, [low, tops[number]], color="black", linewidth=1, marker="_")
        for position, height, top in zip(positions, heights, tops, strict=True):
            axes.annotate(
                f"{height:.0f}", (position, top), (0, 3), textcoords="offset points", ha="center", fontsize=6
            )
    axes.set_xticks(range(len(board.tasks)), [caption(task) for task in board.tasks])
    axes.set_ylabel("AUP")
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.88", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def draw_radar(board: Board) -> Figure:
    """AUP of each task as a share of the best method's."""
    figure = _figure(7.4, 5.4)
    axes: Any = figure.add_subplot(projection="polar")
    angles = [2 * math.pi * number / len(board.tasks) for number in range(len(board.tasks))]
    best = [max(area for (_, other), area in board.areas.items() if other == task) or 1.0 for task in board.tasks]
    for method in board.methods:
        if board.average(method) is None:
            continue
        look = style(board, method)
        shares = [board.areas[method, task] / top for task, top in zip(board.tasks, best, strict=True)]
        axes.plot(
            angles + angles[:1],
            shares + shares[:1],
            color=look["color"],
            marker=look["marker"],
            linestyle=look["linestyle"],
            label=label(board, method),
        )
    axes.set_xticks(
        angles, [f"{caption(task)}\n(best {top:.0f})" for task, top in zip(board.tasks, best, strict=True)]
    )
    axes.tick_params(axis="x", pad=16)
    axes.set_theta_offset(math.pi / 2)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["25 %", "50 %", "75 %", "100 %"], fontsize=7)
    axes.set_rlabel_position(180 / len(board.tasks))
    axes.grid(color="0.85", linewidth=0.6)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.16, 1.05))
    return figure


def speed_points(board: Board, speed: Mapping[str, Mapping[str, float]]) -> dict[str, list[tuple[str, float, float]]]:
    """
    Points (method, TPS, accuracy) on the table's first task. Each panel shows only one kind of hardware.

    Args:
        board ([`~d3llm.evaluation.leaderboard.Board`]): The table.
        speed (`Mapping[str, Mapping[str, float]]`): Published tokens per second of each method's fastest point.

    Returns:
        `dict[str, list[tuple[str, float, float]]]`: Points by hardware.
    """
    task = board.tasks[0]
    points: dict[str, list[tuple[str, float, float]]] = {}
    for (method, of_task), curve in board.curves.items():
        if of_task != task:
            continue
        if curve.measured:
            for point in curve.points:
                if point.hardware is not None and point.tokens_per_second is not None:
                    row = (method, point.tokens_per_second, point.accuracy)
                    points.setdefault(point.hardware, []).append(row)
        else:
            for hardware, methods in speed.items():
                if method in methods:
                    points.setdefault(hardware, []).append((method, methods[method], curve.points[-1].accuracy))
    return points


def draw_speed(
    board: Board, speeds: Mapping[str, list[tuple[str, float, float]]], closed: Mapping[str, Any]
) -> Figure:
    """Accuracy against tokens per second, one panel per hardware. Closed systems are lines at the quoted speed."""
    figure = _figure(6.2 * len(speeds), 4.4)
    for number, (hardware, points) in enumerate(speeds.items()):
        axes = figure.add_subplot(1, len(speeds), number + 1)
        for method in board.methods:
            method_points = sorted((tps, accuracy) for name, tps, accuracy in points if name == method)
            if method_points:
                look = style(board, method)
                axes.plot(
                    *zip(*method_points, strict=True),
                    color=look["color"],
                    marker=look["marker"],
                    linestyle=look["linestyle"] if len(method_points) > 1 else "",
                    label=caption(method),
                )
        for name, system in closed.items():
            if system["hardware"] == hardware:
                axes.axvline(system["tokens_per_second"], color="0.5", linestyle=(0, (1, 2)))
                axes.annotate(
                    f"{name}: {system['tokens_per_second']} (quoted)",
                    (system["tokens_per_second"], 0.03),
                    (-3, 0),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    rotation=90,
                    ha="right",
                    fontsize=7,
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.set_xlabel(f"tokens per second, {caption(hardware)}")
        axes.set_ylabel(f"accuracy on {caption(board.tasks[0])} (%)")
        axes.grid(color="0.88", linewidth=0.6)
        axes.legend(fontsize=7)
    return figure


def save_lengths(gains: Sequence[LengthGains], folder: Path) -> list[Path]:
    """
    Draws what a method gains over another by the length of the answer, one panel per task.

    Args:
        gains (`Sequence[LengthGains]`): The points of two methods, see [`~d3llm.evaluation.lengths.length_gains`].
        folder (`Path`): Folder for `lengths.png` and `lengths.svg`.

    Returns:
        `list[Path]`: The written files.
    """
    return save(draw_lengths(gains), folder / "lengths")


def draw_lengths(gains: Sequence[LengthGains]) -> Figure:
    """How many times the tokens per forward, against the length of the answer: a line per point."""
    tasks = list(dict.fromkeys(gain.task for gain in gains))
    figure = _figure(5.6 * len(tasks), 4.2)
    for number, task in enumerate(tasks):
        axes = figure.add_subplot(1, len(tasks), number + 1)
        of_task = [gain for gain in gains if gain.task == task]
        for index, gain in enumerate(of_task):
            groups = gain.groups
            ends = [group.gain_interval or (group.gain, group.gain) for group in groups]
            axes.errorbar(
                [group.tokens for group in groups],
                [group.gain for group in groups],
                [
                    [group.gain - low for group, (low, _) in zip(groups, ends, strict=True)],
                    [high - group.gain for group, (_, high) in zip(groups, ends, strict=True)],
                ],
                color=matplotlib.colormaps["viridis"](0.85 * index / max(1, len(of_task) - 1)),
                marker=MARKERS[index % len(MARKERS)],
                linestyle=LINES[index % len(LINES)],
                linewidth=1,
                capsize=2,
                label=caption(", ".join(f"{name} {value}" for name, value in gain.point.items()) or gain.one),
            )
        axes.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
        axes.set_title(caption(task))
        axes.set_xlabel(f"tokens of the answers of {caption(gains[0].other)}, mean of a group")
        axes.set_ylabel(f"TPF of {caption(gains[0].one)} over its TPF")
        axes.grid(color="0.88", linewidth=0.6)
        axes.legend(fontsize=7)
    figure.supxlabel("bars: 95 % paired bootstrap over the problems of a group", fontsize=8)
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")  # not from pyplot, which looks for a display


def save(figure: Figure, stem: Path) -> list[Path]:
    """
    Saves a picture as PNG and SVG.

    Args:
        figure (`Figure`): The picture.
        stem (`Path`): The files without their suffix.

    Returns:
        `list[Path]`: The files.

    Raises:
        `OSError`: If they cannot be written.
    """
    paths = []
    for kind, options in (("png", {"dpi": 150}), ("svg", {"metadata": {"Date": None}})):
        path, content = stem.with_name(f"{stem.name}.{kind}"), io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "d3llm"}):
            figure.savefig(content, format=kind, bbox_inches="tight", **options)
        write_atomically(path, content.getvalue())
        paths.append(path)
    return paths
