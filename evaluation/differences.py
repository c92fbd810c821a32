"""Differences between two methods, with intervals by paired resampling of problems and runs."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from .leaderboard import best_accuracy, result_curves
from .resampling import Estimate, ResampledCurve, Resampling
from .result import Result, by_curve, short_name


@dataclass(frozen=True)
class Difference:
    """
    What one method has more of than another. A value is the mean over the runs of a method.

    Attributes:
        task (`str`): Title of the task.
        quantity (`str`): `"AUP"`, `"accuracy"` in percent, or `"TPF"`.
        point (`dict[str, Any]`): The swept fields of the compared points; of AUP empty.
        one (`float`), other (`float`): The values of the methods.
        difference ([`Estimate`]): The first minus the second, with its interval.
        runs (`tuple[int, int]`): How many runs of each there are.
    """

    task: str
    quantity: str
    point: dict[str, Any]
    one: float
    other: float
    difference: Estimate
    runs: tuple[int, int] = (1, 1)

    @property
    def shown(self) -> bool:
        """Whether it is one: its interval leaves out zero."""
        return self.difference.leaves_out_zero


def method_differences(
    results: Sequence[Result],
    one: str,
    other: str,
    *,
    y_max: str | Mapping[str, float | None] = "table",
    baseline: str | None = None,
    floor_rule: str = "drop",
    resampling: Resampling | None = None,
) -> list[Difference]:
    """
    Compares two methods.

    Each resample draws problems, the same for all curves, and runs of each method: equally many runs of both are
    pairs in the order of their names, and drawn as such. Accuracy and TPF are compared where all curves have a point
    with the same values; a curve of a single point, such as a teacher with one token per forward, is compared with
    each point.

    Args:
        results (`Sequence[Result]`): Results of both methods, and of all that `y_max` refers to.
        one (`str`), other (`str`): A method, or a pattern such as `"student-?-d3llm"` for several runs of one.
        y_max (`str` or `Mapping[str, float | None]`, *optional*, defaults to `"table"`): As for [`make_boards`], or
            the `y_max` of a board.
        baseline (`str`, *optional*): As for [`make_boards`]; in each resample the floor is below its accuracy there.
        floor_rule (`str`, *optional*, defaults to `"drop"`): As for [`compute_aup`].
        resampling ([`Resampling`], *optional*): How intervals are made.

    Returns:
        `list[Difference]`: AUP, then accuracy and TPF by point, for each task that both were measured on.

    Raises:
        `ValueError`: For a method without results, one that is in both, no task in common, and different problems.
    """
    resampling = resampling or Resampling()
    curves = by_curve(results)
    methods = list(dict.fromkeys(method for _, method in curves))
    sides = [runs_of(methods, name) for name in (one, other)]
    both = sorted(set(sides[0]) & set(sides[1]))
    if both:
        raise ValueError(f"{short_name(both[0])} is both {one!r} and {other!r}: a method differs from others alone.")
    found = []
    for title in dict.fromkeys(task for task, _ in curves):
        runs = [[curves[title, method] for method in side if (title, method) in curves] for side in sides]
        if not all(runs):
            continue
        _check_problems([run for side in runs for run in side])
        table = [curve for curve in result_curves(results) if curve.task == title]
        anchor: dict[str, Any] = {"y_max": best_accuracy(y_max, title, table), "floor_rule": floor_rule}
        base = None
        if baseline is not None:
            if (title, baseline) not in curves:
                raise ValueError(f"The baseline {baseline!r} has no points on {title}: add its files.")
            base = curves[title, baseline][0]
            _check_problems([*runs[0], [base]])
        resampled = [[ResampledCurve.of(run, resampling, base, **anchor) for run in side] for side in runs]
        found += _of_task(title, resampled, resampling)
    if not found:
        raise ValueError(f"{one!r} and {other!r} were measured on no task in common.")
    return found


def runs_of(methods: Sequence[str], name: str) -> list[str]:
    """
    The methods that a name means.

    Args:
        methods (`Sequence[str]`): All there are.
        name (`str`): The name of one, or a pattern with `*` and `?`.

    Returns:
        `list[str]`: In the order of their names.

    Raises:
        `ValueError`: If there is none.
    """
    found = [name] if name in methods else sorted(fnmatch.filter(methods, name))
    if not found:
        raise ValueError(f"There are no results of {name!r}: expected one of {', '.join(map(short_name, methods))}.")
    return found


def _of_task(title: str, sides: Sequence[Sequence[ResampledCurve]], resampling: Resampling) -> list[Difference]:
    """The differences of two methods on one task, each given by the curves of its runs."""
    counts = len(sides[0]), len(sides[1])
    streams = (0, 0) if counts[0] == counts[1] else (0, 1)

    def compare(
        quantity: str, point: dict[str, Any], values: list[list[float]], resampled: list[list[np.ndarray]]
    ) -> Difference:
        means = [mean(of_runs) for of_runs in values]
        drawn = [resampling.draw_runs(of_runs, stream) for of_runs, stream in zip(resampled, streams, strict=True)]
        estimate = resampling.estimate(means[0] - means[1], drawn[0] - drawn[1])
        return Difference(title, quantity, point, means[0], means[1], estimate, counts)

    found = [compare("AUP", {}, [[r.area for r in s] for s in sides], [[r.areas for r in s] for s in sides])]
    for point in _common_points([run.results for runs in sides for run in runs]):
        at = [[(run, _place(run.results, point)) for run in runs] for runs in sides]
        found.append(
            compare(
                "accuracy",
                point,
                [[run.results[place].accuracy_percent for run, place in side] for side in at],
                [[run.accuracy[:, place] for run, place in side] for side in at],
            )
        )
        found.append(
            compare(
                "TPF",
                point,
                [[run.results[place].tokens_per_forward or 0.0 for run, place in side] for side in at],
                [[run.tokens_per_forward[:, place] for run, place in side] for side in at],
            )
        )
    return found


def _common_points(curves: Sequence[Sequence[Result]]) -> list[dict[str, Any]]:
    """The points that all curves with several of them have; if none has several, the only one there is."""
    several = [curve for curve in curves if len(curve) > 1] or curves[:1]
    return [
        result.point for result in several[0] if all(any(r.point == result.point for r in curve) for curve in several)
    ]


def _place(curve: Sequence[Result], point: dict[str, Any]) -> int:
    return 0 if len(curve) == 1 else next(place for place, result in enumerate(curve) if result.point == point)


def _check_problems(curves: Sequence[Sequence[Result]]) -> None:
    """Raises when curves are not on the same problems: only then can they be resampled as pairs."""
    for curve in curves:
        if curve[0].problems != curves[0][0].problems:
            raise ValueError(
                f"{short_name(curve[0].method)} and {short_name(curves[0][0].method)} were measured on different "
                "problems: measure both on the same."
            )
