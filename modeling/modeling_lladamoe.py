"""LLaDA-MoE (arXiv 2509.24389): LLaDA with experts. A bidirectional transformer with Qwen3's attention and OLMoE's
experts; row `i` of the logits predicts the token at position `i`.

State-dict keys are those of inclusionAI/LLaDA-MoE-7B-A1B-Instruct.
"""

from torch import nn
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeMLP, Qwen3MoeRMSNorm, Qwen3MoeTopKRouter

from ..generation.decoding_diffusion import DiffusionGenerationMixin
from ..generation.likelihood import LikelihoodMixin
from .config_ranges import check_ranges
from .configuration_lladamoe import LLaDAMoEConfig
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


# Fields of the published config and the one value of each that is built here.
SUPPORTED = {
    "qk_layernorm": True,
    "clip_qkv": None,
    "partial_rotary_factor": 1,
    "routed_scaling_factor": 1,
    "shared_expert_intermediate_size": None,
    "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False,
    "router_num_group": None,
    "router_topk_group": None,
}

stack_experts_of(LLaDAMoEConfig.model_type)


class LLaDAMoEDecoderLayer(ExpertsLayer):
    def __init__(self, config: LLaDAMoEConfig, layer_idx: int):
        routed = config.moe_layer_freq is None or config.moe_layer_freq[layer_idx]
        mlp = RoutedExperts(config, Qwen3MoeTopKRouter(config)) if routed else Qwen3MoeMLP(config)
        super().__init__(config, NormedAttention(config, layer_idx), mlp)


class LLaDAMoEPreTrainedModel(ExpertsPreTrainedModel):
    config_class = LLaDAMoEConfig
    config: LLaDAMoEConfig
    _no_split_modules = ["LLaDAMoEDecoderLayer"]
    logits_shift = 0
    display_name = "LLaDA-MoE"
    hub_model_types = ("llada",)
    checkpoints = ("inclusionAI/LLaDA-MoE-7B-A1B-Instruct", "inclusionAI/LLaDA-MoE-7B-A1B-Base")
    # The most probable token, block after block, as for LLaDA.
    teacher_decoding = {"preset": "llada", "block_size": 32}
    adapter_targets = NORMED_ATTENTION_TARGETS


class LLaDAMoEModel(LLaDAMoEPreTrainedModel, ExpertsBackbone):
    """The transformer of [`LLaDAMoEModelLM`], without the head."""

    def __init__(self, config: LLaDAMoEConfig):
        super().__init__(config)
        check_supported(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LLaDAMoEDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = CanvasRotaryEmbedding(config.hidden_size // config.num_attention_heads, config.rope_theta)
        self.post_init()


class LLaDAMoEModelLM(LLaDAMoEPreTrainedModel, ExpertsLM, DiffusionGenerationMixin, LikelihoodMixin):
    """LLaDA-MoE with its language-model head. Row `i` of the logits predicts the token at position `i`.

    Example:

    ```python
    >>> model = LLaDAMoEModelLM.from_pretrained("inclusionAI/LLaDA-MoE-7B-A1B-Instruct", dtype="bfloat16")
    >>> output = model.generate(input_ids, preset="llada", max_new_tokens=256)
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LLaDAMoEConfig):
        super().__init__(config)
        self.model = LLaDAMoEModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def check_supported(config: LLaDAMoEConfig) -> None:
    """Raises a `ValueError` for a config that describes another model, or one that computes nonsense."""
    check_ranges(config)
    for name, value in SUPPORTED.items():
        if getattr(config, name) != value:
            raise ValueError(f"LLaDAMoEConfig.{name}={getattr(config, name)} is not supported: it must be {value}")
    if config.moe_layer_freq is not None and len(config.moe_layer_freq) != config.num_hidden_layers:
        raise ValueError(
            f"LLaDAMoEConfig.moe_layer_freq={config.moe_layer_freq} must have one value for each of the "
            f"{config.num_hidden_layers} layers"
        )
