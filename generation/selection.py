"""Selection: which proposals a forward commits.

Pure functions on arrays over candidates: B rows, K candidates in each (rows with fewer are padded, `eligible` says
which are real). A larger score is always surer. A rule is a function of the scores (B, K), what is eligible (B, K),
the positions (B, K) in their order, the canvas and the config, and returns what it accepts (B, K). `RULES` names them.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from .canvas import Booleans, Canvas, Floats, Integers, Proposal, gather
from .configuration_diffusion import DiffusionGenerationConfig
from .fields import SELECTIONS


Rule = Callable[[Floats, Booleans, Integers, Canvas, DiffusionGenerationConfig], Booleans]


def forwards_of_block(canvas: Canvas, config: DiffusionGenerationConfig, size: Integers) -> Integers:
    """How many forwards a schedule gives to the current block of each row (B,), of which it commits `size` (B,)
    positions: `steps` are divided evenly among the blocks of the generated region, and the first ones take the
    remainder."""
    size = size.clip(min=1)  # a complete row, which only a draft has, counts as one forward
    if config.steps is None:
        return size
    blocks, current = canvas.block_of[:, -1] + 1 - canvas.first_block, canvas.current - canvas.first_block
    forwards = config.steps // blocks + (current < config.steps % blocks)
    # masks in the prompt are blocks that `steps` does not count
    return np.where(current < 0, size, forwards)


def masks_at_start_of_block(canvas: Canvas) -> Integers:
    """Masked positions (B,) that the current block had at the start."""
    return gather(canvas.masks_at_start, canvas.current[:, None])[:, 0]


def positions_of_block(canvas: Canvas) -> Integers:
    """Positions (B,) of the current block that a fixed number per forward is a share of: of a block that the end of
    the prompt shares all, as published (SDAR, arXiv 2510.06303); within a given text only its masks."""
    ends = gather(canvas.block_starts, canvas.current[:, None] + np.arange(2))
    length = np.diff(np.maximum(ends, canvas.first_real[:, None]), axis=1)[:, 0]  # padding is in no block
    generated = (canvas.current >= canvas.first_block) & (canvas.region_start > 0)
    return np.where(generated, length, masks_at_start_of_block(canvas))


@cache
def shares_of_time(forwards: int, eps: float) -> Floats:
    """The share of the masked positions that each of so many forwards commits: that of forward s + 1 of S is
    1 - t[s + 1] / t[s] along the grid t = linspace(1, eps, S + 1), and the last one commits all (Dream, arXiv
    2508.15487)."""
    # PyTorch's own grid: where a share of the masks is a whole number, its last bit decides
    time = torch.linspace(1, eps, forwards + 1, dtype=torch.float32).numpy()
    return np.append(1 - time[1:-1] / time[:-2], np.float32(1))


def time_share(canvas: Canvas, config: DiffusionGenerationConfig) -> Floats:
    """The share (B,) of the masked positions that this forward commits, see [`shares_of_time`]."""
    forwards = forwards_of_block(canvas, config, masks_at_start_of_block(canvas))
    numbers, which = np.unique(forwards, return_inverse=True)
    shares = np.ones((len(numbers), int(numbers[-1])), dtype=np.float32)
    for share, number in zip(shares, numbers.tolist(), strict=True):
        share[:number] = shares_of_time(number, config.eps)
    return shares[which, canvas.forwards_in_block.clip(max=shares.shape[1] - 1)]


def scheduled_quota(canvas: Canvas, config: DiffusionGenerationConfig) -> Integers:
    """How many proposals of each row (B,) a schedule commits in this forward.

    Inside a block of m masked positions and S forwards, forward s commits

    - `"count"` and `"threshold_or_count"`: m // S, one more in the first m % S forwards (LLaDA, arXiv 2502.09992,
      `get_num_transfer_tokens`), m being all positions of a block that the end of the prompt shares;
    - `"scheduled_threshold"`: at most as many as that, plus what earlier forwards left of their number (Fast-dLLM's
      code for Dream without blocks);
    - `"fraction"`: the share of the positions still masked that [`time_share`] gives.
    """
    step, left = canvas.forwards_in_block, canvas.masks_left_in(canvas.current)
    if config.selection == "fraction":
        return (left.astype(np.float32) * time_share(canvas, config)).astype(np.int64)
    if config.selection != "scheduled_threshold":
        size = positions_of_block(canvas)
        forwards = forwards_of_block(canvas, config, size)
        return (size // forwards + (step < size % forwards)).clip(min=1)
    size = masks_at_start_of_block(canvas)
    forwards = forwards_of_block(canvas, config, size)
    done = step + 1
    accrued = np.where(done < forwards, done * (size // forwards) + np.minimum(done, size % forwards), size)
    return (accrued - (size - left)).clip(min=1)


def confident_quota(ordered: Floats, config: DiffusionGenerationConfig) -> Integers:
    """How many of the surest proposals of each row (B,) a rule on their scores commits; at least one.

    - `"factor"`: as many as there are ranks r = 1, 2, ... with a probability of at least 1 - factor / (r + 1)
      (Fast-dLLM, arXiv 2505.22618, section 3.3);
    - `"frechet"`: the most of them such that the Frechet bound on the probability that all are right, 1 - sum(1 - c),
      exceeds what the last one leaves to another token, 1 - c, by the margin (Fast-dLLM++, arXiv 2606.02955);
    - `"entropy_bound"`: the longest run of the surest whose entropies, without the last one, sum to at most the bound
      (EB-Sampler, arXiv 2505.24857).

    Args:
        ordered (`Floats` of shape `(B, K)`): Scores from the surest down, -inf after the last real candidate.
    """
    if config.selection == "factor":
        ranks = np.arange(1, ordered.shape[1] + 1, dtype=np.float32)
        within = ordered >= 1 - config.factor / (ranks + 1)
    elif config.selection == "frechet":
        doubt = 1 - ordered
        within = 1 - doubt.cumsum(axis=1) - doubt >= config.frechet_margin
    else:
        before = np.pad(-ordered[:, :-1], ((0, 0), (1, 0))).cumsum(axis=1)
        within = before <= config.entropy_bound
    return within.sum(axis=1).clip(min=1)


def surest(order: Integers, eligible: Booleans, quota: Integers) -> Booleans:
    """The first `quota` (B,) candidates in an `order` (B, K) from the surest down."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return eligible & (ranks < quota[:, None])


def surest_first(score: Floats) -> Integers:
    """The order (B, K) of candidates from the surest down; of equals the first one first."""
    return (-score).argsort(axis=1, kind="stable")


def surest_of_groups(score: Floats, groups: Integers) -> Booleans:
    """Whether a candidate is the surest of its group (B, K); of equals the first one is."""
    order = surest_first(score)[:, ::-1]
    best = np.full((len(groups), int(groups.max()) + 1), -1)
    # the surest candidate of a group is the last one that is written
    best[np.arange(len(groups))[:, None], gather(groups, order)] = order
    return gather(best, groups) == np.arange(score.shape[1])


def by_threshold(
    score: Floats, eligible: Booleans, positions: Integers, canvas: Canvas, config: DiffusionGenerationConfig
) -> Booleans:
    """`"threshold"`: every proposal that is sure enough."""
    return eligible & (score >= (-config.threshold if config.score == "entropy" else config.threshold))


def by_schedule(
    score: Floats, eligible: Booleans, positions: Integers, canvas: Canvas, config: DiffusionGenerationConfig
) -> Booleans:
    """`"count"` and `"fraction"`: the surest, as many as scheduled."""
    return surest(surest_first(score), eligible, scheduled_quota(canvas, config))


def by_scheduled_threshold(
    score: Floats, eligible: Booleans, positions: Integers, canvas: Canvas, config: DiffusionGenerationConfig
) -> Booleans:
    """`"scheduled_threshold"`: those that are sure enough, within the schedule."""
    scheduled = by_schedule(score, eligible, positions, canvas, config)
    return by_threshold(score, scheduled, positions, canvas, config)


def by_threshold_or_schedule(
    score: Floats, eligible: Booleans, positions: Integers, canvas: Canvas, config: DiffusionGenerationConfig
) -> Booleans:
    """`"threshold_or_count"`: those that are sure enough, if they are at least as many as scheduled; else the surest,
    as many as scheduled (SDAR's dynamic decoding, LLaDA2)."""
    sure = by_threshold(score, eligible, positions, canvas, config)
    quota = np.minimum(scheduled_quota(canvas, config), eligible.sum(axis=1))
    enough = sure.sum(axis=1) >= quota
    return np.where(enough[:, None], sure, surest(surest_first(score), eligible, quota))


def by_run(
    score: Floats, eligible: Booleans, positions: Integers, canvas: Canvas, config: DiffusionGenerationConfig
) -> Booleans:
    """`"runs"`: every proposal that is sure enough, and the surest of each run of neighbouring candidates, if it
    reaches `run_threshold` (hierarchical decoding, dInfer, arXiv 2510.08666)."""
    after_another = np.pad(eligible[:, :-1], ((0, 0), (1, 0))) & (np.diff(positions, axis=1, prepend=-2) == 1)
    runs = (~(eligible & after_another)).cumsum(axis=1)
    first = surest_of_groups(score, runs) & (score >= config.run_threshold)
    return by_threshold(score, eligible, positions, canvas, config) | (eligible & first)


def by_prefix(
    score: Floats, eligible: Booleans, positions: Integers, canvas: Canvas, config: DiffusionGenerationConfig
) -> Booleans:
    """`"prefix"`: from left to right up to the first candidate that is not sure enough; at least the first one (DMax,
    arXiv 2604.08302)."""
    doubtful = eligible & ~by_threshold(score, eligible, positions, canvas, config)
    return eligible & ((doubtful.cumsum(axis=1) == 0) | (eligible.cumsum(axis=1) == 1))


def by_confidence(
    score: Floats, eligible: Booleans, positions: Integers, canvas: Canvas, config: DiffusionGenerationConfig
) -> Booleans:
    """`"factor"`, `"frechet"` and `"entropy_bound"`: the surest, as many as their scores allow."""
    order = surest_first(score)
    return surest(order, eligible, confident_quota(gather(score, order), config))


def by_chance(
    score: Floats, eligible: Booleans, positions: Integers, canvas: Canvas, config: DiffusionGenerationConfig
) -> Booleans:
    """`"bernoulli"`: each with the probability of the schedule; the score is a uniform number."""
    return eligible & (score >= 1 - time_share(canvas, config)[:, None])


RULES: dict[str, Rule] = {
    "threshold": by_threshold,
    "scheduled_threshold": by_scheduled_threshold,
    "threshold_or_count": by_threshold_or_schedule,
    "count": by_schedule,
    "fraction": by_schedule,
    "factor": by_confidence,
    "frechet": by_confidence,
    "entropy_bound": by_confidence,
    "runs": by_run,
    "prefix": by_prefix,
    "bernoulli": by_chance,
}
MAY_ACCEPT_NOTHING = ["threshold", "scheduled_threshold", "runs"]  # progress is forced after these


def register_rule(name: str, rule: Rule, *, may_accept_nothing: bool = True) -> None:
    """
    Adds a rule, for `generate(selection=name)`.

    Args:
        name (`str`): Its name.
        rule (`Callable`): A function of the scores `(B, K)`, what is eligible `(B, K)`, the positions `(B, K)` in
            their order, the canvas and the config. It returns what it accepts, `(B, K)`, and must not accept what is
            not eligible.
        may_accept_nothing (`bool`, *optional*, defaults to `True`): Whether progress must be forced after it, by
            `forced_progress`: otherwise a row in which it accepts nothing is never finished.

    Raises:
        `ValueError`: For a name that is taken.
    """
    if name in SELECTIONS:
        raise ValueError(f"`selection`={name!r} is taken: give the rule another name")
    RULES[name] = rule
    SELECTIONS.append(name)
    if may_accept_nothing:
        MAY_ACCEPT_NOTHING.append(name)


def select(
    proposal: Proposal,
    positions: Integers,
    eligible: Booleans,
    canvas: Canvas,
    config: DiffusionGenerationConfig,
) -> Booleans:
    """Which candidates to commit.

    Args:
        proposal ([`Proposal`]): What the forward proposes.
        positions (`Integers` of shape `(B, K)`): Canvas positions of the candidates.
        eligible (`Booleans` of shape `(B, K)`): Which candidates are real.

    Returns:
        `Booleans` of shape `(B, K)`.

    Raises:
        `ValueError`: For a rule that returns something else.
    """
    score = ranked(proposal.score, positions, eligible, config.position_penalty)
    accepted = RULES[config.selection](score, eligible, positions, canvas, config)
    if not isinstance(accepted, np.ndarray) or accepted.dtype != bool or accepted.shape != eligible.shape:
        raise ValueError(f"the rule of `selection`={config.selection!r} must return booleans (B, K), as `eligible` is")
    if config.selection not in MAY_ACCEPT_NOTHING:
        return accepted
    forced = config.forced_progress
    if config.forced_score not in (None, config.score):
        score = ranked(proposal.forced_score, positions, eligible, config.position_penalty)
    if forced in ("best", "best_and_first_block"):
        accepted = accepted | (eligible & (np.arange(score.shape[1]) == score.argmax(axis=1, keepdims=True)))
    if forced != "best":
        blocks = gather(canvas.block_of, positions)
        accepted = accepted | force_blocks(score, accepted, eligible, blocks, canvas, forced)
    return accepted


def ranked(score: Floats, positions: Integers, eligible: Booleans, position_penalty: float) -> Floats:
    """The scores (B, K) that a rule compares: -inf for what is not eligible; with a penalty, each less by that for
    every position between it and the first eligible one of its row (WeDLM, arXiv 2512.22737)."""
    if position_penalty:
        first = np.where(eligible, positions, positions.max()).min(axis=1, keepdims=True)
        score = score - np.float32(position_penalty) * (positions - first).astype(np.float32)
    return np.where(eligible, score, np.float32(-np.inf))


def force_blocks(
    score: Floats, accepted: Booleans, eligible: Booleans, blocks: Integers, canvas: Canvas, forced: str
) -> Booleans:
    """The best candidate (B, K) of each guaranteed block (B, M) in which nothing was accepted."""
    guaranteed = canvas.activated & (canvas.masks_left > 0)
    if forced != "every_block":
        guaranteed = guaranteed & (guaranteed.cumsum(axis=1) == 1)
    rows, columns = accepted.nonzero()
    guaranteed[rows, blocks[rows, columns]] = False
    return eligible & gather(guaranteed, blocks) & surest_of_groups(score, blocks)
