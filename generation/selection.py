"""Proposal and selection: what a forward proposes, and which proposals it commits.

Pure functions on tensors over candidates: B rows, K candidates in a row (rows with fewer are padded, `eligible` says
which are real). A larger score is always surer.
"""

import math
from collections.abc import Iterable

import torch
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from .canvas import Canvas, Proposal
from .configuration_diffusion import DiffusionGenerationConfig
from .noise import Draw


LARGEST_SPAN = 256  # it divides the vocabularies of LLaDA and Dream


def propose(
    logits: Iterable[torch.Tensor],
    positions: torch.LongTensor,
    canvas: Canvas,
    config: DiffusionGenerationConfig,
    mask_token_id: int,
    logits_processor: LogitsProcessorList | None,
    forward: int,
) -> Proposal:
    """A token for every candidate and how sure the model is of it.

    Args:
        logits (`Iterable[torch.Tensor]`): Parts (candidates, vocab) of the logits, row after row of the batch; they
            are overwritten.
        positions (`torch.LongTensor` of shape `(B, K)`): Canvas positions of the candidates.
        forward (`int`): Number of the forward, for sampling.
    """
    rows = torch.arange(len(positions), device=positions.device).repeat_interleave(positions.shape[1])
    generated = (positions - canvas.region_starts[:, None]).flatten()  # the same whatever the padding
    shown = canvas.without_padding() if logits_processor else canvas.tokens
    parts, start = [], 0
    for part in logits:
        these = slice(start, start + len(part))
        start += len(part)
        # what little a candidate brings goes to the head's device, not the logits to the canvas's
        draw = Draw(canvas.seeds[rows[these]].to(part.device), generated[these].to(part.device), forward)
        if logits_processor:
            part = logits_processor(shown[rows[these]].to(part.device), part.float())
        parts.append(propose_part(part.float(), draw, config, mask_token_id, may_forbid=bool(logits_processor)))
    fields = [
        None if field[0] is None else torch.cat(field).view(positions.shape).to(positions.device)
        for field in zip(*parts, strict=True)
    ]
    return Proposal(*fields)


def propose_part(
    logits: torch.Tensor, draw: Draw, config: DiffusionGenerationConfig, mask_token_id: int, may_forbid: bool
) -> tuple[torch.Tensor | None, ...]:
    """The fields of a [`Proposal`] for some candidates, from their `logits` (candidates, vocab), which it overwrites.

    Entropy in one float32 pass: with z the logits less their maximum and S = sum(exp z), H = log S - sum(z exp z) / S.
    The mask token counts in the distribution but is never proposed.
    """
    logits -= logits.amax(dim=-1, keepdim=True)
    if may_forbid:  # a token that a processor forbids has no weight, and -inf * 0 is not 0
        logits.clamp_(min=torch.finfo(logits.dtype).min)
    weights = logits.exp()
    total = weights.sum(dim=-1)
    kinds = {config.score, config.forced_score or config.score}
    scores = {}
    if "entropy" in kinds:
        # a batch of row times column, since a product and its sum would write a tensor of the size of the logits
        scores["entropy"] = torch.bmm(weights[:, None], logits[..., None])[:, 0, 0] / total - total.log()
    if "margin" in kinds:
        top = weights.topk(2, dim=-1).values
        scores["margin"] = (top[:, 0] - top[:, 1]) / total
    if "random" in kinds:
        scores["random"] = draw.uniform(1, stream=-1)[:, 0].where(total.isfinite(), torch.nan)

    logits[:, mask_token_id] = -torch.inf
    if config.temperature > 0:
        # the Gumbel-max trick
        tokens = largest(restrict(logits / config.temperature, config) + draw.gumbel(logits.shape[-1]))
    else:
        tokens = largest(logits)
    if "probability" in kinds:
        scores["probability"] = weights.gather(-1, tokens[:, None])[:, 0] / total
    logprobs = logits.gather(-1, tokens[:, None])[:, 0] - total.log() if config.output_logprobs else None
    return tokens, scores[config.score], scores[config.forced_score or config.score], logprobs


def largest(values: torch.Tensor) -> torch.LongTensor:
    """`values.argmax(dim=-1)` of `values` (rows, vocab), the first of equals.

    First the largest of each span, then the largest in that span: a CPU finds a maximum several times as fast as its
    index.
    """
    width = math.gcd(values.shape[-1], LARGEST_SPAN)
    if width < LARGEST_SPAN:
        return values.argmax(dim=-1)
    spans = values.unflatten(-1, (-1, width))
    best = spans.amax(dim=-1).argmax(dim=-1)
    inside = spans.gather(1, best[:, None, None].expand(-1, 1, width))[:, 0]
    return best * width + inside.argmax(dim=-1)


def restrict(logits: torch.Tensor, config: DiffusionGenerationConfig) -> torch.Tensor:
    """Logits (candidates, vocab) with -inf outside `top_k` and `top_p`."""
    warpers = LogitsProcessorList()
    if config.top_k:
        warpers.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        warpers.append(TopPLogitsWarper(config.top_p))
    return warpers(logits[:, :0].long(), logits)


def forwards_of_block(canvas: Canvas, config: DiffusionGenerationConfig) -> torch.LongTensor:
    """How many forwards a schedule gives to the current block of each row (B,): `steps` is shared out evenly over the
    blocks of the generated region, the first ones take the remainder."""
    size = canvas.sizes.gather(1, canvas.current[:, None])[:, 0]
    if config.steps is None:
        return size
    blocks, current = canvas.sizes.shape[1] - canvas.first_block, canvas.current - canvas.first_block
    forwards = config.steps // blocks + (current < config.steps % blocks).long()
    # masks in the prompt are a block that the caller's steps do not count
    return torch.where(current < 0, size, forwards)


def time_share(canvas: Canvas, config: DiffusionGenerationConfig) -> torch.Tensor:
    """The share (B,) of the masked positions that forward s + 1 of S commits: 1 - t[s + 1] / t[s] along the grid
    t = linspace(1, eps, S + 1), and all in the last one (Dream, arXiv 2508.15487)."""
    forwards, step = forwards_of_block(canvas, config), canvas.forwards_in_block
    stride = (1 - config.eps) / forwards
    share = 1 - (1 - stride * (step + 1)) / (1 - stride * step)
    return torch.where(step < forwards - 1, share, 1.0)


def scheduled_quota(canvas: Canvas, config: DiffusionGenerationConfig) -> torch.LongTensor:
    """How many proposals a schedule commits in this forward, a row (B,).

    Inside a block of m masked positions and S forwards, forward s commits

    - `"count"`: m // S, one more in the first m % S forwards (LLaDA, arXiv 2502.09992, `get_num_transfer_tokens`);
    - `"scheduled_threshold"`: at most as many as `"count"`, and what earlier forwards left of their number
      (Fast-dLLM's code for Dream without blocks);
    - `"fraction"`: the share of the positions still masked that [`time_share`] gives.
    """
    current, step = canvas.current[:, None], canvas.forwards_in_block
    size, left = canvas.sizes.gather(1, current)[:, 0], canvas.left.gather(1, current)[:, 0]
    if config.selection == "fraction":
        return (left * time_share(canvas, config)).long()
    forwards = forwards_of_block(canvas, config)
    if config.selection == "count":
        return (size // forwards + (step < size % forwards).long()).clamp(min=1)
    done = step + 1
    accrued = torch.where(done < forwards, done * (size // forwards) + done.minimum(size % forwards), size)
    return (accrued - (size - left)).clamp(min=1)


def confident_quota(ordered: torch.Tensor, config: DiffusionGenerationConfig) -> torch.LongTensor:
    """How many of the surest proposals `"factor"` and `"entropy_bound"` commit, a row (B,); at least one.

    - `"factor"`: as many as there are ranks r = 1, 2, ... with a probability of at least 1 - factor / (r + 1)
      (Fast-dLLM, arXiv 2505.22618, section 3.3);
    - `"entropy_bound"`: the longest run of the surest whose entropies, the last one left out, sum to the bound at most
      (EB-Sampler, arXiv 2505.24857).

    Args:
        ordered (`torch.Tensor` of shape `(B, K)`): Scores from the surest down, -inf behind the last real candidate.
    """
    if config.selection == "factor":
        ranks = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        within = ordered >= 1 - config.factor / (ranks + 1)
    else:
        entropies = -ordered
        before = entropies.cumsum(dim=1) - entropies
        within = before.nan_to_num(nan=torch.inf) <= config.entropy_bound
    return within.sum(dim=1).clamp(min=1)


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
    accepted = eligible
    if config.selection == "bernoulli":  # of a uniform number: at least 1 - p with probability p
        return eligible & (score >= 1 - time_share(canvas, config)[:, None])
    if config.selection != "threshold":
        ordered, order = score.sort(dim=1, descending=True, stable=True)
        by_score = config.selection in ("factor", "entropy_bound")
        quota = confident_quota(ordered, config) if by_score else scheduled_quota(canvas, config)
        ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
        accepted = eligible & torch.zeros_like(order).scatter(1, order, ranks).lt(quota[:, None])
        if config.selection != "scheduled_threshold":
            return accepted
    limit = -config.threshold if config.score == "entropy" else config.threshold
    accepted = accepted & (score >= limit)
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
    guaranteed = canvas.activated & (canvas.left > 0)
    if forced != "every_block":
        guaranteed = guaranteed & (guaranteed.cumsum(dim=1) == 1)
    satisfied = torch.zeros_like(canvas.left).scatter_add(1, blocks, accepted.long()) > 0
    best = torch.full_like(guaranteed, -torch.inf, dtype=score.dtype).scatter_reduce(1, blocks, score, "amax")
    order = torch.arange(score.shape[1], device=score.device).expand_as(blocks)
    contender = order.where(eligible & (score == best.gather(1, blocks)), score.shape[1])
    first = torch.full_like(canvas.left, score.shape[1]).scatter_reduce(1, blocks, contender, "amin")
    return (order == first.gather(1, blocks)) & (guaranteed & ~satisfied).gather(1, blocks)
