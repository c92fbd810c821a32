"""Dream (Dream 7B: Diffusion Large Language Models, arXiv 2508.15487): Qwen2.5's transformer made bidirectional.

State-dict keys are those of Dream-org/Dream-v0-Instruct-7B. The logits are aligned as in the autoregressive model that
Dream was adapted from: row `i` predicts the token at position `i + 1`.
"""

from .configuration_dream import DreamConfig
from .qwen_transformer import QwenBackbone, QwenDecoderLayer, QwenForMaskedDiffusion, QwenPreTrainedModel


class DreamDecoderLayer(QwenDecoderLayer):
    """One layer; engines and FSDP know it by this name."""


class DreamPreTrainedModel(QwenPreTrainedModel):
    config_class = DreamConfig
    config: DreamConfig
    _no_split_modules = ["DreamDecoderLayer"]
    logits_shift = 1
    display_name = "Dream"
    checkpoints = (
        "Dream-org/Dream-v0-Instruct-7B",
        "Dream-org/Dream-v0-Base-7B",
        "Dream-org/Dream-Coder-v0-Instruct-7B",
        "apple/DiffuCoder-7B-Instruct",
        "apple/DiffuCoder-7B-cpGRPO",
    )
    preset_values = {
        "dkv_cache": {"cache_refresh_interval": 4},
        "dparallel": {"threshold": 0.45},
        "d3llm": {
            "threshold": 0.4,
            "forced_progress": "first_block",
            "cache_delay": 1,
            "cache_refresh_interval": None,
        },
        "d3llm_opened": {"threshold": 0.4, "forced_progress": "first_block"},
    }
    # The token with the lowest entropy, block after block (d3LLM, arXiv 2601.07568).
    teacher_decoding = {"preset": "dream", "selection": "count", "block_size": 32}


class DreamBaseModel(DreamPreTrainedModel, QwenBackbone):
    """The transformer of [`DreamModel`], without the head."""

    layer_class = DreamDecoderLayer


class DreamModel(DreamPreTrainedModel, QwenForMaskedDiffusion):
    """Dream with its language-model head. Row `i` of the logits predicts the token at position `i + 1`;
    [`~DreamModel.logit_rows`] gives the rows for chosen positions.

    Example:

    ```python
    >>> model = DreamModel.from_pretrained("Dream-org/Dream-v0-Instruct-7B", dtype="bfloat16")
    >>> output = model.generate(input_ids, preset="d3llm", max_new_tokens=256)
    ```
    """

    backbone_class = DreamBaseModel
