"""Block-causal attention in training: noisy blocks, each conditioned on the clean blocks before it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

from ..generation.preparation import trained_attention
from ..modeling.outputs import CanvasModelOutput


@dataclass(frozen=True)
class BlockGrid:
    """
    Where the blocks of block-causal attention lie, as the decoder counts them.

    Attributes:
        kind (`str`): `"absolute"`, counted from the first token of the row; or `"prompt"`, from the end of the prompt,
            which is block 0.
        size (`int`): Positions per block.
    """

    kind: str
    size: int

    def blocks(self, attention_mask: Tensor, region_start: int) -> Tensor:
        """
        The block of each position.

        Args:
            attention_mask (`Tensor` of shape `(rows, L)`): 1 = token, 0 = padding, on either side of the tokens.
            region_start (`int`): Column where the generated regions begin.

        Returns:
            `Tensor` of shape `(rows, L)`: Numbers from 0 that never fall along a row. Padding before the tokens is in
            block 0.
        """
        columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        if self.kind == "absolute":
            start = attention_mask.argmax(dim=1, keepdim=True)
        else:
            start = torch.full_like(attention_mask[:, :1], region_start - self.size)
        return (columns - start).div(self.size, rounding_mode="floor").clamp(min=0)


def block_grid(model: PreTrainedModel) -> BlockGrid | None:
    """
    The blocks with which a model attends, as its config or its class states it.

    Args:
        model (`PreTrainedModel`): The model, without adapters around it.

    Returns:
        [`BlockGrid`], *optional*: `None` for attention that is not block-causal.

    Raises:
        `ValueError`: If the attention is block-causal, and nothing states the size of the blocks, or the attention
            implementation takes no such mask.
    """
    if trained_attention(model) != "block_causal":
        return None
    if model.attention_block_size is None:
        raise ValueError(
            "The model has block-causal attention and does not state the size of its blocks: give "
            "`attention_block_sizes`."
        )
    implementation = model.config._attn_implementation
    if implementation not in ("sdpa", "eager", "flex_attention"):
        raise ValueError(
            f"A block-causal model cannot be trained with `attn_implementation` {implementation!r}: load it with "
            "'sdpa', 'eager' or 'flex_attention'."
        )
    return BlockGrid(model.attention_grid, model.attention_block_size)


def make_block_causal(model: PreTrainedModel, size: int) -> None:
    """
    States in a model, and in its config, that it attends in blocks of this size.

    Args:
        model (`PreTrainedModel`): The model, without adapters around it.
        size (`int`): Positions per block.
    """
    if trained_attention(model) != "block_causal":
        model.config.attention = "block_causal"
    model.config.attention_block_size = model.attention_block_size = size


def check_grids(student: BlockGrid | None, teacher: BlockGrid | None, block_ratios: str) -> None:
    """
    Refuses mask ratios of blocks on a model without, and a block-causal teacher whose blocks are counted otherwise
    than the student's. It attends in the student's blocks; one that is not block-causal sees everything.
    """
    if student is None and block_ratios != "shared":
        raise ValueError(
            f"`block_ratios={block_ratios!r}` is for block-causal models, and this one is not: give "
            "`attention_block_sizes` to make it one."
        )
    if teacher is not None and (student is None or teacher.kind != student.kind):
        raise ValueError(
            f"The teacher attends block by block ({teacher.kind} grid), the student does not, or counts its blocks "
            "otherwise: choose a teacher of the student's family, or one with bidirectional attention."
        )


def block_causal_mask(attention_mask: Tensor, blocks: Tensor, doubled: bool) -> Tensor:
    """
    Which positions see which. In [noisy ; clean] (BD3-LM, arXiv 2503.09573, section 3.1) a noisy block sees itself and
    the clean blocks before it, and a clean block the clean blocks up to itself. In a single canvas a block sees the
    blocks up to itself.

    Args:
        attention_mask (`Tensor` of shape `(rows, L)`): 1 = token, 0 = padding.
        blocks (`Tensor` of shape `(rows, L)`): From [`BlockGrid.blocks`].
        doubled (`bool`): Whether the clean canvas follows the noisy one.

    Returns:
        `torch.BoolTensor` of shape `(rows, 1, K, K)` with K = L, or 2 L if `doubled`.
    """
    query, key = blocks[:, :, None], blocks[:, None, :]
    visible, valid = query >= key, attention_mask > 0
    if doubled:
        of_noisy = torch.cat([query == key, query > key], dim=2)
        of_clean = torch.cat([torch.zeros_like(visible), visible], dim=2)
        visible, valid = torch.cat([of_noisy, of_clean], dim=1), valid.repeat(1, 2)
    # Padding sees itself too: over nothing at all the softmax is not a number, nor is its gradient.
    itself = torch.eye(visible.shape[1], dtype=torch.bool, device=visible.device)
    return (visible & valid[:, None, :] | itself)[:, None]


def _flex_mask(visible: Tensor) -> BlockMask:
    """The same for flex attention, which skips the tiles in which nothing is visible."""
    rows, _, length, _ = visible.shape
    return create_block_mask(
        lambda row, head, query, key: visible[row, 0, query, key], rows, None, length, length, visible.device
    )


def block_causal_outputs(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, blocks: Tensor, clean_ids: Tensor | None
) -> CanvasModelOutput:
    """
    Runs canvases under block-causal attention, in one forward.

    Args:
        model (`PreTrainedModel`): The model, without adapters around it.
        input_ids (`Tensor` of shape `(rows, L)`), attention_mask (`Tensor` of shape `(rows, L)`): The noisy canvases.
        blocks (`Tensor` of shape `(rows, L)`): From [`BlockGrid.blocks`].
        clean_ids (`Tensor` of shape `(rows, L)`, *optional*): The canvases without masks, which every noisy block is
            conditioned on; by default it is conditioned on the noisy blocks before it.

    Returns:
        [`~d3llm.modeling.outputs.CanvasModelOutput`]: Of the positions of the noisy canvas, then, with `clean_ids`, of
        those of the clean one.
    """
    doubled = clean_ids is not None
    visible: Tensor | BlockMask = block_causal_mask(attention_mask, blocks, doubled)
    if model.config._attn_implementation == "flex_attention":
        visible = _flex_mask(visible)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    if clean_ids is not None:
        input_ids, positions = torch.cat([input_ids, clean_ids], dim=1), positions.repeat(1, 2)
    return model.base_model(input_ids=input_ids, attention_mask=visible, position_ids=positions, return_dict=True)
