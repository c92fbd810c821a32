"""Loads a checkpoint folder for a command; whatever is wrong with it becomes an `OSError` or `ValueError`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.checkpoint import check_checkpoint, first_line, naming


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLE = 2**20  # values of a tensor that are looked at


def quiet_libraries() -> None:
    """Turns off the progress bars and warnings of transformers, which would draw over a live canvas."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_model(
    folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False, weights: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Loads model and tokenizer of a LLaDA or Dream checkpoint folder.

    Args:
        folder (`str` or `Path`): The checkpoint folder.
        device (`str`, *optional*): Where to put the model; by default the GPU if there is one.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the tokenizer may run code from the folder
            (Dream's does). The model is always this package's class.
        weights (`bool`, *optional*, defaults to `True`): Whether to load the weights; without them the model is on the
            meta device, and good for its configuration alone.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The model in eval mode, and its tokenizer.
    """
    folder = Path(folder)
    model_type, known = _model_type(folder)
    if not known:
        from ..modeling import family_names

        raise ValueError(f"{folder} holds a model of type {model_type!r}: expected {family_names()}.")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    quiet_libraries()
    with naming(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    if not weights:
        with naming(folder, "config.json"), torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)), tokenizer
    with naming(folder, "model"):
        check_checkpoint(folder, AutoConfig.from_pretrained(folder))
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        if (folder / "generation_config.json").is_file():  # transformers silently ignores a damaged one
            json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    _warn_of_damage(folder, model)
    return _put(model, device), tokenizer


def is_diffusion_model(folder: str | Path) -> bool:
    """
    Whether a checkpoint is of one of this package's model classes.

    Args:
        folder (`str` or `Path`): The checkpoint folder.

    Returns:
        `bool`: `False` for other models, such as autoregressive ones.
    """
    return _model_type(Path(folder))[1]


def load_autoregressive_model(
    folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Loads model and tokenizer of any checkpoint folder that `AutoModelForCausalLM` takes, as a baseline.

    Args:
        folder (`str` or `Path`): The checkpoint folder.
        device (`str`, *optional*): Where to put the model; by default the GPU if there is one.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the folder's code may run.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The model in eval mode, and its tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_libraries()
    folder = Path(folder)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    with naming(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    with naming(folder, "model"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, **options)
    return _put(model, device), tokenizer


def _model_type(folder: Path) -> tuple[str | None, bool]:
    """What a checkpoint's config calls its model, and whether the class is this package's."""
    if not (folder / "config.json").is_file():
        raise OSError(
            f"No checkpoint in {folder}: it has no config.json. Give a folder as written by `save_pretrained` or "
            "`hf download MODEL --local-dir FOLDER`."
        )
    from transformers import PretrainedConfig

    from ..modeling import find_family

    with naming(folder, "config.json"):
        model_type = PretrainedConfig.get_config_dict(folder)[0].get("model_type")
    if not isinstance(model_type, str | None):
        raise ValueError(f"config.json of {folder} has the `model_type` {model_type!r}: expected a name.")
    return model_type, find_family(model_type) is not None


def _warn_of_damage(folder: Path, model: PreTrainedModel) -> None:
    """Warns of weights that are no numbers: decoding with them ends in an error. Of large tensors a part is read."""
    for name, tensor in model.state_dict().items():
        if not tensor.flatten()[:: max(1, tensor.numel() // SAMPLE)].isfinite().all():
            sys.stderr.write(f"d3llm: warning: {name} in {folder} has values that are no numbers (NaN, inf)\n")
            return


def _put(model: PreTrainedModel, device: str | None) -> PreTrainedModel:
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no weights")
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ValueError(f"Cannot use the device {device!r}: {first_line(error)}") from error
