"""Checkpoints of half the size: weights in 16 bits, which are loaded in the type that config.json names."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save

from ..common.files import write_atomically


WEIGHTS = "model.safetensors"


def store_in_bfloat16(folder: Path) -> None:
    """
    Rounds the weights of a checkpoint, unless they are in 16 bits. Its config.json still names their type before, so
    that they are loaded, decoded and trained in that.

    Args:
        folder (`Path`): A checkpoint of one file.

    Raises:
        `OSError`: If there are no weights, or they cannot be written. What was there stays.
    """
    weights = load_file(folder / WEIGHTS)
    if any(tensor.dtype != torch.bfloat16 for tensor in weights.values()):
        rounded = {name: tensor.bfloat16() for name, tensor in weights.items()}
        write_atomically(folder / WEIGHTS, save(rounded, metadata={"format": "pt"}))
