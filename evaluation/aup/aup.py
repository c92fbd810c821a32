"""AUP, accuracy under parallelism: a single file that `evaluate.load` loads from a folder or a Space."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np


NUMBERS = (int, float, np.integer, np.floating)

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
) -> float:
    r"""
    AUP of one method on one task (d3LLM, arXiv 2601.07568).

    With the points $(\rho_i, y_i)$ sorted by $\rho$ and the weight $W(y) = \min(e^{-\alpha (1 - y / y_{max})}, 1)$:

    $$AUP = \rho_1 y_1 + \sum_{i \ge 2} (\rho_i - \rho_{i-1}) \frac{y_i W(y_i) + y_{i-1} W(y_{i-1})}{2}$$

    The first rectangle has no weight. Points with $y_i < y_1 - max\_drop$ are dropped anywhere on the curve, which
    then connects their neighbours.

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

    Returns:
        `float`: The area, in percent times tokens per forward; 0 if every point is dropped.

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
    if 0 < max(accuracy) <= 1:
        warnings.warn("`accuracy` is expected in percent, but no value is above 1.", stacklevel=2)
    points = points_above_floor(tokens_per_forward, accuracy, max_drop, baseline_accuracy)
    best = max(accuracy) if y_max is None else y_max
    if not points or best == 0:
        return 0.0
    weighted = [y * weight(y, best, alpha) for _, y in points]
    area = points[0][0] * points[0][1]
    for i in range(1, len(points)):
        area += (points[i][0] - points[i - 1][0]) * (weighted[i] + weighted[i - 1]) / 2
    return float(area)


def _check_numbers(name: str, values: Sequence[Any], positive: bool = False) -> None:
    """Raises a `ValueError` for values that are not finite numbers, or out of range."""
    for value in values:
        fits = isinstance(value, NUMBERS) and not isinstance(value, bool) and 0 <= value < math.inf
        if not fits or (positive and value == 0):
            expected = "above 0" if positive else "of at least 0"
            raise ValueError(f"`{name}` must be a number {expected}, got {value!r:.60}.")


def points_above_floor(
    tokens_per_forward: Sequence[float],
    accuracy: Sequence[float],
    max_drop: float = 5.0,
    baseline_accuracy: float | None = None,
) -> list[tuple[float, float]]:
    """The points of a curve that count for its AUP, by rising TPF; see [`compute_aup`]."""
    points = sorted(zip(tokens_per_forward, accuracy, strict=True), key=lambda point: point[0])
    floor = (points[0][1] if baseline_accuracy is None else baseline_accuracy) - max_drop
    return [(parallelism, y) for parallelism, y in points if y >= floor]


def weight(y: float, y_max: float, alpha: float = 3.0) -> float:
    r"""$W(y)$, the weight of an accuracy; see [`compute_aup`]."""
    return min(math.exp(-alpha * (1 - y / y_max)), 1.0)


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
    contributions to every point. TPF is the ratio of the sums, as in the measurement itself.

    Args:
        tokens (`Sequence[Sequence[int]]` of shape `(points, samples)`): Generated tokens.
        forwards (`Sequence[Sequence[int]]` of shape `(points, samples)`): Forwards.
        correct (`Sequence[Sequence[bool]]` of shape `(points, samples)`): Whether the answer was correct.
        resamples (`int`, *optional*, defaults to 1000): Number of resamples.
        seed (`int`, *optional*, defaults to 0): Seed of the draws, which are the same for all curves with equally many
            samples.
        area_kwargs: `y_max`, `alpha`, `max_drop` and `baseline_accuracy` of [`compute_aup`]. A given `y_max` is
            fixed, whereas the method's own best varies between resamples.

    Returns:
        `list[float]`: The area of each resample.
    """
    per_sample = np.stack([np.asarray(values, dtype=np.int64) for values in (tokens, forwards, correct)])
    samples = per_sample.shape[-1]
    draws = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=resamples)
    sums = np.einsum("kps,rs->krp", per_sample, draws)
    return [
        compute_aup((t / f).tolist(), (100 * c / samples).tolist(), **area_kwargs)
        for t, f, c in zip(*sums, strict=True)
    ]


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
