"""Keys and values of rows that accept different numbers of drafts, and the forward that uses them.

The slot of a token is its position. A forward writes what it takes from the length of each row on, and returns the
slots up to the last one of any row; the mask says which of them a query sees. To drop what was rejected, the row's
length stays where it is: the next forward overwrites it. So nothing is gathered or moved.
"""

from inspect import signature
from typing import Any

import torch
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


SLOTS_AT_ONCE = 128  # by which buffers grow at least


class Slots:
    """Where a forward writes: slots (B, R), `start` if they are the same run in all rows, and the `end` of all."""

    def __init__(self) -> None:
        self.slots = torch.empty(0, 0, dtype=torch.long)
        self.start: int | None = None
        self.end = 0

    def place(self, slots: torch.Tensor, start: int | None, end: int) -> None:
        """Sets the slots of the next forward."""
        self.slots, self.start, self.end = slots, start, end


class RowLayer(DynamicLayer):
    """Keys and values of a layer: a buffer (B, heads, capacity, head size) that is written in place.

    Args:
        slots (`Slots`): Where the next forward writes, one object for all layers.
    """

    keys: Any
    values: Any

    def __init__(self, slots: Slots):
        super().__init__()
        self.slots = slots

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes keys and values (B, heads, R, head size) and returns those of all slots up to the end."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._written(self.keys, key_states)
        self.values = self._written(self.values, value_states)
        return self.keys[:, :, : self.slots.end], self.values[:, :, : self.slots.end]

    def get_seq_length(self) -> int:
        """Slots up to the end of the last forward."""
        return self.slots.end

    def _written(self, buffer: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        batch, heads, width, size = states.shape
        held = buffer.shape[2] if buffer.numel() else 0
        if held < self.slots.end:
            grown = states.new_zeros(batch, heads, self.slots.end + max(SLOTS_AT_ONCE, self.slots.end // 4), size)
            if held:
                grown[:, :, :held] = buffer
            buffer = grown
        start = self.slots.start
        if start is not None:
            buffer[:, :, start : start + width] = states
        else:
            slots = self.slots.slots.to(states.device)[:, None, :, None].expand(-1, heads, -1, size)
            buffer.scatter_(2, slots, states)
        return buffer


class RowCache(Cache):
    """
    A cache of transformers for a batch whose rows have lengths of their own.

    Args:
        layers (`int`): Decoder layers of the model.
    """

    def __init__(self, layers: int):
        self.slots = Slots()
        super().__init__(layers=[RowLayer(self.slots) for _ in range(layers)])

    def keep_rows(self, rows: torch.LongTensor) -> None:
        """Keeps some rows of the batch, by their indices."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows.to(layer.keys.device)], layer.values[rows.to(layer.keys.device)]


def check_attention(base: PreTrainedModel) -> None:
    """Raises a `ValueError` for an attention that does not take a mask of any form."""
    attention = base.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            f"drafts need `attn_implementation`='sdpa' or 'eager', not {attention!r}: call "
            "set_attn_implementation('sdpa')"
        )


def attention_mask(base: PreTrainedModel, visible: torch.BoolTensor) -> torch.Tensor:
    """
    A mask as the attention of a model takes it.

    Args:
        base (`PreTrainedModel`): The model.
        visible (`torch.BoolTensor` of shape `(B, 1, R, S)`): Which of S slots a query sees.

    Returns:
        `torch.Tensor` of shape `(B, 1, R, S)`: The same for sdpa; for eager zero, or the least number of the dtype.
    """
    if base.config._attn_implementation != "eager":
        return visible
    zeros = torch.zeros(visible.shape, dtype=base.dtype, device=visible.device)
    return zeros.masked_fill_(~visible, torch.finfo(base.dtype).min)


def run_body(base: PreTrainedModel, cache: Cache | None = None, **inputs: torch.Tensor) -> torch.Tensor:
    """
    The model's own transformer, without its head.

    Args:
        base (`PreTrainedModel`): The model.
        cache (`Cache`, *optional*): Keys and values, to which the forward adds.
        inputs (`torch.Tensor`): `inputs_embeds` (B, R, D), `attention_mask` (B, 1, R, S) and `position_ids` (B, R).

    Returns:
        `torch.Tensor` of shape `(B, R, D)`: The hidden states after the final norm.
    """
    body = base.base_model
    caching = {_cache_name(type(body)): cache, "use_cache": cache is not None}
    return body(**inputs, **caching).last_hidden_state


def _cache_name(model_class: Any) -> str:
    """The keyword of the cache, which is another since transformers 5.24."""
    return "past_key_values" if "past_key_values" in signature(model_class.forward).parameters else "cache"
