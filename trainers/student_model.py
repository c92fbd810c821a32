"""Loads a student or teacher by name: always as this package's class, and only if it is complete."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ..evaluation.checkpoint import check_checkpoint, naming
from ..modeling import family_names
from ..modeling.layers import MaskedDiffusionPreTrainedModel


logger = logging.get_logger(__name__)


def load_model(name: str, **kwargs: Any) -> PreTrainedModel:
    """
    Loads a masked-diffusion model.

    Args:
        name (`str`): Folder or Hub id.
        kwargs (`Any`): As for `from_pretrained`. The default `dtype` is float32, which trained weights need.
            `trust_remote_code` concerns only the tokenizer, since the model is always this package's class.

    Returns:
        `PreTrainedModel`: The model.

    Raises:
        `ValueError`: For a model of another kind.
        `OSError`: For a model that is missing or incomplete.
    """
    kwargs = {"dtype": "float32", **kwargs, "trust_remote_code": False}
    shared = {key: kwargs[key] for key in ("revision", "attn_implementation") if key in kwargs}
    empty_model(name, **shared)
    with naming(name, "model"):
        model, report = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **kwargs)
    if report["missing_keys"] or report["mismatched_keys"]:  # transformers fills them with random numbers
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise OSError(f"{name} lacks weights: {missing[0]} ({len(missing)} missing). Download or save it again.")
    return model


def empty_model(name: str, *, revision: str | None = None, attn_implementation: str | None = None) -> PreTrainedModel:
    """
    The layers of a masked-diffusion model without their weights, to try the settings of a training on.

    Args:
        name (`str`): Folder or Hub id. Its config.json is read and, for a folder, the headers of the weights.
        revision (`str`, *optional*), attn_implementation (`str`, *optional*): As for `from_pretrained`.

    Returns:
        `PreTrainedModel`: On the meta device.

    Raises:
        `ValueError`: For a model of another kind, and an unknown `attn_implementation`.
        `ImportError`: For an `attn_implementation` whose package is not installed.
        `OSError`: For a missing model, or a config.json that does not match the weights.
    """
    with naming(name, "config.json"):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), PreTrainedModel)
    if not issubclass(model_class, MaskedDiffusionPreTrainedModel):
        raise ValueError(f"{name} is a {config.model_type!r} model: expected {family_names()}.")
    with naming(name, "model"):
        if Path(name).is_dir():
            check_checkpoint(Path(name), config)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation)


def load_tokenizer(model: PreTrainedModel, **kwargs: Any) -> PreTrainedTokenizerBase | None:
    """
    The tokenizer in the folder or repository that a model was loaded from.

    Args:
        model (`PreTrainedModel`): The model.
        kwargs (`Any`): Arguments with which the model was loaded; `revision` and `trust_remote_code` also apply to the
            tokenizer.

    Returns:
        `PreTrainedTokenizerBase` or `None`: `None` for a model without a name, or if there is none that loads.
    """
    name = model.config._name_or_path
    if not name:
        return None
    shared = {key: kwargs[key] for key in ("revision", "trust_remote_code") if key in kwargs}
    try:
        return AutoTokenizer.from_pretrained(name, **{"trust_remote_code": False, **shared})
    except (OSError, ValueError, KeyError) as error:
        logger.info("No tokenizer loaded from %s: %s", name, str(error).splitlines()[0])
        return None
