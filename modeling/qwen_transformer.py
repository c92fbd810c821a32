"""Qwen's transformer over a canvas: what the families with the state-dict keys of Qwen2 and Qwen3 share."""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.utils import can_return_tuple

from ..generation.canvas_cache import takes_past_key_values
from ..generation.decoding_diffusion import DiffusionGenerationMixin
from ..generation.likelihood import LikelihoodMixin
from .config_ranges import check_ranges
from .configuration_qwen import QwenTransformerConfig
from .layers import CanvasRotaryEmbedding, MaskedDiffusionPreTrainedModel, attend, run_layers
from .masked_lm import MaskedLMForward
from .outputs import CanvasModelOutput


def head_dim(config: PretrainedConfig) -> int:
    """Size of an attention head; configs may state it."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class QwenAttention(nn.Module):
    """Grouped-query attention. Qwen2 has biases in the projections of the input, Qwen3 norms of queries and keys.

    Args:
        config (`PretrainedConfig`): The config.
        layer_idx (`int`): Number of the layer.
        input_bias, output_bias (`bool`): Whether the three projections of the input, and that of the output, have a
            bias.
    """

    def __init__(
        self, config: PretrainedConfig, layer_idx: int, *, input_bias: bool = True, output_bias: bool = False
    ):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = head_dim(config)
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        size, kv_size = (heads * self.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = nn.Linear(config.hidden_size, size, bias=input_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=input_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=input_bias)
        self.o_proj = nn.Linear(size, config.hidden_size, bias=output_bias)
        self.q_norm: nn.Module | None = None
        self.k_norm: nn.Module | None = None

    def forward(
        self, hidden_states: torch.Tensor, **attention_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        attended, weights = attend(
            self, query, key, value, query_norm=self.q_norm, key_norm=self.k_norm, **attention_kwargs
        )
        return self.o_proj(attended), weights


class QwenDecoderLayer(GradientCheckpointingLayer):
    attention_class: type[QwenAttention] = QwenAttention

    def __init__(self, config: QwenTransformerConfig, layer_idx: int):
        super().__init__()
        self.self_attn = self.attention_class(config, layer_idx)
        self.mlp = Qwen2MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, hidden_states: torch.Tensor, **attention_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, weights = self.self_attn(self.input_layernorm(hidden_states), **attention_kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), weights


class QwenPreTrainedModel(MaskedDiffusionPreTrainedModel):
    config: QwenTransformerConfig
    adapter_targets = {
        "projections": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "keys_values": ["k_proj", "v_proj"],
        "feedforward": ["down_proj"],
        "norms": ["input_layernorm", "post_attention_layernorm", "norm"],
    }


class QwenBackbone(QwenPreTrainedModel):
    """The transformer without the head, for a family to derive its own from."""

    layer_class: type[QwenDecoderLayer] = QwenDecoderLayer

    def __init__(self, config: QwenTransformerConfig):
        super().__init__(config)
        if config.use_sliding_window or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
            raise ValueError(
                f"{type(config).__name__}.use_sliding_window=True is not supported: {self.display_name} attends to "
                "the whole canvas"
            )
        check_ranges(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(self.layer_class(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = CanvasRotaryEmbedding(head_dim(config), config.rope_theta)
        self.post_init()

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
            output_hidden_states (`bool`, *optional*): Whether to return the hidden states of all layers; by default as
                the config says.
            output_attentions (`bool`, *optional*): Whether to return the attention weights of all layers; by default
                as the config says. Only the eager implementation returns them, so it replaces any other.
            return_dict (`bool`, *optional*): If `False`, return a tuple of the fields that are not `None`.

        Returns:
            [`~d3llm.modeling.outputs.CanvasModelOutput`]: `last_hidden_state` of shape
            `(batch, positions, hidden_size)`, after the final norm and in the dtype of the weights. On request
            also `hidden_states`, the input of each layer and the last hidden state, and `attentions`,
            `(batch, heads, positions, slots)` for each layer.

        Raises:
            ValueError: If both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either `input_ids` or `inputs_embeds`")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
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
            rotary_dtype=inputs_embeds.dtype,
            **kwargs,
        )


class QwenForMaskedDiffusion(MaskedLMForward, QwenPreTrainedModel, DiffusionGenerationMixin, LikelihoodMixin):
    """The transformer with its language-model head, for a family to derive its own from.

    Class attributes:
        backbone_class (`type[QwenBackbone]`): The transformer of the family.
    """

    backbone_class: type[QwenBackbone] = QwenBackbone
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: QwenTransformerConfig):
        super().__init__(config)
        self.model = self.backbone_class(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
