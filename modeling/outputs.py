"""Outputs of a masked-diffusion model's forward."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput


class _PastKeyValuesAlias:
    cache: Cache | None

    @property
    def past_key_values(self) -> Cache | None:
        """The name of `cache` before transformers 5.24."""
        return self.cache


@dataclass
class CanvasModelOutput(_PastKeyValuesAlias, ModelOutput):
    """
    Output of a transformer over the recomputed positions.

    Args:
        last_hidden_state (`torch.Tensor` of shape `(batch, positions, hidden_size)`): After the final norm.
        cache ([`~d3llm.generation.canvas_cache.CanvasCache`], *optional*): The cache that was given.
        hidden_states (`tuple[torch.Tensor]`, *optional*): With `output_hidden_states=True`, the input of each layer
            and the last hidden state.
        attentions (`tuple[torch.Tensor]`, *optional*): With `output_attentions=True`, the weights of each layer
            `(batch, heads, positions, slots)`.
        router_logits (`tuple[torch.Tensor]`, *optional*): With `output_router_logits=True`, the logits of the router
            of each layer with experts, `(batch * positions, experts)`.
    """

    last_hidden_state: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


@dataclass
class CanvasLMOutput(_PastKeyValuesAlias, ModelOutput):
    """
    Output of a masked-diffusion model with its language-model head.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): With `labels`.
        logits (`torch.Tensor` of shape `(batch, rows, vocab)`): One row of logits for each kept row.
        cache ([`~d3llm.generation.canvas_cache.CanvasCache`], *optional*): The cache that was given.
        hidden_states (`tuple[torch.Tensor]`, *optional*): As in [`CanvasModelOutput`].
        attentions (`tuple[torch.Tensor]`, *optional*): As in [`CanvasModelOutput`].
        router_logits (`tuple[torch.Tensor]`, *optional*): As in [`CanvasModelOutput`].
        aux_loss (`torch.Tensor` of shape `()`, *optional*): With `output_router_logits=True`, how unevenly the
            experts are used, before its coefficient.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    aux_loss: torch.Tensor | None = None
