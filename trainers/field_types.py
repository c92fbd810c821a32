"""
Valid values for the fields of a recipe.

The fields of this package state their ranges in their annotations. Those of transformers and TRL only state types;
their ranges are here.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from functools import cache, partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_type_hints

from accelerate.utils import GradientAccumulationPlugin
from pydantic import AfterValidator, ConfigDict, Field, with_config
from transformers.trainer_pt_utils import AcceleratorConfig
from typing_extensions import TypedDict

from ..common import field_types
from ..common.field_types import Count, Positive, ProperShare, Seed, Steps, Weight
from ..common.schema import check
from ..generation.fields import suggestion


FEW = 8  # an error lists at most this many choices


def _read_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _json_object(text: str) -> str:
    _read_object(text)
    return text


def _read_object_or_file(text: str) -> dict[str, Any]:
    if text.startswith("{"):
        return _read_object(text)
    try:
        return _read_object(Path(text).read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise ValueError("expected a JSON object, or a file that holds one") from None


def _json_file(text: str) -> str:
    _read_object_or_file(text)
    return text


def _accelerator_file(text: str) -> str:
    check(AcceleratorOptions, _read_object_or_file(text), "its ")
    return text


def _optimizer_options(text: str) -> str:
    if not all(name and equals for name, equals, _ in (part.partition("=") for part in text.split(","))):
        raise ValueError("expected names and values, such as 'eps=1e-6,amsgrad=True'")
    return text


def _unused(default: Any, value: Any) -> Any:
    if value != default:
        raise ValueError("it is not supported here, omit it")
    return value


def _among(choices: tuple[str, ...], value: str) -> str:
    if value not in choices:
        raise ValueError(f"there is no such name{suggestion(value, choices)}")
    return value


NotEmpty = Annotated[str, Field(min_length=1)]
JsonObject = Annotated[str, AfterValidator(_json_object)]
JsonFile = Annotated[str, AfterValidator(_json_file)]

AcceleratorFile = Annotated[str, AfterValidator(_accelerator_file)]
Debugging = Literal["underflow_overflow", "tpu_metrics_debug"]
CompileMode = Literal["default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


def _options(kind: type, **others: Any) -> Any:
    """The type of a dictionary with the arguments of a dataclass, of which `others` override the types of some."""
    options = TypedDict(f"{kind.__name__}Options", {**get_type_hints(kind), **others}, total=False)  # type: ignore
    return with_config(ConfigDict(extra="forbid"))(options)


AcceleratorOptions = _options(
    AcceleratorConfig, gradient_accumulation_kwargs=_options(GradientAccumulationPlugin, num_steps=Count) | None
)

TRAINING_FIELDS: Mapping[str, Any] = MappingProxyType(
    {
        "output_dir": NotEmpty | PathLike | None,
        "resume_from_checkpoint": str | PathLike | None,
        "per_device_train_batch_size": Count,
        "per_device_eval_batch_size": Count,
        "gradient_accumulation_steps": Count,
        "eval_accumulation_steps": Count | None,
        "num_train_epochs": Positive,
        "max_steps": Literal[-1] | Count,  # -1: set by the epochs
        "learning_rate": Weight,
        "lr_scheduler_kwargs": dict | JsonObject | None,
        "warmup_steps": Weight,
        "optim_args": Annotated[str, AfterValidator(_optimizer_options)] | None,
        "weight_decay": Weight,
        "adam_beta1": ProperShare,
        "adam_beta2": ProperShare,
        "adam_epsilon": Weight,
        "max_grad_norm": Weight | None,
        "neftune_noise_alpha": Weight | None,
        "length_column_name": Annotated[str, AfterValidator(partial(_unused, "length"))],  # trainers add the column
        "activation_checkpointing_kwargs": dict | JsonObject | None,
        "gradient_checkpointing_kwargs": dict | JsonObject | None,
        "torch_compile_mode": CompileMode | None,
        "torch_empty_cache_steps": Count | None,
        "logging_steps": Steps,
        "eval_steps": Steps | None,
        "eval_delay": Weight,
        "save_steps": Steps,
        "save_total_limit": Count | None,
        "seed": Seed,
        "data_seed": Seed | None,
        "dataloader_num_workers": Annotated[int, Field(ge=0, le=1024)],  # processes
        "dataloader_prefetch_factor": Count | None,
        "ddp_bucket_cap_mb": Count | None,
        "ddp_timeout": Count,
        "fsdp_config": dict | JsonFile | None,
        "deepspeed": dict | JsonFile | None,
        # `TrainingArguments` converts these to another type, which must be accepted too when it is given again.
        "accelerator_config": AcceleratorOptions | AcceleratorConfig | AcceleratorFile | None,
        "debug": Debugging | list[Debugging] | Literal[""] | None,
        "fsdp": bool | str | list[str] | None,
    }
)
"""Fields of `TrainingArguments`."""

MODEL_FIELDS: Mapping[str, Any] = MappingProxyType(
    {
        "model_name_or_path": NotEmpty | None,
        "lora_r": Count,
        "lora_alpha": Count,
        "lora_dropout": ProperShare,
        "lora_target_modules": str | list[str] | None,
        "load_in_8bit": Annotated[bool, AfterValidator(partial(_unused, False))],
        "load_in_4bit": Annotated[bool, AfterValidator(partial(_unused, False))],
    }
)
"""Fields of TRL's `ModelConfig`."""


def check_fields(instance: Any, inherited: Mapping[str, Any] = MappingProxyType({})) -> None:
    """
    Checks every field of a dataclass as [`~d3llm.common.field_types.check_fields`] does. It also checks the choices
    that transformers states in a field's metadata.

    Args:
        instance (`Any`): The dataclass.
        inherited (`Mapping[str, Any]`, *optional*): Types of fields whose annotations do not state their ranges.

    Raises:
        `ValueError`: In one line, for the first field with an invalid value.
    """
    field_types.check_fields(instance, {**_declared_fields(instance.__class__), **inherited})


@cache
def _declared_fields(dataclass: type) -> dict[str, Any]:
    hints = get_type_hints(dataclass, include_extras=True)
    return {
        field.name: _declared(hints[field.name], field.metadata.get("choices"))
        for field in fields(dataclass)
        if field.init
    }


def _declared(hint: Any, choices: Any) -> Any:
    """The type of a field of transformers, whose choices are an enumeration or are given in its metadata."""
    kinds = get_args(hint) or (hint,)
    named = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    names = tuple(choices or [member.value for kind in named for member in kind])
    if not names:
        return hint
    one: Any = Literal[names] if len(names) <= FEW else Annotated[str, AfterValidator(partial(_among, names))]
    return one | None if type(None) in kinds else one
