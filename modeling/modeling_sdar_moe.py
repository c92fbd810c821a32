"""SDAR's mixture of experts (arXiv 2510.06303): Qwen3-MoE made block-causal. Row `i` of the logits predicts the
token at position `i`.

State-dict keys are those of JetLM/SDAR-30B-A3B-Chat.
"""

from torch import nn
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeMLP, Qwen3MoeRMSNorm, Qwen3MoeTopKRouter

from ..generation.decoding_diffusion import DiffusionGenerationMixin
from ..generation.likelihood import LikelihoodMixin
from .config_ranges import check_ranges
from .configuration_sdar_moe import SDARMoeConfig
from .experts import (
    NORMED_ATTENTION_TARGETS,
    ExpertsBackbone,
    ExpertsLayer,
    ExpertsLM,
    ExpertsPreTrainedModel,
    NormedAttention,
    RoutedExperts,
    stack_experts_of,
)
from .layers import CanvasRotaryEmbedding
from .qwen_transformer import head_dim


stack_experts_of(SDARMoeConfig.model_type)


class SDARMoeDecoderLayer(ExpertsLayer):
    def __init__(self, config: SDARMoeConfig, layer_idx: int):
        dense = layer_idx in config.mlp_only_layers or (layer_idx + 1) % config.decoder_sparse_step
        mlp = Qwen3MoeMLP(config) if dense else RoutedExperts(config, Qwen3MoeTopKRouter(config))
        super().__init__(config, NormedAttention(config, layer_idx), mlp)


class SDARMoePreTrainedModel(ExpertsPreTrainedModel):
    config_class = SDARMoeConfig
    config: SDARMoeConfig
    _no_split_modules = ["SDARMoeDecoderLayer"]
    logits_shift = 0
    display_name = "SDAR-MoE"
    checkpoints = ("JetLM/SDAR-30B-A3B-Chat",)
    attention: str | None = "block_causal"
    attention_block_size = 4
    attention_grid = "absolute"
    # The most probable token, block after block, as for LLaDA.
    teacher_decoding = {"preset": "sdar_static"}
    adapter_targets = NORMED_ATTENTION_TARGETS


class SDARMoeModel(SDARMoePreTrainedModel, ExpertsBackbone):
    """The transformer of [`SDARMoeForCausalLM`], without the head."""

    def __init__(self, config: SDARMoeConfig):
        super().__init__(config)
        check_supported(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(SDARMoeDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = CanvasRotaryEmbedding(head_dim(config), config.rope_theta)
        self.post_init()


class SDARMoeForCausalLM(SDARMoePreTrainedModel, ExpertsLM, DiffusionGenerationMixin, LikelihoodMixin):
    """SDAR's mixture of experts with its language-model head. Row `i` of the logits predicts the token at
    position `i`.

    Example:

    ```python
    >>> model = SDARMoeForCausalLM.from_pretrained("JetLM/SDAR-30B-A3B-Chat", dtype="bfloat16")
    >>> output = model.generate(input_ids, max_new_tokens=256)
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: SDARMoeConfig):
        super().__init__(config)
        self.model = SDARMoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def check_supported(config: SDARMoeConfig) -> None:
    """Raises a `ValueError` for a config that describes another model, or one that computes nonsense."""
    check_ranges(config)
    if config.use_sliding_window:
        raise ValueError("SDARMoeConfig.use_sliding_window=True is not supported: SDAR attends to all blocks before")
