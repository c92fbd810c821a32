"""The mask rows of a training step: where their groups are, what they see, and what they predict."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .corruption import draw


@dataclass(frozen=True)
class MaskGroups:
    """
    Groups of K mask rows, A in each of B texts of at most T tokens.

    Mask row j (1..K) of the group after the base row at position i has position i + j, and predicts the token at
    i + j + 1: the base row itself predicts that at i + 1.

    Attributes:
        anchors (`Tensor` of shape `(B, A)`): The positions i, rising.
        targets (`Tensor` of shape `(B, A, K)`): The tokens to predict; 0 after the end of the text.
        before (`Tensor` of shape `(B, A, K)`): The tokens before them, which the sampler head is given.
        weights (`Tensor` of shape `(B, A, K)`): In the loss; 0 after the end of the text.
    """

    anchors: Tensor
    targets: Tensor
    before: Tensor
    weights: Tensor

    @property
    def positions(self) -> Tensor:
        """The position of each mask row, of shape `(B, A * K)`."""
        window = self.targets.shape[2]
        return (self.anchors[:, :, None] + torch.arange(1, window + 1, device=self.anchors.device)).flatten(1)

    def visible(self, length: int) -> Tensor:
        """
        What the mask rows see: the clean rows up to their anchor, and the mask rows of their own group up to
        themselves.

        Args:
            length (`int`): Clean rows, T.

        Returns:
            `torch.BoolTensor` of shape `(B, 1, A * K, T + A * K)`: Of the clean rows and the mask rows.
        """
        batch, groups, window = self.targets.shape
        device = self.anchors.device
        clean = torch.arange(length, device=device) <= self.anchors.repeat_interleave(window, dim=1)[:, :, None]
        row = torch.arange(groups * window, device=device)
        own = (row[:, None] // window == row // window) & (row <= row[:, None])
        return torch.cat([clean, own.expand(batch, -1, -1)], dim=2)[:, None]


def draw_groups(
    batch: dict[str, Tensor], *, seed: int, step: int, window: int, mask_rows: int, offset_decay: float
) -> MaskGroups:
    """
    Draws the groups of a batch; a pure function of the seed, the step and the texts.

    Args:
        batch (`dict[str, Tensor]`): `input_ids` (B, T), padded on the right; `prompt_lengths`, `lengths` and `index`
            (B,).
        seed (`int`), step (`int`): What the random numbers depend on.
        window (`int`): K, mask rows of a group.
        mask_rows (`int`): Mask rows of a text.
        offset_decay (`float`): The weight of a mask row over that of the one before it.

    Returns:
        [`MaskGroups`]: A text with fewer anchors than there are groups has groups without weight.
    """
    input_ids, lengths = batch["input_ids"], batch["lengths"][:, None]
    length = input_ids.shape[1]
    position = torch.arange(length, device=input_ids.device)
    # the first mask row of a group must have a target, two positions after its anchor
    possible = (position >= batch["prompt_lengths"][:, None] - 1) & (position <= lengths - 3)
    keys = draw(seed, step, batch["index"], length).positions.masked_fill(~possible, -1.0)
    drawn = keys.topk(min(max(1, mask_rows // window), length), dim=1)
    anchors, order = drawn.indices.sort(dim=1)
    is_drawn = drawn.values.gather(1, order) >= 0
    offset = torch.arange(window, device=input_ids.device)
    place = anchors[:, :, None] + 2 + offset
    exists = is_drawn[:, :, None] & (place < lengths[:, :, None])
    texts = input_ids[:, None].expand(-1, anchors.shape[1], -1)
    last = length - 1
    return MaskGroups(
        anchors=anchors,
        targets=texts.gather(2, place.clamp(max=last)).masked_fill(~exists, 0),
        before=texts.gather(2, (place - 1).clamp(max=last)),
        weights=exists * (offset_decay ** offset.float()),
    )


def candidate_ids(targets: Tensor, vocab_size: int, *, candidates: int, others: int, seed: int, step: int) -> Tensor:
    """
    The ids that a loss is over.

    Args:
        targets (`Tensor`): Ids that are among them.
        vocab_size (`int`): Number of ids.
        candidates (`int`): All ids below it are among them; 0 for the whole vocabulary.
        others (`int`): How many further ids to draw.
        seed (`int`), step (`int`): What the random numbers depend on.

    Returns:
        `torch.LongTensor` of shape `(C,)`: Rising.
    """
    device = targets.device
    if not 0 < candidates < vocab_size:
        return torch.arange(vocab_size, device=device)
    uniform = draw(seed, step, torch.full((1,), -1, device=device), others).positions[0]
    drawn = candidates + (uniform * (vocab_size - candidates)).long()
    return torch.cat([torch.arange(candidates, device=device), targets.flatten(), drawn]).unique()
