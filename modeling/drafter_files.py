"""The folder of a drafter: PEFT's two files, and two of its own."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .checkpoint import first_line
from .drafter_config import DrafterConfig


CONFIGS = ("drafter_config.json", "adapter_config.json")
LORA_FILE = "adapter_model.safetensors"
OWN_FILE = "drafter.safetensors"


def read_drafter(folder: Path) -> tuple[DrafterConfig, dict[str, torch.Tensor]]:
    """
    Reads a drafter.

    Args:
        folder (`Path`): As written by `write_drafter`.

    Returns:
        `(DrafterConfig, dict[str, torch.Tensor])`: Its config, and its weights by their names in both files.

    Raises:
        `OSError`: For a missing or damaged file.
        `ValueError`: For a config that is not that of a drafter.
    """
    for name in (*CONFIGS, LORA_FILE, OWN_FILE):
        if not (folder / name).is_file():
            raise OSError(
                f"No drafter in {folder}: it has no {name}. Give a folder as written by `Drafter.save_pretrained`."
            )
    own, lora = (_read(folder / name, _read_json) for name in CONFIGS)
    try:
        config = DrafterConfig.from_files(own, lora)
    except ValueError as error:
        raise ValueError(f"The drafter in {folder} cannot be used: {error}") from error
    return config, _read(folder / LORA_FILE, load_file) | _read(folder / OWN_FILE, load_file)


def write_drafter(folder: Path, config: DrafterConfig, tensors: dict[str, torch.Tensor]) -> None:
    """
    Writes a drafter in bfloat16. Each file is complete or not there.

    Args:
        folder (`Path`): Made if it does not exist.
        config ([`DrafterConfig`]): Its config.
        tensors (`dict[str, torch.Tensor]`): Its weights by their names in the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    of_lora = {name: tensor for name, tensor in stored.items() if ".lora_" in name}
    of_own = {name: tensor for name, tensor in stored.items() if name not in of_lora}
    for name, part in ((LORA_FILE, of_lora), (OWN_FILE, of_own)):
        _write(folder / name, partial(_save, part))
    for name, content in config.files().items():
        text = json.dumps(content, indent=2) + "\n"
        _write(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    return content


def _read(path: Path, reader: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    try:
        return reader(path)
    except Exception as error:  # safetensors raises an exception of its own
        raise OSError(f"Cannot read {path}: {first_line(error)} (is the file complete?)") from error


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


def _write(path: Path, writer: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
