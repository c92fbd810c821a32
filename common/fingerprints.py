"""Short digests that tell whether values and files have changed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .tensors import plain_tensors


SAMPLE = 2**20  # bytes


def fingerprint(value: Any) -> str:
    """
    A short digest of JSON values.

    Args:
        value (`Any`): JSON values.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def fingerprint_files(paths: Iterable[Path]) -> str:
    """
    A short digest of files by name, size and three samples of each. This is quick even for the weights of a large
    model, and distinguishes two states of a training.

    Args:
        paths (`Iterable[Path]`): The files.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - SAMPLE)):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:16]


def fingerprint_checkpoint(folder: Path) -> str:
    """
    What results call the weights of a checkpoint: a digest of its config and its weights.

    Args:
        folder (`Path`): A checkpoint folder.

    Returns:
        `str`: 16 hexadecimal digits.

    Raises:
        `OSError`: For a folder that has no `config.json`.
    """
    return fingerprint_files([folder / "config.json", *sorted(folder.glob("*.safetensors"))])


def fingerprint_weights(model: Any) -> str:
    """
    A short digest of a model in memory: name, shape, type and up to 1024 values of every parameter.

    Args:
        model (`PreTrainedModel`): The model; of one on the meta device, names and shapes alone count.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    parts = ((name, tensor) for name, value in model.state_dict().items() for tensor in plain_tensors(value))
    for name, tensor in parts:
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        if not tensor.is_meta:
            values = tensor.flatten()[:: max(1, tensor.numel() // 1024)][:1024]
            digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
