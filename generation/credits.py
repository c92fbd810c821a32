"""Credit for tokens that a model has proposed again and again for a position (CreditDecoding, arXiv 2510.06133)."""

import numpy as np
import torch

from .canvas import Booleans, Canvas, Integers, PerRow, gather


CREDITED_TOKENS = 8  # per position: how many have credit at a time; a new one takes the place of the least credited


class Credits(PerRow):
    """
    The credit of tokens at masked positions. Each forward, the most probable token of a position, with probability p,
    gains p^power, after all credit there has decayed; a token with credit C gains `weight` * log(1 + C) in its logit.

    Args:
        canvas ([`~d3llm.generation.canvas.Canvas`]): The batch.
        weight, power, decay (`float`): alpha, gamma and beta of the paper's section 3.

    Attributes:
        tokens (`Integers` of shape `(B, L, N)`): The credited tokens of a position.
        credit (`Floats` of shape `(B, L, N)`): Theirs; 0 where there is none.
    """

    def __init__(self, canvas: Canvas, weight: float, power: float, decay: float):
        self.weight, self.power, self.decay = weight, power, decay
        self.tokens = np.zeros((*canvas.tokens.shape, CREDITED_TOKENS), dtype=np.int64)
        self.credit = np.zeros(self.tokens.shape, dtype=np.float32)

    def of(self, rows: Integers, positions: Integers) -> "CreditedTokens":
        """What candidates (candidates,) have, before a forward."""
        tokens, credit = self.tokens[rows, positions], self.credit[rows, positions]
        return CreditedTokens(torch.from_numpy(tokens), torch.from_numpy(credit), self)

    def gain(self, positions: Integers, candidates: Booleans, tokens: Integers, probabilities: np.ndarray) -> None:
        """Record the most probable `tokens` (B, K) at those `positions` (B, K) that are `candidates` (B, K) of a
        forward."""
        before_it = gather(self.tokens, positions), gather(self.credit, positions)
        known, credit = gather(self.tokens, positions), gather(self.credit, positions) * np.float32(self.decay)
        same = (known == tokens[..., None]) & (credit > 0)
        place = np.where(same.any(axis=-1), same.argmax(axis=-1), credit.argmin(axis=-1))[..., None]
        before = np.where(same.any(axis=-1, keepdims=True), np.take_along_axis(credit, place, axis=-1), 0)
        gained = before + (probabilities ** np.float32(self.power))[..., None]
        np.put_along_axis(known, place, tokens[..., None], axis=-1)
        np.put_along_axis(credit, place, gained.astype(np.float32), axis=-1)
        rows = np.arange(len(positions))[:, None]
        self.tokens[rows, positions], self.credit[rows, positions] = (
            np.where(candidates[..., None], after, before)
            for after, before in zip((known, credit), before_it, strict=True)
        )


class CreditedTokens:
    """The credit of some candidates (candidates, N), added to their logits on their device."""

    def __init__(self, tokens: torch.LongTensor, credit: torch.Tensor, credits: Credits):
        self.tokens, self.credit, self.credits = tokens, credit, credits

    def add_to(self, logits: torch.Tensor, top: torch.LongTensor, probability: torch.Tensor) -> None:
        """Add to `logits` (candidates, vocab) what credited tokens and the `top` ones (candidates,) gain."""
        tokens, credit = self.tokens.to(logits.device), self.credit.to(logits.device) * self.credits.decay
        gained = probability[:, None] ** self.credits.power
        same = (tokens == top[:, None]) & (credit > 0)
        credit = torch.cat([credit + same * gained, gained * ~same.any(dim=1, keepdim=True)], dim=1)
        logits.scatter_add_(1, torch.cat([tokens, top[:, None]], dim=1), self.credits.weight * credit.log1p())
