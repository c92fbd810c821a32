"""Loads a checkpoint folder for a command; whatever is wrong with it becomes an `OSError` or `ValueError`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    if not (folder / "config.json").is_file():
        raise OSError(
            f"No checkpoint in {folder}: it has no config.json. Give a folder as written by `save_pretrained` or "
            "`hf download MODEL --local-dir FOLDER`."
        )
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

    import d3llm.modeling  # noqa: F401  registers the model classes

    quiet_libraries()
    with _naming(folder, "config.json"):
        model_type = PretrainedConfig.get_config_dict(folder)[0].get("model_type")
    if model_type not in CONFIG_MAPPING or not CONFIG_MAPPING[model_type].__module__.startswith("d3llm."):
        raise ValueError(f"{folder} holds a model of type {model_type!r}: expected LLaDA or Dream.")
    with _naming(folder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    if not weights:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)), tokenizer
    with _naming(folder, "model"):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        if (folder / "generation_config.json").is_file():  # transformers silently ignores a damaged one
            json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:  # transformers only warns and fills them with random numbers
        raise OSError(f"The weights in {folder} lack {missing[0]} ({len(missing)} missing): get the folder again.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ValueError(f"Cannot use the device {device!r}: {_first_line(error)}") from error


@contextmanager
def _naming(folder: Path, part: str) -> Iterator[None]:
    """Turns whatever the libraries raise over a damaged file into an `OSError` that names folder and part."""
    try:
        yield
    except Exception as error:  # they raise anything from KeyError to tokenizers' plain Exception
        hint = "allow it with --trust-remote-code" if "custom code" in str(error) else "is the folder complete?"
        raise OSError(f"Cannot load the {part} of {folder}: {_first_line(error)} ({hint})") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
