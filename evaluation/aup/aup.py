"""AUP, accuracy under parallelism: a single file that `evaluate.load` loads from a folder or a Space."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np


NUMBERS = (int, float, np.integer, np.floating)
FLOOR_RULES = ("drop", "cross")

_DESCRIPTION = """
AUP (accuracy under parallelism) is the area under the curve of accuracy against tokens per forward, for a decoder
whose settings trade one for the other. Accuracies below the best known one get a small weight, so a decoder scores by
its parallelism as long as it stays accurate. With accuracies in percent, the unit is percent times tokens per forward:
a decoder that commits one token per forward scores its accuracy.
"""

_CITATION = """
@article{d3llm,
    title = {d3LLM: Ultra-Fast Diffusion LLM using Pseudo-Trajectory Distillation},
    journal = {arXiv preprint arXiv:2601.07568},
    year = {2026},
}
"""

_KWARGS_DESCRIPTION = """
Args:
    tokens_per_forward (`list[float]`): Parallelism of each point of the curve, above 0.
    accuracy (`list[float]`): Accuracy of each point, in percent.
    y_max (`float`, *optional*): Best known accuracy for the task, in percent; by default the curve's own best.
    alpha (`float`, *optional*, defaults to 3.0): How fast the weight falls with the accuracy.
    max_drop (`float`, *optional*, defaults to 5.0): Points that lose more than this, in percent, are dropped.
    baseline_accuracy (`float`, *optional*): Accuracy that the loss is relative to; by default that of the least
        parallel point.
    floor_rule (`str`, *optional*, defaults to `"drop"`): `"drop"` leaves out the points below the floor, as published;
        `"cross"` leaves out the parts of the curve below it, whose ends are where its straight lines cross the floor.

Returns:
    `dict[str, float]`: `aup`.

Example:

    >>> aup = evaluate.load("evaluation/aup")
    >>> aup.compute(tokens_per_forward=[1.0, 9.11], accuracy=[74.02, 73.09], y_max=74.98)
    {'aup': 637.6549264841269}
"""


def compute_aup(
    tokens_per_forward: Sequence[float],
    accuracy: Sequence[float],
    *,
    y_max: float | None = None,
    alpha: float = 3.0,
    max_drop: float = 5.0,
    baseline_accuracy: float | None = None,
    floor_rule: str = "drop",
) -> float:
    r"""
    AUP of one method on one task (d3LLM, arXiv 2601.07568).

    With the points $(\rho_i, y_i)$ sorted by $\rho$ and the weight $W(y) = \min(e^{-\alpha (1 - y / y_{max})}, 1)$:

    $$AUP = \rho_1 y_1 + \sum_{i \ge 2} (\rho_i - \rho_{i-1}) \frac{y_i W(y_i) + y_{i-1} W(y_{i-1})}{2}$$

    The first rectangle has no weight. Points with $y_i < y_1 - max\_drop$ are dropped anywhere on the curve, which
    then connects their neighbours. A point just below that floor thus loses all of its segment, so that the area jumps
    with one answer, and depends on which points were measured. With `floor_rule="cross"` it does not: points are
    connected by straight lines first, and what counts of a segment ends where it crosses the floor.

    Args:
        tokens_per_forward (`Sequence[float]`): $\rho$, tokens per forward (TPF) of each point, above 0; at least one.
        accuracy (`Sequence[float]`): $y$ of each point, in percent.
        y_max (`float`, *optional*): Best known accuracy for the task, in percent. By default the best of these points:
            the area then depends on nothing else, and does not penalise a method that is worse than others. The
            published tables use the best of all methods in the table.
        alpha (`float`, *optional*, defaults to 3.0): Steepness of the weight.
        max_drop (`float`, *optional*, defaults to 5.0): Accuracy that a point may lose, in percent.
        baseline_accuracy (`float`, *optional*): Accuracy that this loss is relative to, in percent, such as that of a
            baseline's first point. By default $y_1$, with which a method that is worse everywhere loses no point.
        floor_rule (`str`, *optional*, defaults to `"drop"`): `"drop"`, the published rule, or `"cross"`.

    Returns:
        `float`: The area, in percent times tokens per forward; 0 if nothing is above the floor.

    Raises:
        `ValueError`: For lists that are empty or of different lengths, and for values that are not numbers or out of
            range.
    """
    for name, values in (("tokens_per_forward", tokens_per_forward), ("accuracy", accuracy)):
        if not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
            raise ValueError(f"`{name}` must be a list of numbers, got {values!r:.60}.")
    if len(tokens_per_forward) != len(accuracy) or len(accuracy) == 0:
        raise ValueError(
            "`tokens_per_forward` and `accuracy` must have one value per point and at least one, got "
            f"{len(tokens_per_forward)} and {len(accuracy)} values."
        )
    _check_numbers("tokens_per_forward", tokens_per_forward, positive=True)
    _check_numbers("accuracy", accuracy)
    _check_numbers("alpha", [alpha])
    if max_drop != math.inf:  # no point is dropped
        _check_numbers("max_drop", [max_drop])
    if y_max is not None:
        _check_numbers("y_max", [y_max], positive=True)
    if baseline_accuracy is not None:
        _check_numbers("baseline_accuracy", [baseline_accuracy])
    _check_floor_rule(floor_rule)
    if 0 < max(accuracy) <= 1:
        warnings.warn("`accuracy` is expected in percent, but no value is above 1.", stacklevel=2)
    curve = np.asarray(tokens_per_forward, dtype=float), np.asarray(accuracy, dtype=float)
    return float(areas_of_curves(*curve, y_max, alpha, max_drop, baseline_accuracy, floor_rule))


def areas_of_curves(
    tokens_per_forward: np.ndarray,
    accuracy: np.ndarray,
    y_max: float | None = None,
    alpha: float = 3.0,
    max_drop: float = 5.0,
    baseline_accuracy: float | np.ndarray | None = None,
    floor_rule: str = "drop",
) -> np.ndarray:
    """
    AUP of many curves at once, such as resamples of one; see [`compute_aup`], which checks its arguments.

    Args:
        tokens_per_forward (`np.ndarray` of shape `(..., points)`): TPF.
        accuracy (`np.ndarray` of shape `(..., points)`): In percent.
        y_max, alpha, max_drop, baseline_accuracy, floor_rule: As for [`compute_aup`]; a `baseline_accuracy` of shape
            `(..., 1)` is one for each curve.

    Returns:
        `np.ndarray` of shape `(...)`: The areas.
    """
    _check_floor_rule(floor_rule)
    order = np.argsort(tokens_per_forward, axis=-1, kind="stable")
    parallelism = np.take_along_axis(tokens_per_forward, order, axis=-1)
    y = np.take_along_axis(accuracy, order, axis=-1)
    best = y.max(axis=-1, keepdims=True) if y_max is None else np.asarray(y_max)
    best = np.where(best > 0, best, 1.0)  # without a right answer every y is 0, and so is the area
    floor = (y[..., :1] if baseline_accuracy is None else np.asarray(baseline_accuracy)) - max_drop
    starts = _dropped if floor_rule == "drop" else _crossed
    (begin, y_begin), (end, y_end), counts, first = starts(parallelism, y, floor)
    weighted = y_begin * weight(y_begin, best, alpha) + y_end * weight(y_end, best, alpha)
    segments = np.where(first, begin * y_begin, 0.0) + (end - begin) * weighted / 2
    return np.where(counts, segments, 0.0).sum(axis=-1)


Segments = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]


def _dropped(parallelism: np.ndarray, y: np.ndarray, floor: np.ndarray) -> Segments:
    """
    The segments of curves without their points below the floor.

    Returns:
        Each of shape `(..., points)`: TPF and accuracy where the segment that ends at a point begins, the same of its
        end, whether it counts, and whether it is the first one that does. The first one has no length.
    """
    counts = y >= floor
    index = np.where(counts, np.arange(y.shape[-1]), -1)
    before = np.maximum.accumulate(np.concatenate([np.full_like(index[..., :1], -1), index[..., :-1]], -1), axis=-1)
    first = counts & (before < 0)
    begin = np.where(first, np.arange(y.shape[-1]), np.maximum(before, 0))
    return (
        (np.take_along_axis(parallelism, begin, axis=-1), np.take_along_axis(y, begin, axis=-1)),
        (parallelism, y),
        counts,
        first,
    )


def _crossed(parallelism: np.ndarray, y: np.ndarray, floor: np.ndarray) -> Segments:
    """The segments of curves as far as they are above the floor; returns what [`_dropped`] does."""
    before, y_before = (np.concatenate([values[..., :1], values[..., :-1]], axis=-1) for values in (parallelism, y))
    above, above_before = y >= floor, y_before >= floor
    share = np.divide(floor - y_before, y - y_before, out=np.zeros_like(y), where=above != above_before)
    crossing = before + share * (parallelism - before)
    counts = above | above_before
    first = counts & (np.cumsum(counts, axis=-1) == 1)
    begin = np.where(above_before, before, crossing), np.where(above_before, y_before, floor)
    end = np.where(above, parallelism, crossing), np.where(above, y, floor)
    return begin, end, counts, first


def _check_floor_rule(rule: Any) -> None:
    if rule not in FLOOR_RULES:
        raise ValueError(f"`floor_rule` must be one of {', '.join(FLOOR_RULES)}, got {rule!r:.60}.")


def _check_numbers(name: str, values: Sequence[Any], positive: bool = False) -> None:
    """Raises a `ValueError` for values that are not finite numbers, or out of range."""
    for value in values:
        fits = isinstance(value, NUMBERS) and not isinstance(value, bool) and 0 <= value < math.inf
        if not fits or (positive and value == 0):
            expected = "above 0" if positive else "of at least 0"
            raise ValueError(f"`{name}` must be a number {expected}, got {value!r:.60}.")


def pieces_above_floor(
    tokens_per_forward: Sequence[float],
    accuracy: Sequence[float],
    max_drop: float = 5.0,
    baseline_accuracy: float | None = None,
    floor_rule: str = "drop",
) -> list[list[tuple[float, float]]]:
    """
    What of a curve counts for its AUP, for pictures.

    Args:
        tokens_per_forward, accuracy, max_drop, baseline_accuracy, floor_rule: As for [`compute_aup`].

    Returns:
        `list[list[tuple[float, float]]]`: The pieces of the curve above the floor, each its points (TPF, accuracy) by
        rising TPF; with `floor_rule="drop"` at most one.
    """
    points = sorted(zip(tokens_per_forward, accuracy, strict=True), key=lambda point: point[0])
    floor = (points[0][1] if baseline_accuracy is None else baseline_accuracy) - max_drop
    if floor_rule == "drop":
        kept = [(parallelism, y) for parallelism, y in points if y >= floor]
        return [kept] if kept else []
    pieces: list[list[tuple[float, float]]] = []
    above = False
    for number, (parallelism, y) in enumerate(points):
        if number and above != (y >= floor):
            before, y_before = points[number - 1]
            crossing = before + (floor - y_before) / (y - y_before) * (parallelism - before), floor
            if above:
                pieces[-1].append(crossing)
            else:
                pieces.append([crossing])
        elif not number and y >= floor:
            pieces.append([])
        above = y >= floor
        if above:
            pieces[-1].append((parallelism, y))
    return pieces


def weight(y: Any, y_max: Any, alpha: float = 3.0) -> Any:
    r"""$W(y)$, the weight of an accuracy or of an array of them; see [`compute_aup`]."""
    return np.minimum(np.exp(-alpha * (1 - y / y_max)), 1.0)


def draw_resamples(samples: int, resamples: int, seed: int) -> np.ndarray:
    """
    Bootstrap resamples of a task's samples (Efron 1979).

    Args:
        samples (`int`): How many samples there are.
        resamples (`int`): Number of resamples.
        seed (`int`): Seed of the draws.

    Returns:
        `np.ndarray` of shape `(resamples, samples)`: How often each resample has each sample. The draws are the same
        for all curves with equally many samples, so that those on the same samples are resampled together.
    """
    return np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=resamples)


def resampled_points(
    tokens: Sequence[Sequence[int]],
    forwards: Sequence[Sequence[int]],
    correct: Sequence[Sequence[bool]],
    draws: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """
    The points of a curve on resamples of its samples.

    Args:
        tokens, forwards, correct (`Sequence` of shape `(points, samples)`): As for [`bootstrap_areas`].
        draws (`np.ndarray` of shape `(resamples, samples)`): From [`draw_resamples`].

    Returns:
        Two `np.ndarray` of shape `(resamples, points)`: TPF, which is the ratio of the sums, as in the measurement
        itself, and accuracy in percent.
    """
    per_sample = np.stack([np.asarray(values, dtype=np.int64) for values in (tokens, forwards, correct)])
    sums = np.einsum("kps,rs->krp", per_sample, draws)
    return sums[0] / sums[1], 100 * sums[2] / per_sample.shape[-1]


def bootstrap_areas(
    tokens: Sequence[Sequence[int]],
    forwards: Sequence[Sequence[int]],
    correct: Sequence[Sequence[bool]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    **area_kwargs: Any,
) -> list[float]:
    """
    AUP of bootstrap resamples of a task's samples (Efron 1979).

    All points of a curve are measured on the same samples. A resample therefore draws samples, with their
    contributions to every point.

    Args:
        tokens (`Sequence[Sequence[int]]` of shape `(points, samples)`): Generated tokens.
        forwards (`Sequence[Sequence[int]]` of shape `(points, samples)`): Forwards.
        correct (`Sequence[Sequence[bool]]` of shape `(points, samples)`): Whether the answer was correct.
        resamples (`int`, *optional*, defaults to 1000): Number of resamples.
        seed (`int`, *optional*, defaults to 0): Seed of the draws, which are the same for all curves with equally many
            samples.
        area_kwargs: `y_max`, `alpha`, `max_drop`, `baseline_accuracy` and `floor_rule` of [`compute_aup`]. A given
            `y_max` is fixed, whereas the method's own best varies between resamples.

    Returns:
        `list[float]`: The area of each resample.
    """
    draws = draw_resamples(len(tokens[0]), resamples, seed)
    return areas_of_curves(*resampled_points(tokens, forwards, correct, draws), **area_kwargs).tolist()


def bootstrap_interval(
    tokens: Sequence[Sequence[int]],
    forwards: Sequence[Sequence[int]],
    correct: Sequence[Sequence[bool]],
    *,
    level: float = 0.95,
    **kwargs: Any,
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of the AUP over the samples of a task.

    Args:
        tokens, forwards, correct (`Sequence` of shape `(points, samples)`): As for [`bootstrap_areas`].
        level (`float`, *optional*, defaults to 0.95): Share of the resamples within the interval.
        kwargs: Further arguments of [`bootstrap_areas`].

    Returns:
        `tuple[float, float]`: Lower and upper end.
    """
    areas = bootstrap_areas(tokens, forwards, correct, **kwargs)
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class AccuracyUnderParallelism(evaluate.Metric):
    """The metric that `evaluate.load` finds here."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"tokens_per_forward": datasets.Value("float64"), "accuracy": datasets.Value("float64")}
            ),
            reference_urls=["https://arxiv.org/abs/2601.07568"],
        )

    def _compute(
        self, tokens_per_forward: Sequence[float], accuracy: Sequence[float], **area_kwargs: Any
    ) -> dict[str, float]:
        return {"aup": compute_aup(tokens_per_forward, accuracy, **area_kwargs)}
