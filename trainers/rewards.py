"""Rewards of rollouts, and the advantages that are made of them."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..evaluation.answer_checks import Check


SpeedOf = Literal["all", "right"]  # the rollouts whose tokens per forward are rewarded
LEAST_DEVIATION = 1e-8  # to divide by
RewardFunction = Callable[..., Sequence[float]]
"""
As in TRL: called with lists of one entry per rollout, by their names, it returns a number for each. The lists are
`prompts`, `completions` (texts up to the first EOS), `completion_ids` (tokens up to and including it), `forwards`,
`ended` (whether there is an EOS), and the columns of the dataset.
"""


class Correctness:
    """
    1 for a right answer, 0 for a wrong one. An answer that does not end within the canvas is wrong.

    Args:
        check (`Check`): As in [`~d3llm.evaluation.answer_checks.CHECKS`].
        answer_column (`str`, *optional*, defaults to `"answer"`): The column of the right answers.
    """

    __name__ = "correctness"

    def __init__(self, check: Check, answer_column: str = "answer"):
        self.check = check
        self.answer_column = answer_column

    def __call__(self, *, completions: Sequence[str], ended: Sequence[bool], **columns: Any) -> list[float]:
        if self.answer_column not in columns:
            raise ValueError(
                f"There is no column {self.answer_column!r} to compare answers with, only {', '.join(columns)}: name "
                "it with `answer_column`."
            )
        answers = columns[self.answer_column]
        rows = zip(completions, ended, answers, strict=True)
        return [float(has_end and self.check(text, answer)) for text, has_end, answer in rows]


class Speed:
    """
    Tokens per forward.

    Args:
        of (`RewardFunction`, *optional*): A reward to multiply it with, such as [`Correctness`], so that a wrong
            answer earns nothing by being fast.
    """

    __name__ = "tokens_per_forward"

    def __init__(self, of: RewardFunction | None = None):
        self.of = of

    def __call__(
        self, *, completion_ids: Sequence[Sequence[int]], forwards: Sequence[int], **others: Any
    ) -> list[float]:
        factors = [1.0] * len(forwards)
        if self.of is not None:
            factors = list(self.of(completion_ids=completion_ids, forwards=forwards, **others))
        rows = zip(completion_ids, forwards, factors, strict=True)
        return [factor * len(tokens) / max(1, count) for tokens, count, factor in rows]


def name_of(function: RewardFunction) -> str:
    """The name of a reward, for the log and for errors."""
    return getattr(function, "__name__", type(function).__name__)


def rewards_of(functions: Sequence[RewardFunction], rollouts: dict[str, list[Any]], count: int) -> Tensor:
    """
    Calls every reward function.

    Args:
        functions (`Sequence[RewardFunction]`): The functions.
        rollouts (`dict[str, list]`): The lists that they are called with.
        count (`int`): Number of rollouts, n.

    Returns:
        `Tensor` of shape `(n, functions)`: In float32.

    Raises:
        `ValueError`: For a function that does not return n finite numbers.
    """
    rewards = []
    for function in functions:
        # TRL takes `None` for a reward that a rollout does not have; here each has all of them.
        returned: Any = function(**rollouts)
        try:
            values = torch.tensor([math.nan if value is None else float(value) for value in returned])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The reward `{name_of(function)}` returned a {type(returned).__name__} that is not of numbers "
                f"({error}): it has to return a finite number for each rollout."
            ) from error
        if values.shape != (count,) or not values.isfinite().all():
            raise ValueError(
                f"The reward `{name_of(function)}` returned {len(values)} numbers for {count} rollouts, "
                f"{int((~values.isfinite()).sum())} of them not finite: it has to return a finite number for each."
            )
        rewards.append(values)
    return torch.stack(rewards, dim=1)


def _moments(values: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation (count, R) of the values (n, R) of each group."""
    size = values.new_zeros(count).index_add(0, groups, torch.ones_like(values[:, 0])).clamp(min=1)[:, None]
    mean = values.new_zeros(count, values.shape[1]).index_add(0, groups, values) / size
    squares = (values - mean[groups]) ** 2
    return mean, (values.new_zeros(count, values.shape[1]).index_add(0, groups, squares) / size).sqrt()


def informative(rewards: Tensor, speed: Tensor, groups: Tensor, *, min_range: float, need_right: bool) -> Tensor:
    """
    TPF-aware filtering (LightningRL, arXiv 2603.13319): which rollouts are trained on. A group in which no answer is
    right, or all rollouts are equally fast, is left out.

    Args:
        rewards (`Tensor` of shape `(n, R)`): The first reward is positive for a right answer.
        speed (`Tensor` of shape `(n,)`): Tokens per forward.
        groups (`torch.LongTensor` of shape `(n,)`): The group of each rollout, from 0.
        min_range (`float`): Range of `speed` that a group needs.
        need_right (`bool`): Whether a group needs a right answer.

    Returns:
        `torch.BoolTensor` of shape `(n,)`: The same for all of a group.
    """
    count = int(groups.max()) + 1
    fastest = speed.new_full((count,), -torch.inf).scatter_reduce(0, groups, speed, "amax")
    slowest = speed.new_full((count,), torch.inf).scatter_reduce(0, groups, speed, "amin")
    right = speed.new_zeros(count).index_add(0, groups, (rewards[:, 0] > 0).to(speed.dtype))
    keeps = fastest - slowest >= min_range
    return (keeps & (right > 0) if need_right else keeps)[groups]


def advantages_of(rewards: Tensor, groups: Tensor, weights: Tensor, kept: Tensor, *, over_step: bool = True) -> Tensor:
    """
    Per-reward decoupled normalisation (LightningRL, arXiv 2603.13319; GDPO, arXiv 2601.05242): each reward is
    standardised in its group before the rewards are added, so that none drowns in the scale of another,

        A_i  =  sum_r w_r (x_ir - mean_r) / std_r

    with the population's standard deviation, and 0 where all of a group have the same reward. The sums are then
    standardised over the rollouts that are kept.

    Args:
        rewards (`Tensor` of shape `(n, R)`): Rewards of all rollouts of a round.
        groups (`torch.LongTensor` of shape `(n,)`): The group of each, from 0.
        weights (`Tensor` of shape `(R,)`): Weight of each reward.
        kept (`torch.BoolTensor` of shape `(n,)`): From [`informative`].
        over_step (`bool`, *optional*, defaults to `True`): Whether the sums are standardised.

    Returns:
        `Tensor` of shape `(n,)`: 0 for what is not kept.
    """
    mean, deviation = _moments(rewards, groups, int(groups.max()) + 1)
    # Rounding can leave a mean of equal numbers beside them: such a group has no deviation to divide by.
    is_flat = (deviation <= 1e-6 * mean.abs().clamp(min=1))[groups]
    scaled = (rewards - mean[groups]) / deviation[groups].clamp(min=LEAST_DEVIATION)
    advantages = (scaled.masked_fill(is_flat, 0.0) * weights).sum(dim=1) * kept
    if not over_step or kept.sum() < 2:
        return advantages
    of_kept = advantages[kept]
    return (advantages - of_kept.mean()) / of_kept.std().clamp(min=LEAST_DEVIATION) * kept


class ConstantRewards:
    """
    For how many rounds each of R rewards has been the same number for every rollout.

    Args:
        names (`Sequence[str]`): Their names.

    Attributes:
        value (`Tensor` of shape `(R,)`): That number.
        rounds (`torch.LongTensor` of shape `(R,)`): Rounds in a row.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.value = torch.zeros(len(names))
        self.rounds = torch.zeros(len(names), dtype=torch.long)

    def count(self, rewards: Tensor) -> None:
        """Counts a round, whose rewards are `(n, R)`."""
        low, high = rewards.amin(dim=0), rewards.amax(dim=0)
        continues = (self.rounds > 0) & (low == self.value)
        self.rounds = torch.where(low == high, torch.where(continues, self.rounds + 1, 1), 0)
        self.value = low

    def check(self, limit: int | None) -> None:
        """Raises a `ValueError` for a reward that has been constant for `limit` rounds."""
        if limit is None or int(self.rounds.max()) < limit:
            return
        worst = int(self.rounds.argmax())
        raise ValueError(
            f"The reward `{self.names[worst]}` was {self.value[worst].item():g} for every rollout of the last {limit} "
            "rounds, so there is nothing to learn from it: compare the prompts with the check and its answers, take "
            "problems that the model answers right sometimes, raise `temperature` or `num_generations`, or give "
            "--max_constant_rounds null to train nevertheless."
        )
