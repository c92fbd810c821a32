"""Soft inputs: decoded tokens of the current block are shown as certain as the model is of them (DMax)."""

from typing import Any

import numpy as np
import torch
from torch import nn

from .canvas import Booleans, Canvas, Integers, PerRow, Proposal, gather


EPSILON = 1e-6  # of a norm that is divided by


class SoftInputs(PerRow):
    """
    The last proposals at the positions of a batch, which become its inputs (DMax, arXiv 2604.08302, soft parallel
    decoding): a decoded position of the current block is shown between the mask token and the token that the last
    forward proposes for it. All others are shown as their tokens: what is given, earlier blocks, and masks.

    Args:
        canvas ([`~d3llm.generation.canvas.Canvas`]): The batch.
        embedding (`nn.Module`): The model's input embeddings.
        mask_token_id (`int`): The mask token.

    Attributes:
        tokens (`Integers` of shape `(B, L)`): The last proposals.
        probabilities (`Floats` of shape `(B, L)`): Theirs; 0 where nothing was proposed yet.
    """

    def __init__(self, canvas: Canvas, embedding: nn.Module, mask_token_id: int):
        self.embedding, self.mask_token_id = embedding, mask_token_id
        self.tokens = np.zeros_like(canvas.tokens)
        self.probabilities = np.zeros(canvas.tokens.shape, dtype=np.float32)

    def observe(self, positions: Integers, candidates: Booleans, proposal: Proposal) -> None:
        """Records what a forward proposes at its `candidates` (B, L), which are among the `positions` (B, K)."""
        rows, columns = gather(candidates, positions).nonzero()
        where = rows, positions[rows, columns]
        self.tokens[where] = proposal.tokens[rows, columns]
        self.probabilities[where] = proposal.score[rows, columns]

    def shown(self, canvas: Canvas) -> Booleans:
        """The positions (B, L) with soft inputs in the next forward."""
        in_block = canvas.block_of == canvas.current[:, None]
        return in_block & canvas.committed & ~canvas.given & (self.probabilities > 0)

    def soften(
        self, inputs: dict[str, Any], canvas: Canvas, positions: Integers, rows: Integers | slice
    ) -> dict[str, Any]:
        """
        The inputs of a forward with `inputs_embeds` in place of `input_ids`, if it has a soft one.

        Args:
            inputs (`dict[str, Any]`): Those of a forward of R rows.
            canvas ([`~d3llm.generation.canvas.Canvas`]): The state before it.
            positions (`Integers` of shape `(R, window)`): What it recomputes.
            rows (`Integers` of shape `(R,)` or `slice`): Its rows of the batch.
        """
        soft = gather(self.shown(canvas)[rows], positions)
        if not soft.any():
            return inputs
        inputs = dict(inputs)
        input_ids = inputs.pop("input_ids")
        tokens = torch.from_numpy(gather(self.tokens[rows], positions)).to(input_ids.device)
        probabilities = torch.from_numpy(gather(self.probabilities[rows], positions)).to(input_ids.device)
        hard = self.embedding(input_ids)
        mask = self.embedding(input_ids.new_full((1, 1), self.mask_token_id))
        mixed = mixed_embeddings(self.embedding(tokens), mask, probabilities)
        is_soft = torch.from_numpy(soft).to(hard.device)[..., None]
        return inputs | {"inputs_embeds": torch.where(is_soft, mixed, hard)}


def mixed_embeddings(token: torch.Tensor, mask: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """
    Embeddings between those of a token and of the mask token: p e(token) + (1 - p) e(mask), which is shorter than
    either where they point apart, and is scaled to the length p |e(token)| + (1 - p) |e(mask)|.

    Args:
        token (`torch.Tensor` of shape `(..., D)`), mask (`torch.Tensor`, broadcast with it): The embeddings.
        probability (`torch.Tensor` of shape `(...)`): p, of the token.

    Returns:
        `torch.Tensor` of shape `(..., D)`: In the dtype of the token's.
    """
    dtype, token, mask = token.dtype, token.float(), mask.float()
    probability = probability.to(token.device)[..., None]
    mixed = probability * token + (1 - probability) * mask
    length = probability * token.norm(dim=-1, keepdim=True) + (1 - probability) * mask.norm(dim=-1, keepdim=True)
    return (mixed * (length / (mixed.norm(dim=-1, keepdim=True) + EPSILON))).to(dtype)
