"""Holds a checkpoint's config.json against what the headers of its weights say, before anything is allocated.

transformers builds the model that the config describes, fills what the weights lack with random numbers and leaves out
what they have too much: of a config that does not belong to them that is hours, or another model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open


if TYPE_CHECKING:
    from transformers import PretrainedConfig

INDEX = "model.safetensors.index.json"
# Made from the config in every load, and present in weights of early releases.
BUFFERS = ("inv_freq",)


def read_header(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """
    Shape and dtype of every tensor of a checkpoint, without its data.

    Args:
        folder (`Path`): The checkpoint.

    Returns:
        `dict[str, tuple[tuple[int, ...], str]]`: By name; empty for a folder without safetensors.

    Raises:
        `OSError`: For a file that the index names and the folder lacks.
        `safetensors.SafetensorError`: For a damaged file.
    """
    files = ["model.safetensors"] if (folder / "model.safetensors").is_file() else []
    if not files and (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    header = {}
    for file in files:
        if not (folder / file).is_file():
            raise OSError(f"{file} is missing, which {INDEX} names")
        with safe_open(folder / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no mapping
                part = tensors.get_slice(name)
                header[name] = (tuple(part.get_shape()), part.get_dtype())
    return header


def check_header(config: PretrainedConfig, header: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """
    Raises a `ValueError` if a config does not describe the tensors of a checkpoint.

    Args:
        config (`PretrainedConfig`): The config.
        header (`dict[str, tuple[tuple[int, ...], str]]`): From [`read_header`].
    """
    if not header or getattr(config, "quantization_config", None) is not None:  # which has tensors of its own
        return
    layers = config.num_hidden_layers
    if isinstance(layers, int) and layers > len(header):  # so many would take long to build
        raise ValueError(f"config.json has {layers} layers, and the weights {len(header)} tensors")
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    described = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    missing = [name for name in described if name not in header and name not in tied]
    unexpected = [name for name in header if name not in described and not name.endswith(BUFFERS)]
    for names, verb in ((missing, "lack"), (unexpected, "have beyond config.json")):
        if names:
            raise ValueError(f"the weights {verb} {names[0]} ({len(names)} such): config.json is not theirs")
    for name, shape in described.items():
        found, dtype = header.get(name, (shape, "F32"))
        if found != shape:
            raise ValueError(f"{name} has the shape {found} in the weights, {shape} by config.json")
        if dtype[0] not in "FB" or dtype == "BOOL":  # floats of any width
            raise ValueError(f"{name} has the dtype {dtype}, and config.json no `quantization_config`")
