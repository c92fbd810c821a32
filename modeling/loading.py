"""Loads a checkpoint, whole or not at all. Everything in the package that loads one does it here."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from .checkpoint import check_checkpoint, check_folder, load_errors
from .families import families, family_names, find_family
from .layers import MaskedDiffusionPreTrainedModel


logger = logging.get_logger(__name__)


def load_model(name: str | Path, **kwargs: Any) -> MaskedDiffusionPreTrainedModel:
    """
    Loads a masked-diffusion model, always as this package's class.

    Args:
        name (`str` or `Path`): Folder or Hub id.
        kwargs (`Any`): As for `from_pretrained`; `trust_remote_code` is ignored. Without `dtype` the model has that of
            its checkpoint.

    Returns:
        `MaskedDiffusionPreTrainedModel`: The model, in eval mode. Pickled weights are not read.

    Raises:
        `ValueError`: For a model of another kind.
        `OSError`: For a checkpoint that is missing, damaged or incomplete.
    """
    options = {"dtype": "auto", "use_safetensors": True, **kwargs, "trust_remote_code": False}
    read_config(name, **_shared(options, "revision", "local_files_only"), check_weights=True)
    with load_errors(name, "model"):
        if (Path(name) / "generation_config.json").is_file():  # transformers silently ignores a damaged one
            json.loads((Path(name) / "generation_config.json").read_text(encoding="utf-8"))
        model, report = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
    if report["missing_keys"] or report["mismatched_keys"]:  # transformers fills them with random numbers
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise OSError(f"{name} lacks weights: {missing[0]} ({len(missing)} missing). Download it again.")
    return model


def load_empty_model(
    name: str | Path, *, attn_implementation: str | None = None, **kwargs: Any
) -> MaskedDiffusionPreTrainedModel:
    """
    A masked-diffusion model on the meta device, without weights: to look up its facts, and to try what will be done to
    its layers.

    Args:
        name (`str` or `Path`): Folder or Hub id. Only config.json is read, and of a folder the headers of the weights.
        attn_implementation (`str`, *optional*): As for `from_pretrained`.
        kwargs (`Any`): As for `AutoConfig.from_pretrained`, such as `revision`.

    Returns:
        `MaskedDiffusionPreTrainedModel`: The model.

    Raises:
        `ValueError`: For a model of another kind, and an unknown `attn_implementation`.
        `ImportError`: For an `attn_implementation` whose package is not installed.
        `OSError`: For a checkpoint that is missing, or whose config.json does not describe its weights.
    """
    config = read_config(name, check_weights=True, **kwargs)
    with load_errors(name, "model"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation)


def load_autoregressive_model(name: str | Path, **kwargs: Any) -> PreTrainedModel:
    """
    Loads any model that `AutoModelForCausalLM` takes and that is not a masked-diffusion model.

    Args:
        name (`str` or `Path`): Folder or Hub id.
        kwargs (`Any`): As for `from_pretrained`. Without `dtype` the model has that of its checkpoint.

    Returns:
        `PreTrainedModel`: The model, in eval mode.

    Raises:
        `ValueError`: For a masked-diffusion model.
        `OSError`: For a checkpoint that is missing or damaged.
    """
    with load_errors(name, "model"):
        model = AutoModelForCausalLM.from_pretrained(name, **{"dtype": "auto", "use_safetensors": True, **kwargs})
    if isinstance(model, MaskedDiffusionPreTrainedModel):
        raise ValueError(f"{name} is a masked-diffusion model: give an autoregressive one.")
    return model


def load_tokenizer(name: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Loads the tokenizer of a checkpoint.

    Args:
        name (`str` or `Path`): Folder or Hub id.
        kwargs (`Any`): As for `AutoTokenizer.from_pretrained`; no code of the checkpoint runs without
            `trust_remote_code=True`.

    Returns:
        `PreTrainedTokenizerBase`: The tokenizer.

    Raises:
        `OSError`: For a tokenizer that is missing or damaged, or that needs code.
    """
    with load_errors(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(name, **{"trust_remote_code": False, **kwargs})


def load_tokenizer_of(model: PreTrainedModel, **kwargs: Any) -> PreTrainedTokenizerBase | None:
    """
    Loads the tokenizer from where a model was loaded.

    Args:
        model (`PreTrainedModel`): The model.
        kwargs (`Any`): Those of the model's loading; `revision` and `trust_remote_code` apply to the tokenizer too.

    Returns:
        `PreTrainedTokenizerBase` or `None`: `None` for a model without a name, or when none can be loaded.
    """
    name = model.config._name_or_path
    if not name:
        return None
    try:
        return load_tokenizer(name, **_shared(kwargs, "revision", "trust_remote_code"))
    except OSError as error:
        logger.info("No tokenizer is loaded from %s: %s", name, str(error).splitlines()[0])
        return None


def read_config(name: str | Path, *, check_weights: bool = False, **kwargs: Any) -> PretrainedConfig:
    """
    Reads the config of a masked-diffusion model.

    Args:
        name (`str` or `Path`): Folder or Hub id.
        check_weights (`bool`, *optional*, defaults to `False`): Whether to check it against the weights of a folder.
        kwargs (`Any`): As for `AutoConfig.from_pretrained`.

    Returns:
        `PretrainedConfig`: The config.

    Raises:
        `ValueError`: For a model of another kind.
        `OSError`: For a checkpoint that is missing, or whose config.json does not describe its weights.
    """
    values, options = _read_values(name, **kwargs)
    family, model_type = _family_of(name, values)
    if family is None:
        known = [checkpoint for family in families() for checkpoint in family.checkpoints[:1]]
        raise ValueError(f"{name} is a {model_type!r} model: expected {family_names()}, such as {', '.join(known)}.")
    with load_errors(name, "config.json"):
        config = family.config_class.from_dict(values, name_or_path=name, **options)
    if check_weights and Path(name).is_dir():
        with load_errors(name, "model"):
            check_checkpoint(Path(name), config)
    return config


def read_family(name: str | Path, **kwargs: Any) -> tuple[type[MaskedDiffusionPreTrainedModel] | None, str | None]:
    """
    The family of a checkpoint by its config.json, and what that calls the model, whether or not its code is here.

    Args:
        name (`str` or `Path`): Folder or Hub id.
        kwargs (`Any`): As for `PretrainedConfig.get_config_dict`.

    Returns:
        `tuple[type[MaskedDiffusionPreTrainedModel] | None, str | None]`: The model class, `None` for a model of
        another kind; and the `model_type`, if it has one.

    Raises:
        `ValueError`: For a `model_type` and `architectures` of different families.
        `OSError`: For a checkpoint without config.json, or with a damaged one.
    """
    return _family_of(name, _read_values(name, **kwargs)[0])


def _read_values(name: str | Path, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of config.json, and the arguments that were not for finding it."""
    if Path(name).is_dir():
        check_folder(name)
    with load_errors(name, "config.json"):
        values, options = PretrainedConfig.get_config_dict(name, **kwargs)
        if not isinstance(values.get("model_type"), str | None):
            raise TypeError(f"`model_type` {values['model_type']!r} is not a name")
        if not isinstance(values.get("architectures"), list | None):
            raise TypeError(f"`architectures` {values['architectures']!r} is not a list of names")
        return values, options


def _family_of(
    name: str | Path, values: dict[str, Any]
) -> tuple[type[MaskedDiffusionPreTrainedModel] | None, str | None]:
    try:
        return find_family(values.get("model_type"), values.get("architectures")), values.get("model_type")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _shared(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if name in kwargs}
