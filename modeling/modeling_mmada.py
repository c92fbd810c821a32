"""The text path of MMaDA (MMaDA: Multimodal Large Diffusion Language Models, arXiv 2505.15809): LLaDA's transformer
with image codes in its vocabulary. State-dict keys are those of Gen-Verse/MMaDA-8B-MixCoT.
"""

from .configuration_mmada import MMadaConfig
from .modeling_llada import LLaDAModel, LLaDAModelLM, LLaDAPreTrainedModel


class MMadaPreTrainedModel(LLaDAPreTrainedModel):
    config_class = MMadaConfig
    config: MMadaConfig
    logits_shift = 0
    display_name = "MMaDA"
    checkpoints = ("Gen-Verse/MMaDA-8B-MixCoT", "Gen-Verse/MMaDA-8B-Base")


class MMadaModel(MMadaPreTrainedModel, LLaDAModel):
    """The transformer of [`MMadaModelLM`], without the head."""


class MMadaModelLM(MMadaPreTrainedModel, LLaDAModelLM):
    """MMaDA with its language-model head, for text. Row `i` of the logits predicts the token at position `i`.

    Example:

    ```python
    >>> model = MMadaModelLM.from_pretrained("Gen-Verse/MMaDA-8B-MixCoT", dtype="bfloat16")
    >>> output = model.generate(input_ids, preset="llada", max_new_tokens=256)
    ```
    """

    backbone_class = MMadaModel
