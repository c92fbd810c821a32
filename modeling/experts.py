"""Mixtures of experts: what their families share.

The experts run in the kernels of transformers (`experts_implementation`: `"grouped_mm"`, `"batched_mm"`, `"eager"`),
on weights stacked in one tensor. Checkpoints hold them one by one, as `mlp.experts.3.up_proj.weight`; transformers
converts them as those of Qwen3-MoE, both ways.
"""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import (
    Qwen3MoeExperts,
    Qwen3MoeRMSNorm,
    Qwen3MoeTopKRouter,
)
from transformers.utils import can_return_tuple

from ..generation.canvas_cache import takes_past_key_values
from .layers import CanvasRotaryEmbedding, MaskedDiffusionPreTrainedModel, run_layers
from .outputs import CanvasLMOutput, CanvasModelOutput
from .qwen_transformer import QwenAttention


def stack_experts_of(model_type: str) -> None:
    """Makes transformers stack the experts of checkpoints of a `model_type` when it loads them, and separate them when
    it saves."""
    # A second copy of the code, from the Hub, registers the same once more.
    register_checkpoint_conversion_mapping(model_type, get_checkpoint_conversion_mapping("qwen2_moe"), overwrite=True)


class NormedAttention(QwenAttention):
    """Attention with Qwen3's keys: each head of queries and keys is normalised before the rotation."""

    def __init__(self, config: PretrainedConfig, layer_idx: int):
        super().__init__(config, layer_idx, input_bias=config.attention_bias, output_bias=config.attention_bias)
        self.q_norm = Qwen3MoeRMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = Qwen3MoeRMSNorm(self.head_dim, eps=config.rms_norm_eps)


# Experts are not layers but stacked weights: adapters reach them by `target_parameters`.
NORMED_ATTENTION_TARGETS = {
    "projections": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "keys_values": ["k_proj", "v_proj"],
    "feedforward": [],
    "norms": ["input_layernorm", "post_attention_layernorm", "norm", "q_norm", "k_norm"],
}


class RoutedExperts(nn.Module):
    """An MLP of experts, of which each token runs the few that its router chooses.

    Args:
        config (`PretrainedConfig`): With `num_experts`, `hidden_size`, `moe_intermediate_size` and `hidden_act`.
        gate (`nn.Module`): The router. It returns its logits `(tokens, experts)`, and the weights and indices of the
            chosen experts `(tokens, chosen)`.
        shared_experts (`nn.Module`, *optional*): An MLP that every token runs besides.
    """

    def __init__(self, config: PretrainedConfig, gate: nn.Module, shared_experts: nn.Module | None = None):
        super().__init__()
        self.gate = gate
        self.experts = Qwen3MoeExperts(config)
        self.shared_experts = shared_experts
        self.register_load_state_dict_pre_hook(stack_given_experts)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        router_logits, weights, chosen = self.gate(tokens)
        mixed = self.experts(tokens, chosen, weights).view_as(hidden_states)
        if self.shared_experts is not None:
            mixed = mixed + self.shared_experts(hidden_states)
        return mixed, router_logits


def stack_given_experts(module: RoutedExperts, state_dict: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Lets `load_state_dict` take the tensors of a checkpoint, as transformers' `Trainer` does when it resumes: a file
    may hold only some of the experts, and the others stay as they are."""
    experts = module.experts
    size = experts.intermediate_dim
    parts = {
        "gate_proj": ("gate_up_proj", slice(0, size)),
        "up_proj": ("gate_up_proj", slice(size, 2 * size)),
        "down_proj": ("down_proj", slice(None)),
    }
    for expert in range(experts.num_experts):
        for part, (name, rows) in parts.items():
            given = state_dict.pop(f"{prefix}experts.{expert}.{part}.weight", None)
            if given is None:
                continue
            stacked = f"{prefix}experts.{name}"
            if stacked not in state_dict:
                state_dict[stacked] = getattr(experts, name).detach().clone()
            state_dict[stacked][expert, rows] = given


class ExpertsLayer(GradientCheckpointingLayer):
    """A layer whose MLP is dense or one of experts. A subclass names its attention as its checkpoints do."""

    attention_name = "self_attn"

    def __init__(self, config: PretrainedConfig, attention: nn.Module, mlp: nn.Module):
        super().__init__()
        self.add_module(self.attention_name, attention)
        self.mlp = mlp
        self.input_layernorm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, hidden_states: torch.Tensor, output_router_logits: bool = False, **attention_kwargs: Any
    ) -> tuple[torch.Tensor | None, ...]:
        attention = getattr(self, self.attention_name)
        attended, weights = attention(self.input_layernorm(hidden_states), **attention_kwargs)
        hidden_states = hidden_states + attended
        normed = self.post_attention_layernorm(hidden_states)
        if not isinstance(self.mlp, RoutedExperts):
            return hidden_states + self.mlp(normed), weights
        mixed, router_logits = self.mlp(normed)
        routed = (router_logits,) if output_router_logits else ()
        return hidden_states + mixed, weights, *routed


class ExpertsPreTrainedModel(MaskedDiffusionPreTrainedModel):
    """Base class of the families with experts."""

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # Transformers searches the file of the model class for its decorator; the decorated class is its own.
        return True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, Qwen3MoeExperts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)
        elif isinstance(module, Qwen3MoeTopKRouter):
            init.normal_(module.weight, mean=0.0, std=std)


class ExpertsBackbone(ExpertsPreTrainedModel):
    """The forward of a transformer with experts, without the head. A subclass builds the embedding and `layers`,
    `norm` and `rotary_emb`."""

    layers: nn.ModuleList
    norm: nn.Module
    rotary_emb: CanvasRotaryEmbedding

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
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Any,
    ) -> CanvasModelOutput:
        r"""
        The hidden states of the positions.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, positions)`, *optional*): Tokens, [MASK] where they are to
                be predicted. Give either these or `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(batch, slots)`, *optional*): 1 = token, 0 = padding, left or
                right. With a cache, `slots` covers the whole canvas; without one, only the positions. A prepared mask
                of shape `(batch, 1, positions, slots)` is used as it is.
            position_ids (`torch.LongTensor` of shape `(batch, positions)`, *optional*): Rotary positions; by default
                `cache_positions`, or counted from 0.
            cache ([`~d3llm.generation.canvas_cache.CanvasCache`], *optional*): Keys and values of the whole canvas,
                overwritten at `cache_positions`.
            inputs_embeds (`torch.Tensor` of shape `(batch, positions, hidden_size)`, *optional*): Embeddings in place
                of `input_ids`, in the dtype of the weights.
            cache_positions (`torch.LongTensor` of shape `(batch, positions)` or `slice`, *optional*): Canvas positions
                of `input_ids`, with a cache; by default the whole canvas.
            output_hidden_states, output_attentions, output_router_logits (`bool`, *optional*): What to return besides
                the last hidden state, for each layer; by default as the config says. Attention weights come from the
                eager implementation, which replaces any other.
            return_dict (`bool`, *optional*): If `False`, return a tuple of the fields that are not `None`.

        Returns:
            [`~d3llm.modeling.outputs.CanvasModelOutput`]: `last_hidden_state` of shape
            `(batch, positions, hidden_size)`, after the final norm and in the dtype of the weights; and what is asked
            for.

        Raises:
            ValueError: If both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either `input_ids` or `inputs_embeds`")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        return run_layers(
            self,
            self.layers,
            self.norm,
            self.rotary_emb,
            inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            cache_positions=cache_positions,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            output_router_logits=output_router_logits,
            rotary_dtype=inputs_embeds.dtype,
            **kwargs,
        )


class ExpertsLM(ExpertsPreTrainedModel):
    """The forward of a transformer with experts and its language-model head. A subclass builds `model` and
    `lm_head`."""

    model: ExpertsBackbone
    lm_head: nn.Linear

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
        output_router_logits: bool | None = None,
        **kwargs: Any,
    ) -> CanvasLMOutput:
        r"""
        Like [`LLaDAModelLM.forward`], with the routers' logits and loss on request.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, positions)`, *optional*): Tokens, [MASK] where they are to
                be predicted. Give either these or `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(batch, slots)`, *optional*): 1 = token, 0 = padding, left or
                right. A prepared mask of shape `(batch, 1, positions, slots)` is used as it is.
            position_ids (`torch.LongTensor` of shape `(batch, positions)`, *optional*): Rotary positions.
            cache ([`~d3llm.generation.canvas_cache.CanvasCache`], *optional*): Keys and values of the canvas.
            inputs_embeds (`torch.Tensor` of shape `(batch, positions, hidden_size)`, *optional*): Embeddings in place
                of `input_ids`.
            cache_positions (`torch.LongTensor` of shape `(batch, positions)` or `slice`, *optional*): Canvas positions
                of `input_ids`, with a cache.
            logits_to_keep (`int` or `torch.LongTensor`, *optional*, defaults to 0): Rows to run the head on.
            run_head (`bool`, *optional*, defaults to `True`): If `False`, `logits` is `None` and `hidden_states`
                holds the input of the head, `(batch, rows, hidden_size)`.
            labels (`torch.LongTensor` of shape `(batch, positions)`, *optional*): The token at each position, -100
                where none is to be predicted.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*): The divisor of the loss, which `Trainer`
                passes when it accumulates gradients; by default the number of labelled positions.
            output_hidden_states, output_attentions (`bool`, *optional*): Whether to return those of all layers.
            output_router_logits (`bool`, *optional*): Whether to return the logits of the routers and `aux_loss`; by
                default as the config says.
            return_dict (`bool`, *optional*): If `False`, return a tuple of the fields that are not `None`.

        Returns:
            [`~d3llm.modeling.outputs.CanvasLMOutput`]: `logits` of shape `(batch, rows, vocab)`, in the dtype of the
            weights; with `labels` also `loss`, the mean cross entropy in float32, in nats. With the routers' logits,
            `aux_loss` is there too and is added to `loss`, times `config.router_aux_loss_coef`.

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
            output_router_logits=output_router_logits,
            return_dict=True,
            **kwargs,
        )
        output = self.head_output(outputs, logits_to_keep, run_head, labels, num_items_in_batch)
        if outputs.router_logits is not None:
            output["router_logits"] = outputs.router_logits
            aux_loss = load_balancing_loss(self.config, outputs.router_logits, attention_mask)
            output["aux_loss"] = aux_loss
            if output.loss is not None:
                output["loss"] = output.loss + self.config.router_aux_loss_coef * aux_loss.to(output.loss.device)
        return output


def load_balancing_loss(
    config: PretrainedConfig, router_logits: tuple[torch.Tensor, ...], attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """How unevenly the experts are used (Switch Transformers, arXiv 2101.03961, equations 4 to 6).

    Args:
        config (`PretrainedConfig`): With `num_experts` and `num_experts_per_tok`.
        router_logits (`tuple[torch.Tensor]`): Logits of each layer with experts, (batch * positions, experts).
        attention_mask (`torch.Tensor`, *optional*): (batch, positions), 0 = padding, which does not count. A mask of
            another shape is not applied.

    Returns:
        `torch.Tensor`: Shape (); `num_experts_per_tok` when all experts are used alike, and more otherwise.
    """
    if attention_mask is not None and (attention_mask.ndim != 2 or attention_mask.numel() != len(router_logits[0])):
        attention_mask = None
    return load_balancing_loss_func(router_logits, config.num_experts, config.num_experts_per_tok, attention_mask)
