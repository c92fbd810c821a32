"""Proposals: a token for every candidate, and how sure the model is of it. A larger score is always surer."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from .canvas import Booleans, Canvas, Floats, Integers, Proposal
from .configuration_diffusion import DiffusionGenerationConfig
from .credits import CreditedTokens, Credits
from .noise import Draw


LARGEST_SPAN = 256  # it divides the vocabularies of LLaDA and Dream


def propose(
    logits: Iterable[torch.Tensor],
    positions: Integers,
    canvas: Canvas,
    config: DiffusionGenerationConfig,
    mask_token_id: int,
    logits_processor: LogitsProcessorList | None,
    forward: int,
    credits: Credits | None = None,
    drafts: Integers | None = None,
    candidates: Booleans | None = None,
) -> Proposal:
    """A token for every candidate and how sure the model is of it. Reads them on the host: the one read of a forward.

    Args:
        logits (`Iterable[torch.Tensor]`): Parts (candidates, vocab) of the logits, row after row of the batch; they
            are overwritten.
        positions (`Integers` of shape `(B, K)`): Canvas positions of the candidates, then others in rows with fewer.
        forward (`int`): Number of the forward, for sampling.
        credits ([`~d3llm.generation.credits.Credits`], *optional*): What tokens have gained in earlier forwards.
        drafts (`Integers` of shape `(B, K)`, *optional*): Tokens to score, -1 where the model proposes one.
        candidates (`Booleans` of shape `(B, K)`, *optional*): Which of the positions are candidates, for `credits`.
    """
    rows = np.arange(len(positions)).repeat(positions.shape[1])
    generated = (positions - canvas.region_starts[:, None]).flatten()  # the same whatever the padding
    shown = canvas.without_padding() if logits_processor else canvas.tokens
    forwards, parts, start = (forward - canvas.began)[rows], [], 0  # of a row, whenever it joined the batch
    for part in logits:
        span = slice(start, start + len(part))
        start += len(part)
        draw = Draw(canvas.seeds[rows[span]], generated[span], forwards[span])
        if logits_processor:
            part = logits_processor(torch.from_numpy(shown[rows[span]]).to(part.device), part.float())
        credited = None if credits is None else credits.of(rows[span], positions.flatten()[span])
        given = None if drafts is None else torch.from_numpy(drafts.flatten()[span]).to(part.device)
        part = part.float()
        parts.append(propose_part(part, draw, config, mask_token_id, bool(logits_processor), credited, given))
    numbers = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).numpy(force=True)
    tokens, *fields = numbers.reshape(-1, *positions.shape)
    scores = {kind: fields.pop(0) for kind in kinds_of_scores(config)}
    for kind, finite in scores.items():
        if kind in WITHOUT_THE_MODEL:
            drawn = WITHOUT_THE_MODEL[kind](Draw(canvas.seeds[rows], generated, forwards))
            scores[kind] = np.where(np.isfinite(finite), drawn.reshape(positions.shape), np.float32(np.nan))
    score, forced_score = scores[config.score], scores[config.forced_score or config.score]
    if credits is not None and candidates is not None:
        top, probability = fields.pop(0), fields.pop(0)
        credits.gain(positions, candidates, top.view(np.int32).astype(np.int64), probability)
    return Proposal(tokens.view(np.int32).astype(np.int64), score, forced_score, fields[0] if fields else None)


# Scores of candidates (candidates,) that do not depend on what the model proposes.
WITHOUT_THE_MODEL: dict[str, Callable[[Draw], Floats]] = {
    "random": Draw.uniform,
    "position": lambda draw: -draw.generated.astype(np.float32),
}


def kinds_of_scores(config: DiffusionGenerationConfig) -> list[str]:
    """The scores that a run needs, each once."""
    return list(dict.fromkeys((config.score, config.forced_score or config.score)))


def propose_part(
    logits: torch.Tensor,
    draw: Draw,
    config: DiffusionGenerationConfig,
    mask_token_id: int,
    may_forbid: bool,
    credited: CreditedTokens | None = None,
    drafts: torch.LongTensor | None = None,
) -> torch.Tensor:
    """The fields of a [`Proposal`] for some candidates, from their `logits` (candidates, vocab), which it overwrites.

    One float32 tensor (fields, candidates), so that the host reads it at once: the bits of the tokens as int32, the
    scores, the scores of forced progress if they are others, with credits the most probable tokens without them and
    their probabilities, and the log-probabilities if asked for. Scores that do
    not depend on the model are made on the host; in their place is whether the logits are finite.

    Entropy in one float32 pass: with z the logits less their maximum and S = sum(exp z), H = log S - sum(z exp z) / S.
    The mask token counts in the distribution but is never proposed. `drafts` (candidates,) are tokens to score, -1
    where one is to be proposed.
    """
    logits -= logits.amax(dim=-1, keepdim=True)
    if may_forbid:  # the weight of a forbidden token is 0, and -inf * 0 is not
        logits.clamp_(min=torch.finfo(logits.dtype).min)
    without_credit = []
    if credited is not None:
        top, probability = most_probable(logits, mask_token_id)
        without_credit = [top.int().view(torch.float32), probability]
        credited.add_to(logits, top, probability)
        logits -= logits.amax(dim=-1, keepdim=True)
    weights = logits.exp()
    total = weights.sum(dim=-1)
    kinds, scores = kinds_of_scores(config), {}
    if "entropy" in kinds:
        # not a matrix product: over a real vocabulary its float32 sum is off by 1e-3 nats, and TF32 makes it worse
        scores["entropy"] = (weights * logits).sum(dim=-1) / total - total.log()
    if "margin" in kinds:
        top = weights.topk(2, dim=-1).values
        scores["margin"] = (top[:, 0] - top[:, 1]) / total
    scores |= {kind: total for kind in kinds if kind in WITHOUT_THE_MODEL}

    logits[:, mask_token_id] = -torch.inf
    if config.temperature > 0:
        # the Gumbel-max trick
        tokens = largest(restrict(logits / config.temperature, config) + draw.gumbel(logits.shape[-1], logits.device))
    else:
        tokens = largest(logits)
    if drafts is not None:
        tokens = torch.where(drafts < 0, tokens, drafts)
    if "probability" in kinds:
        scores["probability"] = weights.gather(-1, tokens[:, None])[:, 0] / total
    fields = [tokens.int().view(torch.float32), *(scores[kind] for kind in kinds), *without_credit]
    if config.output_logprobs:
        fields.append(logits.gather(-1, tokens[:, None])[:, 0] - total.log())
    return torch.stack(fields)


def most_probable(logits: torch.Tensor, mask_token_id: int) -> tuple[torch.LongTensor, torch.Tensor]:
    """The most probable token of each candidate (candidates,), not the mask token, and its probability."""
    weights = logits.exp()
    total = weights.sum(dim=-1)
    weights[:, mask_token_id] = 0
    tokens = largest(weights)
    return tokens, weights.gather(-1, tokens[:, None])[:, 0] / total


def largest(values: torch.Tensor) -> torch.LongTensor:
    """`values.argmax(dim=-1)` of `values` (rows, vocab), the first of equals.

    First the largest of each span, then its index in that span: a CPU finds a maximum several times as fast as
    its index.
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
