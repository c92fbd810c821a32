"""Watching `generate()` from outside: what the model and its head are called with, how long they take, which positions
each row needs, and which operators the decoder launches besides them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from d3llm.generation.decoding_run import DecodingRun


# Operators that launch no work on a device, besides the views, which torch knows. Allocations only reserve memory,
# `_unsafe_view` and `lift_fresh` are views in all but name, and a read by the host is counted as a host read.
NO_KERNEL = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
    "_unsafe_view",
    "_reshape_alias",
    "lift_fresh",
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
}


@dataclass
class ModelCall:
    """One call of the transformer: its keyword arguments."""

    inputs: dict[str, Any]


@dataclass
class HeadCall:
    """One call of the head: the hidden states (rows, d) that it got."""

    states: torch.Tensor


class Watch:
    """
    While it is on, records the calls of the transformer and of its head and times them.

    Args:
        model: The model that decodes.
        record (`bool`, *optional*, defaults to `True`): Whether to keep the arguments of the calls.

    Attributes:
        calls (`list`): [`ModelCall`] and [`HeadCall`], in order.
        seconds (`dict[str, float]`): Time in the `"transformer"` and in the `"head"`.
        inside (`bool`): Whether one of them is running.
    """

    def __init__(self, model: Any, record: bool = True):
        self.record = record
        self.calls: list[ModelCall | HeadCall] = []
        self.seconds = {"transformer": 0.0, "head": 0.0}
        self.inside = False
        self.parts = {"transformer": model, "head": model.get_output_embeddings()}

    def __enter__(self) -> "Watch":
        for name, part in self.parts.items():
            part.forward = self._watched(name, part.forward)
        return self

    def __exit__(self, *error: Any) -> None:
        for part in self.parts.values():
            del part.forward

    @property
    def model_calls(self) -> list[ModelCall]:
        return [call for call in self.calls if isinstance(call, ModelCall)]

    def _watched(self, name: str, forward: Callable) -> Callable:
        def call(*args: Any, **inputs: Any) -> Any:
            if self.record:
                self.calls.append(ModelCall(inputs) if name == "transformer" else HeadCall(args[0]))
            self.inside, start = True, time.perf_counter()
            try:
                return forward(*args, **inputs)
            finally:
                self.seconds[name] += time.perf_counter() - start
                self.inside = False

        return call


class KernelCounter(TorchDispatchMode):
    """Counts the operators outside of the transformer and its head that launch work: all but views and `NO_KERNEL`.

    Some of them launch several kernels on a GPU (a stable argsort, a scatter with a reduction), so the number is a
    lower bound.
    """

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch, self.kernels = watch, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernels += not self.watch.inside and launches_work(func)
        return func(*args, **(kwargs or {}))


def launches_work(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator launches work on a device."""
    namespace, name = operator.name().split("::")
    return namespace != "prim" and not operator.is_view and name.split(".")[0] not in NO_KERNEL


@dataclass
class Need:
    """What the windows of a run ask for, one entry per forward.

    Attributes:
        positions (`list[int]`): Positions that the rows need, each as if it were decoded alone: its window without
            padding.
        rebuilds (`list[bool]`): Whether some row needs its whole canvas.
    """

    positions: list[int] = field(default_factory=list)
    rebuilds: list[bool] = field(default_factory=list)


@contextmanager
def watch_windows() -> Iterator[Need]:
    """Yields the [`Need`] of the runs inside the block, read before each forward."""
    need, forward = Need(), DecodingRun.forward

    def watched(run: DecodingRun) -> torch.Tensor:
        positions, mask = run.window.positions, run.canvas.attention_mask
        real = np.ones_like(positions) if mask is None else mask > 0
        need.positions.append(int((positions & real).sum()))
        need.rebuilds.append(bool((positions | ~real).all(axis=1).any()))
        return forward(run)

    with patch.object(DecodingRun, "forward", watched):
        yield need
