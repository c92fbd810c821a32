"""Loads a checkpoint folder for a command; whatever is wrong with it becomes an `OSError` or `ValueError`."""

from __future__ import annotations

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
    folder: str | Path, *, device: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Loads model and tokenizer of a LLaDA or Dream checkpoint folder.

    Args:
        folder (`str` or `Path`): The checkpoint folder.
        device (`str`, *optional*): Where to put the model; by default the GPU if there is one.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the tokenizer may run code from the folder
            (Dream's does). The model is always this package's class.

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
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    import d3llm.modeling  # noqa: F401  registers the model classes

    quiet_libraries()
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"Unknown device {device!r}: use for example cpu or cuda.") from None
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not type(config).__module__.startswith("d3llm."):
        raise ValueError(f"{folder} holds a model of type {config.model_type!r}: expected LLaDA or Dream.")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype="auto", local_files_only=True, output_loading_info=True
        )
    except (SafetensorError, RuntimeError) as error:  # a damaged file, or shapes that do not fit the config
        raise OSError(f"The weights in {folder} cannot be loaded; get the folder again. {error}") from error
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise OSError(f"The weights in {folder} are incomplete, e.g. {missing[0]} is missing; get the folder again.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (KeyError, TypeError, AttributeError) as error:
        raise OSError(f"The tokenizer in {folder} cannot be loaded; get the folder again. {error}") from error
    return model.to(device).eval(), tokenizer
