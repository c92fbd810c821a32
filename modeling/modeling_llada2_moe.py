"""LLaDA2.0 and 2.1 (arXiv 2512.15745): a block-causal transformer with experts, built as Ling 2.0 is. Row `i` of the
logits predicts the token at position `i`.

State-dict keys are those of inclusionAI/LLaDA2.0-mini.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeMLP, Qwen3MoeRMSNorm

from ..generation.decoding_diffusion import DiffusionGenerationMixin
from ..generation.likelihood import LikelihoodMixin
from .config_ranges import check_ranges
from .configuration_llada2_moe import LLaDA2MoeConfig
from .experts import (
    ExpertsBackbone,
    ExpertsLayer,
    ExpertsLM,
    ExpertsPreTrainedModel,
    RoutedExperts,
    stack_experts_of,
)
from .layers import CanvasRotaryEmbedding, attend
from .qwen_transformer import head_dim


# Fields of the published config and the one value of each that is built here.
SUPPORTED = {
    "use_qk_norm": True,
    "use_rmsnorm": True,
    "norm_head": False,
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "embedding_dropout": 0,
    "output_dropout": 0,
    "use_sliding_window": False,
}

stack_experts_of(LLaDA2MoeConfig.model_type)


class LLaDA2MoeAttention(nn.Module):
    def __init__(self, config: LLaDA2MoeConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = head_dim(config)
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        size, kv_size = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.sizes = [size, kv_size, kv_size]
        self.query_key_value = nn.Linear(config.hidden_size, sum(self.sizes), bias=config.use_qkv_bias)
        self.query_layernorm = Qwen3MoeRMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.key_layernorm = Qwen3MoeRMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.dense = nn.Linear(size, config.hidden_size, bias=config.use_bias)

    def forward(
        self, hidden_states: torch.Tensor, **attention_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # Three tensors, not views of one: `attend` gives each a shape of its own.
        query, key, value = (part.contiguous() for part in self.query_key_value(hidden_states).split(self.sizes, -1))
        norms = {"query_norm": self.query_layernorm, "key_norm": self.key_layernorm}
        attended, weights = attend(self, query, key, value, **norms, **attention_kwargs)
        return self.dense(attended), weights


class LLaDA2MoeGate(nn.Module):
    """Chooses experts by their sigmoid score plus a bias, from the groups whose two best sum up highest (DeepSeek-V3,
    arXiv 2412.19437, section 2.1.2). The bias does not enter the weights of the chosen ones."""

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.expert_bias: torch.Tensor
        self.register_buffer("expert_bias", torch.zeros(config.num_experts))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.LongTensor]:
        config = self.config
        logits = nn.functional.linear(tokens.float(), self.weight.float())
        scores = logits.sigmoid()
        groups = (scores + self.expert_bias.float()).unflatten(-1, (config.n_group, -1))
        best_two = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(-1)
        best_groups = best_two.topk(config.topk_group, dim=-1, sorted=False).indices
        open_groups = torch.zeros_like(best_two, dtype=torch.bool).scatter(-1, best_groups, True)
        eligible = groups.masked_fill(~open_groups[..., None], float("-inf")).flatten(-2)
        chosen = eligible.topk(config.num_experts_per_tok, dim=-1, sorted=False).indices
        weights = scores.gather(-1, chosen)
        if config.norm_topk_prob and config.num_experts_per_tok > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return logits, weights * config.routed_scaling_factor, chosen


class LLaDA2MoeDecoderLayer(ExpertsLayer):
    attention_name = "attention"

    def __init__(self, config: LLaDA2MoeConfig, layer_idx: int):
        if layer_idx < config.first_k_dense_replace:
            mlp: nn.Module = Qwen3MoeMLP(config, intermediate_size=config.intermediate_size)
        else:
            size = config.moe_intermediate_size * (config.num_shared_experts or 0)
            shared = Qwen3MoeMLP(config, intermediate_size=size) if size else None
            mlp = RoutedExperts(config, LLaDA2MoeGate(config), shared)
        super().__init__(config, LLaDA2MoeAttention(config, layer_idx), mlp)


class LLaDA2MoePreTrainedModel(ExpertsPreTrainedModel):
    config_class = LLaDA2MoeConfig
    config: LLaDA2MoeConfig
    _no_split_modules = ["LLaDA2MoeDecoderLayer"]
    _input_embed_layer = "word_embeddings"
    logits_shift = 0
    display_name = "LLaDA2"
    checkpoints = (
        "inclusionAI/LLaDA2.0-mini",
        "inclusionAI/LLaDA2.0-flash",
        "inclusionAI/LLaDA2.1-mini",
        "inclusionAI/LLaDA2.1-flash",
    )
    attention: str | None = "block_causal"
    attention_block_size = 32
    attention_grid = "absolute"
    preset_values = {"multi_bd": {"max_active_blocks": 2}}
    # The most probable token, block after block, as for LLaDA.
    teacher_decoding = {"preset": "sdar_static"}
    # Experts are not layers but stacked weights: adapters reach them by `target_parameters`.
    adapter_targets = {
        "projections": ["query_key_value", "dense", "gate_proj", "up_proj", "down_proj"],
        "keys_values": ["query_key_value"],
        "feedforward": ["down_proj"],
        "norms": ["input_layernorm", "post_attention_layernorm", "norm"],
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LLaDA2MoeGate):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            init.zeros_(module.expert_bias)


class LLaDA2MoeModel(LLaDA2MoePreTrainedModel, ExpertsBackbone):
    """The transformer of [`LLaDA2MoeModelLM`], without the head."""

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__(config)
        check_supported(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LLaDA2MoeDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = CanvasRotaryEmbedding(
            int(head_dim(config) * config.partial_rotary_factor), config.rope_theta
        )
        self.post_init()


class LLaDA2MoeModelLM(LLaDA2MoePreTrainedModel, ExpertsLM, DiffusionGenerationMixin, LikelihoodMixin):
    """LLaDA2.0 or 2.1 with its language-model head. Row `i` of the logits predicts the token at position `i`.

    Example:

    ```python
    >>> model = LLaDA2MoeModelLM.from_pretrained("inclusionAI/LLaDA2.0-mini", dtype="bfloat16")
    >>> output = model.generate(input_ids, max_new_tokens=256)
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.word_embeddings.weight"}

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__(config)
        self.model = LLaDA2MoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def check_supported(config: LLaDA2MoeConfig) -> None:
    """Raises a `ValueError` for a config that describes another model, or one that computes nonsense."""
    check_ranges(config)
    for name, value in SUPPORTED.items():
        if getattr(config, name) != value:
            raise ValueError(f"LLaDA2MoeConfig.{name}={getattr(config, name)} is not supported: it must be {value}")
    groups, opened = config.n_group, config.topk_group
    if config.num_experts % groups or not 1 <= opened <= groups:
        raise ValueError(
            f"LLaDA2MoeConfig.n_group={groups} and topk_group={opened}: n_group must divide "
            f"num_experts={config.num_experts}, and topk_group be at most n_group"
        )
    if config.num_experts_per_tok > opened * (config.num_experts // groups):
        raise ValueError(
            f"LLaDA2MoeConfig.num_experts_per_tok={config.num_experts_per_tok} is more than the experts of "
            f"topk_group={opened} groups"
        )
