"""LLaDA (Large Language Diffusion Models, arXiv 2502.09992): a bidirectional transformer that predicts masked tokens.

State-dict keys are those of GSAI-ML/LLaDA-8B-Instruct.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple

from ..generation.canvas_cache import takes_past_key_values
from ..generation.decoding_diffusion import DiffusionGenerationMixin
from ..generation.likelihood import LikelihoodMixin
from .config_ranges import check_ranges
from .configuration_llada import LLaDAConfig
from .layers import CanvasRotaryEmbedding, MaskedDiffusionPreTrainedModel, attend, run_layers
from .masked_lm import MaskedLMForward
from .outputs import CanvasModelOutput


# The values of the published checkpoints; any other would silently be a different model.
SUPPORTED_VALUES = {
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "alibi": False,
    "rope": True,
}


def check_supported(config: LLaDAConfig) -> None:
    """
    Checks that a config describes the published architecture.

    Args:
        config ([`LLaDAConfig`]): The config.

    Raises:
        `ValueError`: For a field with a value that this implementation does not support.
    """
    for field, supported in SUPPORTED_VALUES.items():
        value = getattr(config, field)
        if value != supported:
            raise ValueError(f"LLaDAConfig.{field}={value!r} is not supported: only {supported!r} is")
    check_ranges(config)


class LLaDABlock(GradientCheckpointingLayer):
    def __init__(self, config: LLaDAConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.d_model // config.n_heads
        kv_heads = config.n_kv_heads or (1 if config.multi_query_attention else config.n_heads)
        self.num_key_value_groups = config.n_heads // kv_heads
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        hidden = config.mlp_hidden_size or config.mlp_ratio * config.d_model
        bias, qkv_bias = config.include_bias, config.include_bias or config.include_qkv_bias
        self.attn_norm = nn.RMSNorm(config.d_model, eps=config.rms_norm_eps)
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=qkv_bias)
        self.k_proj = nn.Linear(config.d_model, kv_heads * self.head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(config.d_model, kv_heads * self.head_dim, bias=qkv_bias)
        self.attn_out = nn.Linear(config.d_model, config.d_model, bias=bias)
        self.ff_norm = nn.RMSNorm(config.d_model, eps=config.rms_norm_eps)
        self.ff_proj = nn.Linear(config.d_model, hidden, bias=bias)
        self.up_proj = nn.Linear(config.d_model, hidden, bias=bias)
        self.ff_out = nn.Linear(hidden, config.d_model, bias=bias)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self, hidden_states: torch.Tensor, **attention_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        normed = self.attn_norm(hidden_states)
        query, key, value = self.q_proj(normed), self.k_proj(normed), self.v_proj(normed)
        attended, weights = attend(self, query, key, value, **attention_kwargs)
        hidden_states = hidden_states + self.dropout(self.attn_out(attended))
        normed = self.ff_norm(hidden_states)
        feed_forward = self.ff_out(nn.functional.silu(self.ff_proj(normed)) * self.up_proj(normed))
        return hidden_states + self.dropout(feed_forward), weights


class LLaDAPreTrainedModel(MaskedDiffusionPreTrainedModel):
    config_class: type[LLaDAConfig] = LLaDAConfig
    config: LLaDAConfig
    _no_split_modules = ["LLaDABlock"]
    # The head has the same name as the MLP's last projection, `ff_out`: adapters exclude it by its full name.
    logits_shift = 0
    display_name = "LLaDA"
    checkpoints: tuple[str, ...] = ("GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-1.5")
    # The most probable token, block after block (d3LLM, arXiv 2601.07568).
    teacher_decoding = {"preset": "llada", "block_size": 32}
    adapter_targets = {
        "projections": ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"],
        "keys_values": ["k_proj", "v_proj"],
        "feedforward": ["ff_out"],
        "norms": ["attn_norm", "ff_norm", "ln_f"],
    }

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers; also updates `config.embedding_size`, which a saved model needs to load."""
        embedding = super().resize_token_embeddings(*args, **kwargs)
        self.config.embedding_size = embedding.weight.shape[0]
        return embedding


class LLaDAModel(LLaDAPreTrainedModel):
    """The transformer of [`LLaDAModelLM`]. As on the Hub, it also holds the head's weights, `transformer.ff_out`."""

    def __init__(self, config: LLaDAConfig):
        super().__init__(config)
        check_supported(config)
        rows = config.embedding_size or config.vocab_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(rows, config.d_model),
                "emb_drop": nn.Dropout(config.embedding_dropout),
                "blocks": nn.ModuleList(LLaDABlock(config, i) for i in range(config.n_layers)),
                "ln_f": nn.RMSNorm(config.d_model, eps=config.rms_norm_eps),
                "ff_out": nn.Linear(config.d_model, rows, bias=config.include_bias),
            }
        )
        self.rotary_emb = CanvasRotaryEmbedding(config.d_model // config.n_heads, config.rope_theta)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.transformer["wte"]

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.transformer["wte"] = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.transformer["ff_out"]

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.transformer["ff_out"] = value

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
        The hidden states of the positions. The head belongs to this module but is not run.

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
            inputs_embeds (`torch.Tensor` of shape `(batch, positions, d_model)`, *optional*): Embeddings in place
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
            `(batch, positions, d_model)`, after the final norm and in the dtype of the weights. On request
            also `hidden_states`, the input of each layer and the last hidden state, and `attentions`,
            `(batch, heads, positions, slots)` for each layer.

        Raises:
            ValueError: If both or neither of `input_ids` and `inputs_embeds` are given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either `input_ids` or `inputs_embeds`")
        if inputs_embeds is None:
            inputs_embeds = self.transformer["wte"](input_ids)
        return run_layers(
            self,
            self.transformer["blocks"],
            self.transformer["ln_f"],
            self.rotary_emb,
            self.transformer["emb_drop"](inputs_embeds),
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            cache_positions=cache_positions,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rotary_dtype=None if self.config.rope_full_precision else inputs_embeds.dtype,
            **kwargs,
        )


class LLaDAModelLM(MaskedLMForward, LLaDAPreTrainedModel, DiffusionGenerationMixin, LikelihoodMixin):
    """LLaDA with its language-model head. Row `i` of the logits predicts the token at position `i`.

    Example:

    ```python
    >>> model = LLaDAModelLM.from_pretrained("GSAI-ML/LLaDA-8B-Instruct", dtype="bfloat16")
    >>> output = model.generate(input_ids, preset="d3llm", max_new_tokens=256)
    ```
    """

    backbone_class: type[LLaDAModel] = LLaDAModel
    _tied_weights_keys = {"model.transformer.ff_out.weight": "model.transformer.wte.weight"}

    def __init__(self, config: LLaDAConfig):
        super().__init__(config)
        self.model = self.backbone_class(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear:
        return self.model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.model.set_output_embeddings(value)
