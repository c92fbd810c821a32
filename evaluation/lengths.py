"""What one way of decoding gains over another, by the length of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .resampling import Resampling
from .result import Result, by_curve, short_name


EDGES = (32, 64, 96, 128, 192)
FEWEST = 10  # problems of a group with an interval: resamples of fewer say little

Interval = tuple[float, float]


@dataclass(frozen=True)
class LengthGroup:
    """
    Problems with answers of similar length, decoded in two ways.

    Attributes:
        shortest (`int`): Tokens of the shortest answers that belong to it.
        longest (`int`, *optional*): Tokens of the longest; `None` for the last group, which has no end.
        problems (`int`): How many problems there are.
        tokens (`float`): Mean number of tokens of the answers.
        one (`float`), other (`float`): TPF of both.
        gain (`float`): The first TPF over the second.
        gain_interval (`tuple[float, float]`, *optional*): 95 % interval of the gain.
        change (`float`): Accuracy of the first minus that of the second, in percent.
        change_interval (`tuple[float, float]`, *optional*): 95 % interval of the change.
    """

    shortest: int
    longest: int | None
    problems: int
    tokens: float
    one: float
    other: float
    gain: float
    gain_interval: Interval | None
    change: float
    change_interval: Interval | None

    @property
    def range(self) -> str:
        """The lengths in words, such as `"33 to 64"`."""
        return f"from {self.shortest}" if self.longest is None else f"{self.shortest} to {self.longest}"


@dataclass(frozen=True)
class LengthGains:
    """
    Two points that differ in their method alone, by the length of the answers.

    Attributes:
        task (`str`): Title of the task.
        one (`str`), other (`str`): The methods.
        point (`dict[str, Any]`): The swept fields of both, with their values.
        groups (`list[LengthGroup]`): The groups that have problems, the shortest answers first.
    """

    task: str
    one: str
    other: str
    point: dict[str, Any]
    groups: list[LengthGroup]


def length_gains(
    results: Sequence[Result],
    one: str,
    other: str,
    *,
    edges: Sequence[int] = EDGES,
    resamples: int = 1000,
    seed: int = 0,
) -> list[LengthGains]:
    """
    Compares the TPF of two methods by the length of the answer, for example several blocks at once and one block after
    another.

    Each point of the first method is compared with the second method's point of the same swept fields, on the same
    problems. A problem belongs to the group of the second method's answer, with its EOS. A group's TPF is the ratio of
    its sums. Intervals are percentile bootstrap (Efron 1979) over the problems of a group, drawn for both methods
    together.

    Args:
        results (`Sequence[Result]`): Results of both methods.
        one (`str`), other (`str`): The methods by name.
        edges (`Sequence[int]`, *optional*, defaults to `(32, 64, 96, 128, 192)`):
            Tokens of the longest answers of each group but the last, rising.
        resamples (`int`, *optional*, defaults to 1000): Number of resamples.
        seed (`int`, *optional*, defaults to 0): Seed of the draws.

    Returns:
        `list[LengthGains]`: A comparison for each task and each point that both methods have.

    Raises:
        `ValueError`: For edges that do not rise from 1 on, a method without results, two that have no point in common,
            different problems, and numbers of resamples or seeds out of range.
    """
    Resampling(resamples, seed)  # refuses what is out of range
    if not edges or list(edges) != sorted({*edges}) or edges[0] < 1:
        raise ValueError(f"The edges of the lengths must be whole numbers that rise from 1 on, got {list(edges)}.")
    curves = by_curve(results)
    methods = dict.fromkeys(method for _, method in curves)
    for name in (one, other):
        if name not in methods:
            raise ValueError(
                f"There are no results of {name!r}: expected one of {', '.join(map(short_name, methods))}."
            )
    found = []
    for title in dict.fromkeys(task for task, _ in curves):
        for first in curves.get((title, one), ()):
            for second in curves.get((title, other), ()):
                if first.point == second.point:
                    groups = _groups(first, second, edges, resamples, seed)
                    found.append(LengthGains(title, one, other, first.point, groups))
    if not found:
        raise ValueError(f"{one!r} and {other!r} have no point in common: sweep the same values of both.")
    return found


def _groups(one: Result, other: Result, edges: Sequence[int], resamples: int, seed: int) -> list[LengthGroup]:
    if one.problems != other.problems:
        raise ValueError(
            f"{short_name(one.method)} and {short_name(other.method)} were measured on different problems: measure "
            "both on the same."
        )
    columns: Any = [[each.samples[name] for each in (one, other)] for name in ("tokens", "forwards", "correct")]
    values = np.array(columns, dtype=np.int64)  # (quantity, method, problem)
    group_of = np.searchsorted(edges, values[0, 1])
    bounds = [0, *edges, None]
    return [
        _group(values[..., group_of == number], bounds[number] + 1, bounds[number + 1], resamples, seed)
        for number in np.unique(group_of).tolist()
    ]


def _group(values: np.ndarray, shortest: int, longest: int | None, resamples: int, seed: int) -> LengthGroup:
    """A group of these counts (quantity, method, problem)."""
    count = values.shape[-1]
    (one, other), change = _compare(values.sum(axis=-1), count)
    intervals: list[Interval | None] = [None, None]
    if count >= FEWEST:
        draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
        ratios, changes = _compare(values @ draws.T, count)
        intervals = [_interval(ratios[0] / ratios[1]), _interval(changes)]
    gain, tokens = float(one / other), float(values[0, 1].mean())
    return LengthGroup(
        shortest, longest, count, tokens, float(one), float(other), gain, intervals[0], float(change), intervals[1]
    )


def _compare(sums: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """TPF of both methods and the change of accuracy in percent, of sums (quantity, method, ...)."""
    tokens, forwards, correct = sums
    return tokens / forwards, 100 * (correct[0] - correct[1]) / count


def _interval(resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
