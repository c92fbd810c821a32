"""The forward of masked-diffusion models with a language-model head."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.utils import can_return_tuple

from ..generation.canvas_cache import takes_past_key_values
from .outputs import CanvasLMOutput


class MaskedLMForward:
    """The forward of a model that has a transformer in `model`, and `head_output` (see
    [`~d3llm.modeling.layers.MaskedDiffusionPreTrainedModel`]). It comes first among the parents."""

    model: Any
    head_output: Callable[..., CanvasLMOutput]

    @can_return_tuple
    @takes_past_key_values
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache_positions: torch.LongTensor | slice | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        run_head: bool = True,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> CanvasLMOutput:
        r"""
        The logits, with their rows aligned as in the published model.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, positions)`, *optional*): Tokens, [MASK] where they are to
                be predicted. Give either these or `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(batch, slots)`, *optional*): 1 = token, 0 = padding, left or
                right. With a cache, `slots` covers the whole canvas.
            position_ids (`torch.LongTensor` of shape `(batch, positions)`, *optional*): Rotary positions.
            cache ([`~d3llm.generation.canvas_cache.CanvasCache`], *optional*): Keys and values of the whole
                canvas, overwritten at `cache_positions`.
            inputs_embeds (`torch.Tensor` of shape `(batch, positions, hidden_size)`, *optional*): Embeddings in place
                of `input_ids`.
            cache_positions (`torch.LongTensor` of shape `(batch, positions)` or `slice`, *optional*): Canvas positions
                of `input_ids`, with a cache; by default the whole canvas.
            logits_to_keep (`int` or `torch.LongTensor`, *optional*, defaults to 0): Rows to run the head on: 0 = all,
                n = the last n, a tensor `(rows,)` or `(batch, rows)` = the given rows of `input_ids`.
            run_head (`bool`, *optional*, defaults to `True`): If `False`, `logits` is `None` and `hidden_states`
                holds the input of the head, `(batch, rows, hidden_size)`, so that the caller can run it in chunks.
            labels (`torch.LongTensor` of shape `(batch, positions)`, *optional*): The token at each position, -100
                where none is to be predicted. Aligned to the positions, even if the logits are shifted.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): The divisor of the loss, which `Trainer`
                passes when it accumulates gradients; by default the number of labelled positions.
            output_hidden_states (`bool`, *optional*): Whether to return the hidden states of all layers.
            output_attentions (`bool`, *optional*): Whether to return the attention weights of all layers,
                `(batch, heads, positions, slots)` each. Only the eager implementation returns them, so it replaces
                any other.
            return_dict (`bool`, *optional*): If `False`, return a tuple of the fields that are not `None`.

        Returns:
            [`~d3llm.modeling.outputs.CanvasLMOutput`]: `logits` of shape `(batch, rows, vocab)`, in the dtype of the
            weights; with `labels` also `loss`, the mean cross entropy in float32, in nats.

        Raises:
            ValueError: If `labels` are given with `logits_to_keep` or `run_head=False`, or if their shape is not
                `(batch, positions)`.
        """
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            cache_positions=cache_positions,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **kwargs,
        )
        return self.head_output(outputs, logits_to_keep, run_head, labels, num_items_in_batch)
