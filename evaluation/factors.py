"""How many times a teacher's AUP a curve has, and which part of it is the decoder's and which that of distillation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .leaderboard import best_accuracy, result_curves
from .resampling import Estimate, ResampledCurve, Resampling
from .result import Result, by_curve, short_name


PAPER_TOKENS_PER_FORWARD = 1.0  # of one-token decoding, as d3LLM (arXiv 2601.07568) counts it in its tables


@dataclass(frozen=True)
class Anchored:
    """
    A factor over the baseline with each of two anchors.

    Attributes:
        own ([`Estimate`]): Over its AUP with the tokens per forward that it was measured with.
        paper ([`Estimate`]): Over its AUP with 1.00, the paper's convention: one-token decoding is below 1 where
            forwards also commit what follows the first EOS.
    """

    own: Estimate
    paper: Estimate


@dataclass(frozen=True)
class Factors:
    """
    A curve against a baseline, the teacher with one token per forward.

    Attributes:
        task (`str`): Title of the task.
        method (`str`): Name of the curve.
        area ([`Estimate`]): Its AUP.
        total ([`Anchored`]): Times the baseline's AUP.
        baseline_accuracy (`float`): Accuracy of the baseline, in percent.
        baseline_tokens_per_forward (`float`): Its TPF.
        decoder_method (`str`, *optional*): The curve of the baseline's weights with the same decoder, if there is one.
        decoder ([`Anchored`], *optional*): The AUP of that curve, times the baseline's: what the decoder alone gives.
        distillation ([`Estimate`], *optional*): AUP, times that of that curve: what training gives. `decoder` times
            `distillation` is `total`.
    """

    task: str
    method: str
    area: Estimate
    total: Anchored
    baseline_accuracy: float
    baseline_tokens_per_forward: float
    decoder_method: str | None = None
    decoder: Anchored | None = None
    distillation: Estimate | None = None


def curve_factors(
    results: Sequence[Result],
    baseline: str,
    *,
    y_max: str | Mapping[str, float | None] = "table",
    floor_rule: str = "drop",
    resampling: Resampling | None = None,
) -> list[Factors]:
    """
    Tells the shares of decoder and distillation apart.

    The baseline's AUP is that of its slowest point. All areas of a task have the same `y_max`, and the floor is five
    points below the accuracy of that point, in each resample below that of the resample. Problems are resampled
    together for all curves.

    Args:
        results (`Sequence[Result]`): Results with those of the baseline; per task all on the same problems.
        baseline (`str`): The method that decodes the teacher with one token per forward.
        y_max (`str` or `Mapping[str, float | None]`, *optional*, defaults to `"table"`): As for [`make_boards`], or
            the `y_max` of a board.
        floor_rule (`str`, *optional*, defaults to `"drop"`): As for [`compute_aup`].
        resampling ([`Resampling`], *optional*): How intervals are made.

    Returns:
        `list[Factors]`: One per curve on a task that the baseline was measured on, but for the baseline itself.

    Raises:
        `ValueError`: For a baseline without results, with no right answer, or on other problems.
    """
    resampling = resampling or Resampling()
    curves = by_curve(results)
    bases = {title: points[0] for (title, method), points in curves.items() if method == baseline}
    if not bases:
        raise ValueError(f"The baseline {baseline!r} has no results: add its files.")
    factors = []
    for title, base in bases.items():
        on_task = {method: points for (task, method), points in curves.items() if task == title}
        _check_problems(on_task, base)
        tables = [curve for curve in result_curves(results) if curve.task == title]
        anchor = {"y_max": best_accuracy(y_max, title, tables), "floor_rule": floor_rule}
        factors += _of_task(title, on_task, base, baseline, resampling, anchor)
    return factors


def _of_task(
    title: str,
    curves: dict[str, list[Result]],
    base: Result,
    baseline: str,
    resampling: Resampling,
    anchor: dict[str, Any],
) -> list[Factors]:
    resampled = {method: ResampledCurve.of(points, resampling, base, **anchor) for method, points in curves.items()}
    one_token = ResampledCurve.of([base], resampling, base, **anchor)
    teacher = {method: points for method, points in curves.items() if points[0].weights == base.weights}
    factors = []
    for method, points in curves.items():
        if method == baseline:
            continue
        curve = resampled[method]
        same = next((m for m, other in teacher.items() if m != method and _same_decoder(points, other)), None)
        of_teacher = None if same is None or method in teacher else resampled[same]
        factors.append(
            Factors(
                task=title,
                method=method,
                area=resampling.estimate(curve.area, curve.areas),
                total=_anchored(curve, one_token, resampling),
                baseline_accuracy=base.accuracy_percent,
                baseline_tokens_per_forward=base.tokens_per_forward or 0.0,
                decoder_method=None if of_teacher is None else same,
                decoder=None if of_teacher is None else _anchored(of_teacher, one_token, resampling),
                distillation=None if of_teacher is None else _ratio(curve, of_teacher, resampling),
            )
        )
    return factors


def _anchored(curve: ResampledCurve, base: ResampledCurve, resampling: Resampling) -> Anchored:
    accuracy, resampled = base.results[0].accuracy_percent, base.accuracy[:, 0]
    areas = {
        "own": (accuracy * (base.results[0].tokens_per_forward or 0.0), resampled * base.tokens_per_forward[:, 0]),
        "paper": (accuracy * PAPER_TOKENS_PER_FORWARD, resampled * PAPER_TOKENS_PER_FORWARD),
    }
    return Anchored(
        **{name: resampling.estimate(curve.area / area, _over(curve.areas, of)) for name, (area, of) in areas.items()}
    )


def _ratio(curve: ResampledCurve, other: ResampledCurve, resampling: Resampling) -> Estimate | None:
    """How many times the area of another curve; nothing where that has none."""
    return resampling.estimate(curve.area / other.area, _over(curve.areas, other.areas)) if other.area else None


def _over(areas: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A resample in which the other has no area is one in which the factor has no bound."""
    return np.divide(areas, others, out=np.full_like(areas, np.inf), where=others > 0)


def _same_decoder(points: Sequence[Result], others: Sequence[Result]) -> bool:
    """Whether two curves are of one decoder, whatever values were swept."""
    swept = {name for result in (*points, *others) for name in result.point}
    settled = [{n: v for n, v in curve[0].decoding.items() if n not in swept} for curve in (points, others)]
    return settled[0] == settled[1]


def _check_problems(curves: Mapping[str, Sequence[Result]], base: Result) -> None:
    if not base.accuracy:
        raise ValueError(f"The baseline {short_name(base.method)} has no right answer: choose another one.")
    for method, points in curves.items():
        if points[0].problems != base.problems:
            raise ValueError(
                f"{short_name(method)} and the baseline {short_name(base.method)} were measured on different "
                "problems: measure both on the same."
            )
