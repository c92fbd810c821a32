"""A compiled forward that keeps to few graphs, whatever the lengths of prompts, windows and batches."""

from typing import Any

import torch
from transformers import CompileConfig


# Positions of these inputs differ from forward to forward, and from prompt to prompt.
LENGTHS = {"input_ids": 1, "inputs_embeds": 1, "position_ids": 1, "attention_mask": -1, "logits_to_keep": 1}
LENGTHS |= {"cache_positions": 1}


def mark_dynamic(tensor: torch.Tensor, dimension: int) -> None:
    """A dimension of positions and, of a batch, that of its rows; one row is a graph of its own."""
    torch._dynamo.maybe_mark_dynamic(tensor, dimension)
    if len(tensor) > 1:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)


class CompiledCall:
    """
    Calls a model's forward, compiled.

    The first call of a run with a cache is not: it allocates the cache, which would be a graph of its own. Unless
    `compile_config.dynamic` says otherwise, lengths are symbols from the first graph on.

    Args:
        model ([`~d3llm.generation.decoding_diffusion.DiffusionGenerationMixin`]): The model.
        config (`CompileConfig`): How to compile it.
    """

    def __init__(self, model: Any, config: CompileConfig):
        self.model = model
        self.compiled = model.get_compiled_call(config)
        self.any_length = config.dynamic is not False

    def __call__(self, **inputs: Any) -> Any:
        cache = inputs.get("cache")
        if cache is not None and not cache.is_initialized:
            return self.model(**inputs)
        if self.any_length:
            for name, dimension in LENGTHS.items():
                value = inputs.get(name)
                if isinstance(value, torch.Tensor):
                    mark_dynamic(value, dimension % value.ndim)
            for layer in () if cache is None else cache.layers:
                mark_dynamic(layer.keys, 2)
                mark_dynamic(layer.values, 2)
        return self.compiled(**inputs)
