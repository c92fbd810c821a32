"""What SGLang needs to serve a model: its configuration of the decoding, and the flags of the launch."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml


SGLANG_FILE = "serving/sglang.yaml"


class Served(NamedTuple):
    """
    What SGLang assumes about an architecture (`srt/dllm/config.py`).

    Attributes:
        mask_token_id (`int`): The mask token, which cannot be set.
        block_size (`int`): Positions of a block, unless the configuration sets it.
    """

    mask_token_id: int
    block_size: int


# By the class in config.json.
SERVED = {
    "LLaDA2MoeModelLM": Served(156895, 32),
    "SDARForCausalLM": Served(151669, 4),
    "SDARMoeForCausalLM": Served(151669, 4),
}
THRESHOLD = 0.95  # SGLang's own


def sglang_serving(config: dict[str, Any], decoding: dict[str, Any]) -> dict[str, Any]:
    """
    How SGLang decodes a model as its generation_config.json says.

    Args:
        config (`dict[str, Any]`): The values of config.json.
        decoding (`dict[str, Any]`): Preset and fields of `DiffusionGenerationConfig`.

    Returns:
        `dict[str, Any]`: `algorithm` and `config`, the values of its configuration; empty for a model that SGLang does
        not serve, or would give another mask token. A selection that it does not have becomes its own threshold.
    """
    from ..generation.fields import METHOD_DEFAULTS
    from ..generation.presets import PRESETS
    from ..modeling import find_family

    architecture = (config.get("architectures") or [""])[0]
    served = SERVED.get(architecture)
    if served is None or config.get("mask_token_id") != served.mask_token_id:
        return {}
    family = find_family(config.get("model_type"), [architecture])
    preset = PRESETS.get(decoding.get("preset") or "")
    named = preset.values_for(family.preset_values if family else {}) if preset else {}
    values = {**METHOD_DEFAULTS, **named, **decoding}
    known = values["score"] == "probability" and values["selection"] in ("threshold", "threshold_or_count")
    known = known and not values["soft_inputs"]
    chosen: dict[str, Any] = {"threshold": values["threshold"] if known else THRESHOLD}
    if known and values.get("edit_threshold") is not None:
        chosen["edit_threshold"] = values["edit_threshold"]
    given = (config.get(name) for name in ("attention_block_size", "block_size", "block_length"))
    chosen["block_size"] = next((size for size in given if size is not None), served.block_size)
    return {"algorithm": "JointThreshold" if "edit_threshold" in chosen else "LowConfidence", "config": chosen}


def sglang_yaml(serving: dict[str, Any]) -> str:
    """
    The configuration file of SGLang.

    Args:
        serving (`dict[str, Any]`): From [`sglang_serving`].
    """
    head = (
        f"# python -m sglang.launch_server --dllm-algorithm {serving['algorithm']} --dllm-algorithm-config FILE ...\n"
    )
    return head + yaml.safe_dump(serving["config"], sort_keys=False)
