"""The floor of a run of `generate()`: the very same calls of the transformer and of the head, and nothing else."""

import time
from typing import Any

import torch

from benchmarks.watching import HeadCall, ModelCall
from d3llm.generation import CanvasCache


class Floor:
    """
    Repeats recorded calls: the same windows, masks and rows of the head, in the same parts.

    The head writes into a buffer that exists already. A floor that lets it make its logits anew pays for fresh memory
    in every forward, which no decoder has to, and so flatters the decoder.

    Args:
        model: The model that the calls were recorded on.
        calls (`list`): What [`~benchmarks.watching.Watch`] recorded.
    """

    def __init__(self, model: Any, calls: list[ModelCall | HeadCall]):
        self.model, self.calls, self.head = model, calls, model.get_output_embeddings()
        rows = [len(call.states) for call in calls if isinstance(call, HeadCall)]
        if not rows or len(rows) == len(calls):
            raise ValueError(f"the floor needs calls of transformer and head: {len(rows)} of {len(calls)} are of it")
        self.logits = self.head.weight.new_zeros(max(rows), self.head.weight.shape[0])  # zeros: every page is there

    @torch.no_grad()
    def seconds(self) -> float:
        """Runs the calls; returns their wall time."""
        self.caches: dict[tuple[int, int], CanvasCache] = {}
        self.forwards, start = 0, time.perf_counter()
        for call in self.calls:
            if isinstance(call, HeadCall):
                self._run_head(call.states)
            else:
                self.model(**self._with_own_cache(call.inputs))
                self.forwards += 1
        return time.perf_counter() - start

    def _run_head(self, states: torch.Tensor) -> None:
        logits, weight = self.logits[: len(states)], self.head.weight.t()
        if self.head.bias is None:
            torch.mm(states, weight, out=logits)
        else:
            torch.addmm(self.head.bias, states, weight, out=logits)

    def _with_own_cache(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs with a cache of the same size, since the run's own has lost the rows that finished."""
        owned = {}
        for name, value in inputs.items():
            if isinstance(value, CanvasCache):
                key = (id(value), len(inputs["input_ids"]))
                if key not in self.caches:
                    self.caches[key] = CanvasCache(len(value.layers), value.layers[0].canvas_length)
                owned[name] = self.caches[key]
        return inputs | owned
