"""What `drafter_config.json` says, and the part of PEFT's `adapter_config.json` that a drafter depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..generation.fields import Number, Whole, shown
from .drafter_base import PROJECTIONS


SCHEMA = "d3llm-drafter-1"
MOST_MASK_ROWS = 8
OF_BASE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "fingerprint")
RANGES: dict[str, Whole | Number] = {
    "window": Whole(1, MOST_MASK_ROWS),
    "sampler_size": Whole(1),
    "head_tokens": Whole(1),
    "rank": Whole(1),
    "alpha": Number(0, inclusive=False),
}
# Other values add something to the base that the hooks of a drafter do not.
PLAIN_LORA: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "modules_to_save": ([], None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
}


@dataclass
class DrafterConfig:
    """
    Sizes of a drafter, and the base that it belongs to.

    Args:
        window (`int`): Mask rows after a token that it was trained for, 1 to 8.
        sampler_size (`int`): Width of the sampler head.
        head_tokens (`int`, *optional*): Drafts have ids below it; `None` for any id.
        rank (`int`): Rank of the LoRA.
        alpha (`float`): The LoRA is multiplied by `alpha / rank`.
        base (`dict[str, Any]`): `model_type`, sizes and fingerprint of the base.
        base_name (`str`, *optional*): Folder of the base, or its name on the Hub.

    Raises:
        `ValueError`: For a value out of its range.
    """

    window: int
    sampler_size: int
    head_tokens: int | None
    rank: int
    alpha: float
    base: dict[str, Any]
    base_name: str | None = None

    def __post_init__(self) -> None:
        for name, kind in RANGES.items():
            value = getattr(self, name)
            optional = name == "head_tokens" and value is None
            if fault := None if optional else kind.fault(value):
                raise ValueError(f"`{name}`={shown(value)} {fault}")
        if not isinstance(self.base, dict) or set(self.base) != set(OF_BASE):
            raise ValueError(f"`base` must state {', '.join(OF_BASE)}")
        vocabulary = self.base["vocab_size"]
        if self.head_tokens is not None and self.head_tokens > vocabulary:
            raise ValueError(f"`head_tokens`={self.head_tokens} exceeds the {vocabulary} tokens of the base")

    @classmethod
    def from_files(cls, own: dict[str, Any], lora: dict[str, Any]) -> DrafterConfig:
        """
        The config by the contents of its two files.

        Args:
            own (`dict[str, Any]`): Values of `drafter_config.json`.
            lora (`dict[str, Any]`): Values of `adapter_config.json`.

        Raises:
            `ValueError`: For another schema, another kind of adapter, or a value out of its range.
        """
        if own.get("schema") != SCHEMA:
            raise ValueError(f"`schema`={shown(own.get('schema'))} is not '{SCHEMA}'")
        for name, plain in PLAIN_LORA.items():
            if lora.get(name, plain[0]) not in plain:
                raise ValueError(f"`{name}`={shown(lora[name])} of the adapter is not that of a plain LoRA")
        values: dict[str, Any] = {name: own.get(name) for name in ("window", "sampler_size", "head_tokens", "base")}
        values |= {"rank": lora.get("r"), "alpha": lora.get("lora_alpha")}
        return cls(**values, base_name=lora.get("base_model_name_or_path"))

    def files(self) -> dict[str, dict[str, Any]]:
        """Contents of the config files by their names."""
        own = {name: getattr(self, name) for name in ("window", "sampler_size", "head_tokens", "base")}
        lora = {
            "base_model_name_or_path": self.base_name,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": list(PROJECTIONS),
            "task_type": "CAUSAL_LM",
        }
        return {"drafter_config.json": {"schema": SCHEMA, **own}, "adapter_config.json": lora}

    def check_base(self, found: dict[str, Any], folder: str | Path) -> None:
        """Raises a `ValueError` if the drafter of a folder is not of the base that `found` describes."""
        for name in OF_BASE:
            if self.base[name] != found[name]:
                trained_for = f" (trained for {self.base_name})" if self.base_name else ""
                raise ValueError(
                    f"{folder} is the drafter of another base{trained_for}: its `{name}` is {self.base[name]}, and "
                    f"that of this model {found[name]}"
                )
