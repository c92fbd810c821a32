"""Fast-dLLM v2 (Fast-dLLM v2: Efficient Block-Diffusion LLM, arXiv 2509.26328): Qwen2.5's transformer with
block-causal attention.

State-dict keys are those of Efficient-Large-Model/Fast_dLLM_v2_7B. The logits are aligned as in the autoregressive
model that it was adapted from: row `i` predicts the token at position `i + 1`.
"""

from .configuration_fast_dllm_qwen import Fast_dLLM_QwenConfig
from .qwen_transformer import QwenBackbone, QwenDecoderLayer, QwenForMaskedDiffusion, QwenPreTrainedModel


class Fast_dLLM_QwenDecoderLayer(QwenDecoderLayer):  # noqa: N801  the name on the Hub, as below
    """One layer; FSDP knows it by this name."""


class Fast_dLLM_QwenPreTrainedModel(QwenPreTrainedModel):  # noqa: N801
    config_class = Fast_dLLM_QwenConfig
    config: Fast_dLLM_QwenConfig
    _no_split_modules = ["Fast_dLLM_QwenDecoderLayer"]
    logits_shift = 1
    display_name = "Fast-dLLM v2"
    checkpoints = ("Efficient-Large-Model/Fast_dLLM_v2_7B", "Efficient-Large-Model/Fast_dLLM_v2_1.5B")
    attention: str | None = "block_causal"
    attention_block_size = 32
    attention_grid = "absolute"
    # The most probable token of a block, whose size is that of the model.
    teacher_decoding = {"preset": "sdar_static"}


class Fast_dLLM_QwenModel(Fast_dLLM_QwenPreTrainedModel, QwenBackbone):  # noqa: N801
    """The transformer of [`Fast_dLLM_QwenForCausalLM`], without the head."""

    layer_class = Fast_dLLM_QwenDecoderLayer


class Fast_dLLM_QwenForCausalLM(Fast_dLLM_QwenPreTrainedModel, QwenForMaskedDiffusion):  # noqa: N801
    """Fast-dLLM v2 with its language-model head. Row `i` of the logits predicts the token at position `i + 1`.
    `forward` attends to what `attention_mask` allows: without a prepared 4-D mask to every position, where
    `generate()` attends block by block.

    Example:

    ```python
    >>> model = Fast_dLLM_QwenForCausalLM.from_pretrained("Efficient-Large-Model/Fast_dLLM_v2_7B", dtype="bfloat16")
    >>> output = model.generate(input_ids, attention="block_causal", block_size=32, max_new_tokens=256)
    ```
    """

    backbone_class = Fast_dLLM_QwenModel
