"""Selection: which proposals a forward commits.

Pure functions on tensors over candidates: B rows, K candidates in each (rows with fewer are padded, `eligible` says
which are real). A larger score is always surer. A rule is a function of the scores (B, K), what is eligible (B, K),
the canvas and the config, and returns what it accepts (B, K). `RULES` names them.
"""

from collections.abc import Callable

import torch

from .canvas import Canvas, Proposal
from .configuration_diffusion import DiffusionGenerationConfig
from .fields import SELECTIONS


Rule = Callable[[torch.Tensor, torch.BoolTensor, Canvas, DiffusionGenerationConfig], torch.BoolTensor]


def forwards_of_block(canvas: Canvas, config: DiffusionGenerationConfig) -> torch.LongTensor:
    """How many forwards a schedule gives to the current block of each row (B,): `steps` are divided evenly among the
    blocks of the generated region, and the first ones take the remainder."""
    size = canvas.masks_at_start.gather(1, canvas.current[:, None])[:, 0]
    if config.steps is None:
        return size
    blocks, current = canvas.masks_at_start.shape[1] - canvas.first_block, canvas.current - canvas.first_block
    forwards = config.steps // blocks + (current < config.steps % blocks).long()
    # masks in the prompt are a block that `steps` does not count
    return torch.where(current < 0, size, forwards)


def time_share(canvas: Canvas, config: DiffusionGenerationConfig) -> torch.Tensor:
    """The share (B,) of the masked positions that forward s + 1 of S commits: 1 - t[s + 1] / t[s] along the grid
    t = linspace(1, eps, S + 1), and all in the last one (Dream, arXiv 2508.15487)."""
    forwards, step = forwards_of_block(canvas, config), canvas.forwards_in_block
    stride = (1 - config.eps) / forwards
    share = 1 - (1 - stride * (step + 1)) / (1 - stride * step)
    return torch.where(step < forwards - 1, share, 1.0)


def scheduled_quota(canvas: Canvas, config: DiffusionGenerationConfig) -> torch.LongTensor:
    """How many proposals of each row (B,) a schedule commits in this forward.

    Inside a block of m masked positions and S forwards, forward s commits

    - `"count"`: m // S, one more in the first m % S forwards (LLaDA, arXiv 2502.09992, `get_num_transfer_tokens`);
    - `"scheduled_threshold"`: at most as many as `"count"`, plus what earlier forwards left of their number
      (Fast-dLLM's code for Dream without blocks);
    - `"fraction"`: the share of the positions still masked that [`time_share`] gives.
    """
    current, step = canvas.current[:, None], canvas.forwards_in_block
    size, left = canvas.masks_at_start.gather(1, current)[:, 0], canvas.masks_left.gather(1, current)[:, 0]
    if config.selection == "fraction":
        return (left * time_share(canvas, config)).long()
    forwards = forwards_of_block(canvas, config)
    if config.selection == "count":
        return (size // forwards + (step < size % forwards).long()).clamp(min=1)
    done = step + 1
    accrued = torch.where(done < forwards, done * (size // forwards) + done.minimum(size % forwards), size)
    return (accrued - (size - left)).clamp(min=1)


def confident_quota(ordered: torch.Tensor, config: DiffusionGenerationConfig) -> torch.LongTensor:
    """How many of the surest proposals of each row (B,) `"factor"` and `"entropy_bound"` commit; at least one.

    - `"factor"`: as many as there are ranks r = 1, 2, ... with a probability of at least 1 - factor / (r + 1)
      (Fast-dLLM, arXiv 2505.22618, section 3.3);
    - `"entropy_bound"`: the longest run of the surest whose entropies, without the last one, sum to at most the bound
      (EB-Sampler, arXiv 2505.24857).

    Args:
        ordered (`torch.Tensor` of shape `(B, K)`): Scores from the surest down, -inf after the last real candidate.
    """
    if config.selection == "factor":
        ranks = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        within = ordered >= 1 - config.factor / (ranks + 1)
    else:
        entropies = -ordered
        before = entropies.cumsum(dim=1) - entropies
        within = before.nan_to_num(nan=torch.inf) <= config.entropy_bound
    return within.sum(dim=1).clamp(min=1)


def surest(order: torch.LongTensor, eligible: torch.BoolTensor, quota: torch.LongTensor) -> torch.BoolTensor:
    """The first `quota` (B,) candidates in an `order` (B, K) from the surest down."""
    ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return eligible & torch.zeros_like(order).scatter(1, order, ranks).lt(quota[:, None])


def by_threshold(
    score: torch.Tensor, eligible: torch.BoolTensor, canvas: Canvas, config: DiffusionGenerationConfig
) -> torch.BoolTensor:
    """`"threshold"`: every proposal that is sure enough."""
    return eligible & (score >= (-config.threshold if config.score == "entropy" else config.threshold))


def by_schedule(
    score: torch.Tensor, eligible: torch.BoolTensor, canvas: Canvas, config: DiffusionGenerationConfig
) -> torch.BoolTensor:
    """`"count"` and `"fraction"`: the surest, as many as scheduled."""
    order = score.argsort(dim=1, descending=True, stable=True)
    return surest(order, eligible, scheduled_quota(canvas, config))


def by_scheduled_threshold(
    score: torch.Tensor, eligible: torch.BoolTensor, canvas: Canvas, config: DiffusionGenerationConfig
) -> torch.BoolTensor:
    """`"scheduled_threshold"`: those that are sure enough, within the schedule."""
    return by_threshold(score, by_schedule(score, eligible, canvas, config), canvas, config)


def by_confidence(
    score: torch.Tensor, eligible: torch.BoolTensor, canvas: Canvas, config: DiffusionGenerationConfig
) -> torch.BoolTensor:
    """`"factor"` and `"entropy_bound"`: the surest, as many as their scores allow."""
    ordered, order = score.sort(dim=1, descending=True, stable=True)
    return surest(order, eligible, confident_quota(ordered, config))


def by_chance(
    score: torch.Tensor, eligible: torch.BoolTensor, canvas: Canvas, config: DiffusionGenerationConfig
) -> torch.BoolTensor:
    """`"bernoulli"`: each with the probability of the schedule; the score is a uniform number."""
    return eligible & (score >= 1 - time_share(canvas, config)[:, None])


RULES: dict[str, Rule] = {
    "threshold": by_threshold,
    "scheduled_threshold": by_scheduled_threshold,
    "count": by_schedule,
    "fraction": by_schedule,
    "factor": by_confidence,
    "entropy_bound": by_confidence,
    "bernoulli": by_chance,
}
MAY_ACCEPT_NOTHING = ["threshold", "scheduled_threshold"]  # progress is forced after these


def register_rule(name: str, rule: Rule, *, may_accept_nothing: bool = True) -> None:
    """
    Adds a rule, for `generate(selection=name)`.

    Args:
        name (`str`): Its name.
        rule (`Callable`): A function of the scores `(B, K)`, what is eligible `(B, K)`, the canvas and the config. It
            returns what it accepts, `(B, K)`, and must not accept what is not eligible.
        may_accept_nothing (`bool`, *optional*, defaults to `True`): Whether progress must be forced after it, by
            `forced_progress`: otherwise a row in which it accepts nothing is never finished.

    Raises:
        `ValueError`: For a name that is taken.
    """
    if name in RULES:
        raise ValueError(f"`selection`={name!r} is taken: give the rule another name")
    RULES[name] = rule
    SELECTIONS.append(name)
    if may_accept_nothing:
        MAY_ACCEPT_NOTHING.append(name)


def select(
    proposal: Proposal,
    positions: torch.LongTensor,
    eligible: torch.BoolTensor,
    canvas: Canvas,
    config: DiffusionGenerationConfig,
) -> torch.BoolTensor:
    """Which candidates to commit.

    Args:
        proposal ([`Proposal`]): Of the forward.
        positions (`torch.LongTensor` of shape `(B, K)`): Canvas positions of the candidates.
        eligible (`torch.BoolTensor` of shape `(B, K)`): Which candidates are real.

    Returns:
        `torch.BoolTensor` of shape `(B, K)`.
    """
    score = proposal.score.masked_fill(~eligible, -torch.inf)
    accepted = RULES[config.selection](score, eligible, canvas, config)
    if config.selection not in MAY_ACCEPT_NOTHING:
        return accepted
    forced = config.forced_progress
    if config.forced_score not in (None, config.score):
        score = proposal.forced_score.masked_fill(~eligible, -torch.inf)
    if forced in ("best", "best_and_first_block"):
        best = torch.zeros_like(eligible).scatter(1, score.argmax(dim=1, keepdim=True), True)
        accepted = accepted | (best & eligible)
    if forced != "best":
        accepted = accepted | force_blocks(score, accepted, eligible, canvas.block_of[positions], canvas, forced)
    return accepted


def force_blocks(
    score: torch.Tensor,
    accepted: torch.BoolTensor,
    eligible: torch.BoolTensor,
    blocks: torch.LongTensor,
    canvas: Canvas,
    forced: str,
) -> torch.BoolTensor:
    """The best candidate (B, K) of each guaranteed block (B, M) in which nothing was accepted."""
    guaranteed = canvas.activated & (canvas.masks_left > 0)
    if forced != "every_block":
        guaranteed = guaranteed & (guaranteed.cumsum(dim=1) == 1)
    satisfied = torch.zeros_like(canvas.masks_left).scatter_add(1, blocks, accepted.long()) > 0
    best = torch.full_like(guaranteed, -torch.inf, dtype=score.dtype).scatter_reduce(1, blocks, score, "amax")
    order = torch.arange(score.shape[1], device=score.device).expand_as(blocks)
    contender = order.where(eligible & (score == best.gather(1, blocks)), score.shape[1])
    first = torch.full_like(canvas.masks_left, score.shape[1]).scatter_reduce(1, blocks, contender, "amin")
    return (order == first.gather(1, blocks)) & (guaranteed & ~satisfied).gather(1, blocks)
