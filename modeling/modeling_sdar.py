"""SDAR (SDAR: A Synergistic Diffusion-AutoRegression Paradigm, arXiv 2510.06303): Qwen3's transformer with
block-causal attention. TraDo (arXiv 2509.06949) has the same architecture.

State-dict keys are those of JetLM/SDAR-8B-Chat. Row `i` of the logits predicts the token at position `i`.
"""

from torch import nn

from .configuration_sdar import SDARConfig
from .qwen_transformer import (
    QwenAttention,
    QwenBackbone,
    QwenDecoderLayer,
    QwenForMaskedDiffusion,
    QwenPreTrainedModel,
)


class SDARAttention(QwenAttention):
    def __init__(self, config: SDARConfig, layer_idx: int):
        super().__init__(config, layer_idx, input_bias=config.attention_bias, output_bias=config.attention_bias)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)


class SDARDecoderLayer(QwenDecoderLayer):
    attention_class = SDARAttention


class SDARPreTrainedModel(QwenPreTrainedModel):
    config_class = SDARConfig
    config: SDARConfig
    _no_split_modules = ["SDARDecoderLayer"]
    logits_shift = 0
    display_name = "SDAR"
    checkpoints = (
        "JetLM/SDAR-8B-Chat",
        "JetLM/SDAR-4B-Chat",
        "JetLM/SDAR-1.7B-Chat",
        "Gen-Verse/TraDo-8B-Instruct",
        "Gen-Verse/TraDo-4B-Instruct",
        "Gen-Verse/TraDo-8B-Thinking",
    )
    attention: str | None = "block_causal"
    attention_block_size = 4
    attention_grid = "absolute"
    # The most probable token of a block, whose size is that of the model.
    teacher_decoding = {"preset": "sdar_static"}
    adapter_targets = {
        **QwenPreTrainedModel.adapter_targets,
        "norms": [*QwenPreTrainedModel.adapter_targets["norms"], "q_norm", "k_norm"],
    }


class SDARModel(SDARPreTrainedModel, QwenBackbone):
    """The transformer of [`SDARForCausalLM`], without the head."""

    layer_class = SDARDecoderLayer


class SDARForCausalLM(SDARPreTrainedModel, QwenForMaskedDiffusion):
    """SDAR or TraDo with its language-model head. `forward` attends to what `attention_mask` allows: without a
    prepared 4-D mask to every position, where `generate()` attends block by block.

    Example:

    ```python
    >>> model = SDARForCausalLM.from_pretrained("JetLM/SDAR-8B-Chat", dtype="bfloat16")
    >>> output = model.generate(input_ids, preset="sdar", max_new_tokens=256)
    ```
    """

    backbone_class = SDARModel
