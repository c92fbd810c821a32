"""Keys and values of a whole canvas, overwritten in place where a forward recomputes them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache, CacheLayerMixin

from .canvas import Integers


def takes_past_key_values(method: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a method that takes `cache` also take it as `past_key_values`, its name before transformers 5.24."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        earlier = kwargs.pop("past_key_values", None)
        if earlier is not None:
            if isinstance(kwargs.get("cache"), Cache):
                raise ValueError("`cache` and `past_key_values` are two names of one argument: pass one of them")
            kwargs["cache"] = earlier
        return method(*args, **kwargs)

    return wrapper


class CanvasLayer(CacheLayerMixin):
    """Keys and values of one layer, (batch, kv heads, canvas, head dim) each, preallocated on the first update."""

    is_sliding = False

    def __init__(self, canvas_length: int):
        super().__init__()
        self.canvas_length = canvas_length
        self.rows: torch.LongTensor | None = None  # of the batch that a forward is for; `None` for all

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads, _, head_dim = key_states.shape
        self.keys = key_states.new_zeros(batch, heads, self.canvas_length, head_dim)
        self.values = value_states.new_zeros(batch, heads, self.canvas_length, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,
        positions: torch.LongTensor | slice | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Overwrite the slots at `positions` and return the keys and values of the whole canvas.

        Args:
            key_states, value_states (`torch.Tensor`): (batch, kv heads, window, head dim).
            positions (`torch.LongTensor` of shape `(batch, window)` or `slice`, *optional*): Slots of the window; the
                whole canvas when not given. A slot that occurs twice in a row must come with the same states.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.rows is not None:
            return self._update_rows(self.rows.to(self.keys.device), key_states, value_states, positions)
        if isinstance(positions, torch.Tensor):
            slots = positions[:, None, :, None]
            self.keys.scatter_(2, slots.expand_as(key_states), key_states)
            self.values.scatter_(2, slots.expand_as(value_states), value_states)
        else:
            window = positions or slice(None)
            self.keys[:, :, window] = key_states
            self.values[:, :, window] = value_states
        return self.keys, self.values

    def _update_rows(
        self, rows: torch.LongTensor, key_states: torch.Tensor, value_states: torch.Tensor, positions: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for slots, states in ((self.keys, key_states), (self.values, value_states)):
            slots.transpose(1, 2).index_put_((rows[:, None], positions), states.transpose(1, 2))
        return self.keys[rows], self.values[rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.canvas_length, 0

    def get_seq_length(self) -> int:
        return self.canvas_length if self.is_initialized else 0

    def get_max_length(self) -> int:
        return self.canvas_length

    get_max_cache_shape = get_max_length  # its name before transformers 5.13

    def select_rows(self, rows: torch.LongTensor) -> None:
        if self.is_initialized:
            rows = rows.to(self.keys.device)  # of a model split over devices
            self.keys, self.values = self.keys[rows], self.values[rows]

    def admit(self, rows: int, offset: int) -> None:
        """Add empty rows before the others, which move to the right by `offset` slots, or to the left."""
        self.canvas_length += offset
        if self.is_initialized:
            keys, values = self.keys, self.values
            self.lazy_initialization(keys, values)
            self.keys, self.values = (
                torch.cat([buffer.new_zeros(rows, *buffer.shape[1:]), buffer]) for buffer in (self.keys, self.values)
            )
            to, of = max(offset, 0), max(-offset, 0)
            self.keys[rows:, :, to:], self.values[rows:, :, to:] = keys[:, :, of:], values[:, :, of:]

    def resize(self, canvas_length: int, kept: int) -> None:
        """Switch to a canvas of another length, keeping the first `kept` slots."""
        keys, values = self.keys, self.values
        self.canvas_length = canvas_length
        self.lazy_initialization(keys, values)
        self.keys[:, :, :kept], self.values[:, :, :kept] = keys[:, :, :kept], values[:, :, :kept]


class CanvasCache(Cache):
    """Key/value cache of a canvas of fixed length.

    One idea serves every cache policy: the buffer covers the canvas, a forward recomputes a window of it and
    overwrites the window's slots, and attention sees the whole buffer. The first forward must cover the whole canvas,
    or all but what [`~CanvasCache.reuse_prefix`] kept of an earlier one.

    Args:
        num_layers (`int`): Number of transformer layers.
        canvas_length (`int`): Positions of the canvas, prompt and padding included.
        policy (`str`, *optional*): The cache policy of the run that fills it, for the runs that continue from it.
        attention (`tuple[str, int]`, *optional*): The attention of that run, and the size of its blocks.

    Attributes:
        tokens (`np.ndarray` of shape `(rows, canvas)`, *optional*): The token that each slot was computed from, -1
            where none was.
    """

    def __init__(
        self,
        num_layers: int,
        canvas_length: int,
        policy: str | None = None,
        attention: tuple[str | None, int | None] | None = None,
    ):
        super().__init__(layers=[CanvasLayer(canvas_length) for _ in range(num_layers)])
        self.policy, self.attention = policy, attention
        self.tokens: Integers | None = None

    def select_rows(self, rows: torch.LongTensor) -> None:
        """Keep only these batch rows (`torch.LongTensor` of shape `(rows,)`) of the keys and values."""
        for layer in self.layers:
            layer.select_rows(rows)

    def admit(self, rows: int, offset: int) -> None:
        """Add so many empty rows before the others, which move to the right by `offset` slots, or to the left if that
        is negative. What their slots were computed from is forgotten."""
        for layer in self.layers:
            layer.admit(rows, offset)
        if self.tokens is not None:
            self.tokens = np.full((len(self.layers[0].keys), self.layers[0].canvas_length), -1)

    @contextmanager
    def for_rows(self, rows: torch.LongTensor | None) -> Iterator[None]:
        """Within this context a forward is for these batch rows (`torch.LongTensor` of shape `(rows,)`) alone."""
        for layer in self.layers:
            layer.rows = rows
        try:
            yield
        finally:
            for layer in self.layers:
                layer.rows = None

    def record_tokens(self, tokens: Integers, positions: Integers, rows: Integers) -> None:
        """Record which `tokens` (rows, window) a forward computes the slots at `positions` (rows, window) from, of
        these `rows` (rows,) of the caller's batch."""
        if self.tokens is None:
            batch = max(len(tokens), int(rows.max()) + 1)  # rows may have left before the first forward
            self.tokens = np.full((batch, self.layers[0].canvas_length), -1)
        self.tokens[rows[:, None], positions] = tokens

    def record_tokens_at(self, window: NDArray, tokens: Integers, rows: Integers) -> None:
        """Record that a forward computed the slots of a `window` (rows, canvas) from these `tokens` (rows, canvas)."""
        at, positions = window.nonzero()
        if self.tokens is not None:
            self.tokens[rows[at], positions] = tokens[at, positions]

    def reuse_prefix(self, tokens: Integers, limit: int, ends: Integers | None = None) -> int:
        """Switch to a new canvas, keeping the slots of the common prefix.

        Args:
            tokens (`np.ndarray` of shape `(1, canvas)`): The new canvas.
            limit (`int`): The longest prefix to keep.
            ends (`np.ndarray` of shape `(n,)`, *optional*): Where a kept prefix may end, 0 among them.

        Returns:
            `int`: Positions kept, from the start.

        Raises:
            `ValueError`: For a cache that no run has filled, and for one of several rows.
        """
        if self.tokens is None or len(self.tokens) != 1 or len(self.layers[0].keys) != 1:
            raise ValueError("`cache` must come from an earlier generate() for one sequence")
        limit = min(limit, self.tokens.shape[1])
        kept = int((self.tokens[:, :limit] == tokens[:, :limit]).cumprod(axis=1).sum())
        if ends is not None:
            kept = int(ends[ends <= kept].max())
        for layer in self.layers:
            layer.resize(tokens.shape[1], kept)
        beginning, self.tokens = self.tokens[:, :kept], np.full_like(tokens, -1)
        self.tokens[:, :kept] = beginning
        return kept
