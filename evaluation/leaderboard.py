"""Compares methods by AUP: measured result files and the published tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from .aup.aup import bootstrap_interval, compute_aup, draw_resamples, pieces_above_floor, resampled_points
from .result import Result, by_curve, short_name


MEASURED = "measured"  # the table of results that are not added to another one


@dataclass(frozen=True)
class Point:
    """
    One setting of a method on a task.

    Attributes:
        tokens_per_forward (`float`): TPF.
        accuracy (`float`): In percent.
        tokens_per_second (`float`, *optional*): TPS.
        hardware (`str`, *optional*): The hardware on which the TPS was measured.
        rows_per_forward (`float`, *optional*): Row forwards over forwards; `None` of a published point.
        samples (`dict[str, list]`, *optional*): Per sample `id`, `tokens`, `forwards`, `correct`, for intervals.
    """

    tokens_per_forward: float
    accuracy: float
    tokens_per_second: float | None = None
    hardware: str | None = None
    rows_per_forward: float | None = None
    samples: dict[str, list] | None = None


@dataclass(frozen=True)
class Curve:
    """
    The points of a method on a task.

    Attributes:
        table (`str`): Table in which it is compared.
        task (`str`): Title of the task.
        method (`str`): Name of the method.
        points (`tuple[Point, ...]`): By rising TPF.
        measured (`bool`): Whether it comes from result files rather than from a published table.
        judged_by (`str`, *optional*): Name of the check that the accuracies are by, if it has one.
    """

    table: str
    task: str
    method: str
    points: tuple[Point, ...]
    measured: bool = False
    judged_by: str | None = None

    @property
    def rows_per_forward(self) -> tuple[float, float] | None:
        """The fewest and the most rows per forward of its points; `None` if they are not known."""
        rows = [point.rows_per_forward for point in self.points if point.rows_per_forward is not None]
        return (min(rows), max(rows)) if rows else None


@dataclass(frozen=True)
class Board:
    """
    AUP of every curve of a table.

    Attributes:
        table (`str`): Name of the table.
        tasks (`list[str]`): Titles of the tasks, in the order of their first appearance.
        methods (`list[str]`): Methods by falling average; those that lack a task come last.
        curves (`dict[tuple[str, str], Curve]`): Curves by method and task.
        y_max (`dict[str, float | None]`): Best accuracy of each task that the areas refer to; `None` for each
            method's own.
        pieces (`dict[tuple[str, str], list[list[tuple[float, float]]]]`): What of each curve is above the floor, as
            points (TPF, accuracy).
        areas (`dict[tuple[str, str], float]`): AUP by method and task.
        intervals (`dict[tuple[str, str], tuple[float, float]]`): 95 % bootstrap intervals of measured curves.
        floor_rule (`str`): What happens at the floor, see [`compute_aup`].
    """

    table: str
    tasks: list[str]
    methods: list[str]
    curves: dict[tuple[str, str], Curve]
    y_max: dict[str, float | None]
    pieces: dict[tuple[str, str], list[list[tuple[float, float]]]]
    areas: dict[tuple[str, str], float]
    intervals: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    floor_rule: str = "drop"

    @property
    def judged_by(self) -> str | None:
        """The checks that decided, if they have names."""
        names = dict.fromkeys(curve.judged_by for curve in self.curves.values() if curve.judged_by)
        return " and ".join(names) or None

    def average(self, method: str) -> float | None:
        """Mean AUP over the table's tasks; `None` for a method that lacks one."""
        areas = [self.areas.get((method, task)) for task in self.tasks]
        return None if None in areas else sum(areas) / len(areas)  # type: ignore[arg-type]

    def rows_per_forward(self, method: str) -> str:
        """The rows per forward of a method's points, such as `"7.6"` or `"1.0 to 7.6"`, if any takes more than one
        row; else nothing. AUP counts forwards, whatever their rows."""
        of_tasks = [self.curves[method, task].rows_per_forward for task in self.tasks if (method, task) in self.curves]
        known = [limit for rows in of_tasks if rows is not None for limit in rows]
        if not known or max(known) == 1:
            return ""
        low, high = f"{min(known):.1f}", f"{max(known):.1f}"
        return low if low == high else f"{low} to {high}"


def published() -> dict[str, Any]:
    """The published figures, see `published.yaml`: `tables`, `speed` and `closed`."""
    import yaml

    return yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))


def published_curves() -> list[Curve]:
    """The curves of the published tables."""
    return [
        Curve(table, task, method, tuple(Point(*point) for point in points))
        for table, tasks in published()["tables"].items()
        for task, methods in tasks.items()
        for method, points in methods.items()
    ]


def result_curves(results: Sequence[Result], table: str = MEASURED) -> list[Curve]:
    """
    Groups results into curves, see [`by_curve`].

    Args:
        results (`Sequence[Result]`): The results.
        table (`str`, *optional*, defaults to `"measured"`): Table to add them to.

    Returns:
        `list[Curve]`: The curves.

    Raises:
        `ValueError`: For points of one curve on different samples, and results of a task by different checks.
    """
    return [
        Curve(table, task, method, tuple(map(_point, points)), measured=True, judged_by=points[0].judged_by)
        for (task, method), points in by_curve(results).items()
    ]


def _point(result: Result) -> Point:
    return Point(
        result.tokens_per_forward or 0.0,
        result.accuracy_percent,
        result.tokens_per_second,
        result.hardware["device"],
        result.rows_per_forward,
        cast(dict[str, list], result.samples),
    )


def make_boards(
    curves: Sequence[Curve],
    y_max: str | Mapping[str, float | None] = "table",
    baseline: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    floor_rule: str = "drop",
) -> list[Board]:
    """
    Computes the AUP of every curve, table by table.

    Args:
        curves (`Sequence[Curve]`): The curves.
        y_max (`str` or `Mapping[str, float]`, *optional*, defaults to `"table"`):
            Best accuracy that the areas refer to. `"table"`: the best of all methods in the table, as published, so
            that a new competitor changes all other scores. `"own"`: each method's own best. Or fixed values by task,
            in percent, which do not depend on the other methods; a task without a value is an error.
        baseline (`str`, *optional*): Method whose first point sets the floor below which points are dropped.
        resamples (`int`, *optional*, defaults to 1000): Number of resamples for the intervals of measured curves; 0
            for no intervals.
        seed (`int`, *optional*, defaults to 0): Seed of the resamples.
        floor_rule (`str`, *optional*, defaults to `"drop"`): What happens at the floor: `"drop"`, as published, or
            `"cross"`; see [`compute_aup`].

    Returns:
        `list[Board]`: The tables.

    Raises:
        `ValueError`: For an unknown convention, a task without a fixed value or baseline, and two curves of a method
            on one task.
    """
    boards = []
    for table in dict.fromkeys(curve.table for curve in curves):
        in_table = [curve for curve in curves if curve.table == table]
        by_key: dict[tuple[str, str], Curve] = {}
        for curve in in_table:
            if by_key.setdefault((curve.method, curve.task), curve) is not curve:
                raise ValueError(
                    f"The table {table} has two curves of {short_name(curve.method)} on {short_name(curve.task)}: "
                    "give the measured curve another name (--method)."
                )
        tasks = list(dict.fromkeys(curve.task for curve in in_table))
        best = {task: best_accuracy(y_max, task, [each for each in in_table if each.task == task]) for task in tasks}
        pieces, areas, intervals = {}, {}, {}
        for key, curve in by_key.items():
            floor: dict[str, Any] = {"floor_rule": floor_rule}
            if baseline is not None:
                if (baseline, curve.task) not in by_key:
                    raise ValueError(f"The baseline {baseline!r} has no points on {curve.task} in the table {table}.")
                base = by_key[baseline, curve.task].points[0]
                floor["baseline_accuracy"] = base.accuracy
            points = (
                [point.tokens_per_forward for point in curve.points],
                [point.accuracy for point in curve.points],
            )
            pieces[key] = pieces_above_floor(*points, **floor)
            areas[key] = compute_aup(*points, y_max=best[curve.task], **floor)
            if curve.measured and resamples:
                if baseline is not None:
                    floor["baseline_accuracy"] = resampled_accuracy(base, curve, resamples, seed)
                intervals[key] = bootstrap_interval(
                    **_columns(curve.points), resamples=resamples, seed=seed, y_max=best[curve.task], **floor
                )
        board = Board(table, tasks, [], by_key, best, pieces, areas, intervals, floor_rule)
        methods = list(dict.fromkeys(curve.method for curve in in_table))
        board.methods.extend(sorted(methods, key=lambda method: -(board.average(method) or -1)))
        boards.append(board)
    return boards


def _columns(points: Sequence[Point]) -> dict[str, Any]:
    return {name: [point.samples[name] for point in points] for name in ("tokens", "forwards", "correct")}  # type: ignore[index]


def resampled_accuracy(base: Point, curve: Curve, resamples: int, seed: int) -> np.ndarray | float:
    """
    The accuracy that sets the floor of a curve, in each resample: problems that are hard for all take no curve below
    it.

    Args:
        base ([`Point`]): The point that sets it.
        curve ([`Curve`]): The curve, measured.
        resamples (`int`), seed (`int`): As for [`make_boards`].

    Returns:
        `np.ndarray` of shape `(resamples, 1)`, in percent. Of a point that was not measured on the problems of the
        curve, its accuracy.
    """
    of_curve = curve.points[0].samples or {}
    if base.samples is None or base.samples["id"] != of_curve["id"]:
        return base.accuracy
    return resampled_points(**_columns([base]), draws=draw_resamples(len(of_curve["id"]), resamples, seed))[1]


def best_accuracy(y_max: str | Mapping[str, float | None], task: str, curves: Sequence[Curve]) -> float | None:
    """
    The accuracy that the areas of a task refer to.

    Args:
        y_max (`str` or `Mapping[str, float | None]`): The convention, see [`make_boards`], or the values of a board.
        task (`str`): Title of the task.
        curves (`Sequence[Curve]`): All curves of the table on this task.

    Returns:
        `float`, *optional*: In percent; `None` for each method's own.

    Raises:
        `ValueError`: For an unknown convention, and a task without a fixed value.
    """
    if isinstance(y_max, str):
        if y_max not in ("table", "own"):
            raise ValueError(f"Unknown convention {y_max!r} of y_max: expected table, own, or values by task.")
        return None if y_max == "own" else max(point.accuracy for c in curves for point in c.points) or None
    if task not in y_max:
        raise ValueError(f"There is no y_max for the task {task}: give {task}=VALUE.")
    return y_max[task]
