"""Loads the checkpoint folder that a command names, onto a device."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..common.tensors import plain_tensors
from ..modeling import loading
from ..modeling.checkpoint import check_folder, first_line


SAMPLE = 2**20  # values of a tensor that are checked


def quiet_libraries() -> None:
    """Turns off the progress bars and warnings of transformers, which would draw over a live canvas."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_model(
    folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False, weights: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Loads model and tokenizer of a masked-diffusion checkpoint.

    Args:
        folder (`str` or `Path`): The checkpoint folder.
        device (`str`, *optional*): Where to put the model; by default the GPU if there is one.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the tokenizer may run code from the folder
            (Dream's does). The model is always this package's class.
        weights (`bool`, *optional*, defaults to `True`): Whether to load the weights. Without them the model is on the
            meta device, for its facts alone.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The model in eval mode, and its tokenizer.

    Raises:
        `ValueError`: For a model of another kind, and a device that is not there.
        `OSError`: For a checkpoint that is missing, damaged or incomplete.
    """
    quiet_libraries()
    check_folder(folder)
    loading.read_config(folder, local_files_only=True)  # says more than the tokenizer's error
    tokenizer = loading.load_tokenizer(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    if not weights:
        return loading.load_empty_model(folder, local_files_only=True), tokenizer
    model = loading.load_model(folder, local_files_only=True)
    _warn_of_damage(folder, model)
    return _put(model, device), tokenizer


def load_assistant(args: argparse.Namespace) -> PreTrainedModel | None:
    """Loads the model that `--assistant` names, if there is one."""
    if args.assistant is None:
        return None
    return load_model(args.assistant, device=args.device, trust_remote_code=args.trust_remote_code)[0]


def is_diffusion_model(folder: str | Path) -> bool:
    """Whether a checkpoint folder holds a model of one of this package's families."""
    check_folder(folder)
    return loading.read_family(folder, local_files_only=True)[0] is not None


def load_autoregressive_model(
    folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Loads model and tokenizer of any other checkpoint folder that `AutoModelForCausalLM` takes, as a baseline.

    Args:
        folder (`str` or `Path`): The checkpoint folder.
        device (`str`, *optional*): Where to put the model; by default the GPU if there is one.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the folder's code may run.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The model in eval mode, and its tokenizer.
    """
    quiet_libraries()
    check_folder(folder)
    tokenizer = loading.load_tokenizer(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    return _put(loading.load_autoregressive_model(folder, **options), device), tokenizer


def _warn_of_damage(folder: str | Path, model: PreTrainedModel) -> None:
    """Warns of weights that are not finite: decoding with them ends in an error. Large tensors are sampled."""
    tensors = ((name, tensor) for name, value in model.state_dict().items() for tensor in plain_tensors(value))
    for name, tensor in tensors:
        if not tensor.flatten()[:: max(1, tensor.numel() // SAMPLE)].isfinite().all():
            sys.stderr.write(f"d3llm: warning: {name} in {folder} has values that are not finite (NaN, inf)\n")
            return


def _put(model: PreTrainedModel, device: str | None) -> PreTrainedModel:
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no weights")
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ValueError(f"Cannot use the device {device!r}: {first_line(error)}") from error
