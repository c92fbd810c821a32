"""Estimates with intervals, by resampling the problems of a task and the runs of a method."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .aup.aup import areas_of_curves, draw_resamples, resampled_points
from .result import Result, area


@dataclass(frozen=True)
class Resampling:
    """
    How intervals are made.

    Attributes:
        resamples (`int`): Number of resamples.
        seed (`int`): Seed of the draws. Curves on the same problems are resampled together, with the same draws.
        level (`float`): Share of the resamples within an interval.

    Raises:
        `ValueError`: For values out of range.
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.resamples < 1 or self.seed < 0 or not 0 < self.level < 1:
            raise ValueError(
                f"Resampling takes at least 1 resample, a seed of at least 0 and a level between 0 and 1, got {self}."
            )

    def problems(self, count: int) -> np.ndarray:
        """
        Resamples of problems.

        Args:
            count (`int`): How many problems there are.

        Returns:
            `np.ndarray` of shape `(resamples, count)`: How often each resample has each problem.
        """
        return _draw_problems(count, self.resamples, self.seed)

    def runs(self, count: int, stream: int = 0) -> np.ndarray:
        """
        Resamples of the runs of a method, which differ in their seed. Each draws one run fewer than there are: then
        the variance of their mean is unbiased (Rao and Wu 1988), where as many draws as there are runs would make it a
        third too small for three runs.

        Args:
            count (`int`): How many runs there are.
            stream (`int`, *optional*, defaults to 0): Other draws for another stream.

        Returns:
            `np.ndarray` of shape `(resamples, max(1, count - 1))`: Indices of the drawn runs.
        """
        rng = np.random.default_rng([self.seed, 1, stream])  # other draws than those of the problems
        return rng.integers(count, size=(self.resamples, max(1, count - 1)))

    def draw_runs(self, resampled: Sequence[np.ndarray], stream: int = 0) -> np.ndarray:
        """
        The mean over runs in each resample, which draws its runs as [`Resampling.runs`] says.

        Args:
            resampled (`Sequence[np.ndarray]`): A value for each resample `(resamples,)`, for each run.
            stream (`int`, *optional*, defaults to 0): As there.

        Returns:
            `np.ndarray` of shape `(resamples,)`: The means.
        """
        drawn = self.runs(len(resampled), stream)
        return np.take_along_axis(np.stack(resampled, axis=1), drawn, axis=1).mean(axis=1)

    def estimate(self, value: float, resampled: np.ndarray) -> "Estimate":
        """
        A value with the percentile interval of its resamples.

        Args:
            value (`float`): The value.
            resampled (`np.ndarray` of shape `(resamples,)`): The same of each resample.

        Returns:
            [`Estimate`]: Both.
        """
        with np.errstate(invalid="ignore"):
            ends = np.quantile(resampled, [(1 - self.level) / 2, (1 + self.level) / 2])
        low, high = np.nan_to_num(ends, nan=np.inf, posinf=np.inf)  # between two ratios without a bound
        return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class Estimate:
    """
    A value and its interval.

    Attributes:
        value (`float`): The value.
        low (`float`), high (`float`): The ends of the interval.
    """

    value: float
    low: float
    high: float

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the interval says of which sign the value is."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ResampledCurve:
    """
    A curve, and the same on every resample of its problems.

    Attributes:
        results (`Sequence[Result]`): Its points.
        area (`float`): Its AUP.
        areas (`np.ndarray` of shape `(resamples,)`): AUP of the resamples.
        tokens_per_forward (`np.ndarray` of shape `(resamples, points)`): TPF of the resamples.
        accuracy (`np.ndarray` of shape `(resamples, points)`): Accuracy of the resamples, in percent.
    """

    results: Sequence[Result]
    area: float
    areas: np.ndarray
    tokens_per_forward: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(
        cls, results: Sequence[Result], resampling: Resampling, base: Result | None = None, **anchor: Any
    ) -> "ResampledCurve":
        """
        Resamples the problems of a curve.

        Args:
            results (`Sequence[Result]`): Its points, on the same problems.
            resampling ([`Resampling`]): How.
            base ([`Result`], *optional*): A point on the same problems that sets the floor. In each resample the floor
                is below its accuracy there: problems that are hard for all take no curve below it. By default the
                curve's own first point.
            anchor (`Any`): `y_max` and `floor_rule` of [`compute_aup`]. They are the same in all resamples.

        Returns:
            [`ResampledCurve`]: The curve.
        """
        parallelism, accuracy = _points(results, resampling)
        floor: dict[str, Any] = {} if base is None else {"baseline_accuracy": base.accuracy_percent}
        value = area(results, **anchor, **floor)
        if base is not None:
            floor = {"baseline_accuracy": _points([base], resampling)[1]}
        areas = areas_of_curves(parallelism, accuracy, **anchor, **floor)
        return cls(results, value, areas, parallelism, accuracy)


def _points(results: Sequence[Result], resampling: Resampling) -> tuple[np.ndarray, np.ndarray]:
    """TPF and accuracy of points on resamples of their problems, each of shape (resamples, points)."""
    tokens = [result.samples["tokens"] for result in results]
    forwards = [result.samples["forwards"] for result in results]
    correct = [result.samples["correct"] for result in results]
    return resampled_points(tokens, forwards, correct, resampling.problems(results[0].num_samples))


@lru_cache(maxsize=4)
def _draw_problems(count: int, resamples: int, seed: int) -> np.ndarray:
    return draw_resamples(count, resamples, seed)
