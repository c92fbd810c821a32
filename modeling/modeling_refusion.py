"""ReFusion (ReFusion: A Diffusion Large Language Model with Parallel Autoregressive Decoding, arXiv 2512.13586):
Qwen3's transformer with causal attention over slots, in the order in which they are completed.

State-dict keys are those of GSAI-ML/ReFusion. Row `i` of the logits predicts the token at position `i` where that is
masked, and the next one where it is not. The published config.json has the `model_type` and `architectures` of Qwen3,
so that only this class, not an Auto class, loads it.
"""

from .configuration_refusion import ReFusionConfig
from .modeling_sdar import SDARAttention, SDARPreTrainedModel
from .qwen_transformer import QwenBackbone, QwenDecoderLayer, QwenForMaskedDiffusion, QwenPreTrainedModel


class ReFusionDecoderLayer(QwenDecoderLayer):
    """One layer; FSDP knows it by this name."""

    attention_class = SDARAttention  # Qwen3's


class ReFusionPreTrainedModel(QwenPreTrainedModel):
    config_class = ReFusionConfig
    config: ReFusionConfig
    _no_split_modules = ["ReFusionDecoderLayer"]
    logits_shift = 0
    display_name = "ReFusion"
    checkpoints = ("GSAI-ML/ReFusion",)
    attention: str | None = "causal"
    # One slot after another, each from left to right, the most probable token each time.
    teacher_decoding = {"preset": "refusion", "slot_threshold": 1.0, "token_threshold": 1.0}
    adapter_targets = SDARPreTrainedModel.adapter_targets


class ReFusionModel(ReFusionPreTrainedModel, QwenBackbone):
    """The transformer of [`ReFusionForCausalLM`], without the head."""

    layer_class = ReFusionDecoderLayer


class ReFusionForCausalLM(ReFusionPreTrainedModel, QwenForMaskedDiffusion):
    """ReFusion with its language-model head. `forward` attends to what `attention_mask` allows: without a prepared 4-D
    mask to every position, where `generate()` attends in the order of the slots.

    Example:

    ```python
    >>> model = ReFusionForCausalLM.from_pretrained("GSAI-ML/ReFusion", dtype="bfloat16")
    >>> output = model.generate(input_ids, preset="refusion", max_new_tokens=512)
    ```
    """

    backbone_class = ReFusionModel
