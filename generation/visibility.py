"""The attention mask of a forward: which slots of the canvas each recomputed position sees."""

from typing import Any

import numpy as np
import torch

from .canvas import Canvas


class Visibility:
    """
    What the rows of a run see, on the device of the model. Padding and blocks are put there once.

    Args:
        model ([`~d3llm.generation.decoding_diffusion.DiffusionGenerationMixin`]): The model.
        canvas ([`~d3llm.generation.canvas.Canvas`]): The batch.
        block_causal (`bool`): Whether the attention is block-causal.
        device (`torch.device`): Device of the inputs.
    """

    def __init__(self, model: Any, canvas: Canvas, block_causal: bool, device: torch.device):
        self.implementation, self.dtype = model.config._attn_implementation, model.dtype
        self.length = canvas.length
        padding, blocks = canvas.attention_mask, canvas.attention_block_of if block_causal else None
        self.padding, self.blocks = (
            None if values is None else torch.from_numpy(values).to(device) for values in (padding, blocks)
        )

    def mask(self, positions: torch.LongTensor, rows: torch.LongTensor | None) -> torch.Tensor | None:
        """
        The attention mask of some recomputed positions.

        Args:
            positions (`torch.LongTensor` of shape `(R, W)`): The positions.
            rows (`torch.LongTensor` of shape `(R,)`, *optional*): Their rows; all when not given.

        Returns:
            `torch.Tensor` or `None`: (R, 1, W, L) for sdpa and eager attention, else the padding (R, L); `None` where
            every position sees all.
        """
        padding, blocks = self.padding, self.blocks
        if rows is not None:
            padding = None if padding is None else padding[rows]
            blocks = None if blocks is None else blocks[rows]
        if blocks is not None:
            visible = blocks[:, None, None, :] <= blocks.gather(1, positions)[:, None, :, None]
            if padding is not None:
                visible = visible & (padding > 0)[:, None, None, :]
        elif padding is None or self.implementation not in ("sdpa", "eager"):
            return padding
        else:  # prepared here, since transformers reads a mask of padding on the host before it makes one of this
            visible = (padding > 0)[:, None, None, :].expand(-1, -1, positions.shape[1], -1)
        return self.as_mask(visible)

    def as_mask(self, visible: torch.Tensor) -> torch.Tensor:
        """What is `visible` (R, 1, W, L), in the form that the attention implementation expects."""
        return as_attention_mask(visible, self.implementation, self.dtype)

    def select_rows(self, rows: np.ndarray) -> None:
        """Keep only these rows."""
        if self.padding is not None:
            self.padding = self.padding[torch.from_numpy(rows).to(self.padding.device)]
        if self.blocks is not None:
            self.blocks = self.blocks[torch.from_numpy(rows).to(self.blocks.device)]


def as_attention_mask(visible: torch.Tensor, implementation: str, dtype: torch.dtype) -> torch.Tensor:
    """
    A prepared attention mask.

    Args:
        visible (`torch.BoolTensor` of shape `(R, 1, W, L)`): Which slots each position sees.
        implementation (`str`): Name of the attention implementation.
        dtype (`torch.dtype`): Type of the model's weights.

    Returns:
        `torch.Tensor` of shape `(R, 1, W, L)`: In the form that the implementation expects.
    """
    if implementation == "eager":
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    return visible
