"""Checks a checkpoint before it is loaded: its config.json against the headers of its weights.

transformers builds the model that the config describes, fills missing weights with random numbers and ignores
superfluous ones. With the config of another model that takes hours, or gives another model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetensors import safe_open


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

INDEX = "model.safetensors.index.json"
# Made from the config in every load, and present in weights of early releases.
BUFFERS = ("inv_freq",)
SAMPLE_ROWS = 16  # of two tensors that should be the same
# By words of the error; a damaged folder raises anything.
REMEDIES = {
    "custom code": "allow it with --trust-remote-code",
    "attn_implementation": "take 'sdpa'",
    "deserializing header": "the weights are damaged",
}


class Header(NamedTuple):
    """What the header of a file says about a tensor."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


@contextmanager
def load_errors(name: str | Path, part: str) -> Iterator[None]:
    """
    Turns whatever the libraries raise about a damaged file into an `OSError` that names the checkpoint and the part. A
    missing package stays an `ImportError`.

    Args:
        name (`str` or `Path`): The checkpoint.
        part (`str`): The part that is loaded.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # they raise anything from KeyError to tokenizers' plain Exception
        question = "is the folder complete?" if Path(name).is_dir() else "a folder, or a model on the Hub?"
        for file in Path(name).glob("*.safetensors"):
            if not os.access(file, os.R_OK):  # safetensors says that there is no such file
                question = f"no permission to read {file.name}"
        hint = next((remedy for words, remedy in REMEDIES.items() if words in str(error)), question)
        raise OSError(f"Cannot load the {part} of {name}: {first_line(error)} ({hint})") from error


def first_line(error: Exception) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def check_folder(folder: str | Path) -> None:
    """Raises an `OSError` if a folder does not hold a checkpoint."""
    if not (Path(folder) / "config.json").is_file():
        raise OSError(
            f"No checkpoint in {folder}: it has no config.json. Give a folder as written by `save_pretrained` or "
            "`hf download MODEL --local-dir FOLDER`."
        )


def check_checkpoint(folder: Path, config: PretrainedConfig) -> None:
    """
    Raises a `ValueError` if a config does not describe the tensors of a checkpoint.

    Args:
        folder (`Path`): The checkpoint; one without safetensors is not checked.
        config (`PretrainedConfig`): The config.

    Raises:
        `OSError`: For a file that is in the index and not in the folder.
        `safetensors.SafetensorError`: For a damaged file.
    """
    header = read_header(folder)
    if not header or getattr(config, "quantization_config", None) is not None:  # its tensors have other names
        return
    layers = config.num_hidden_layers
    if isinstance(layers, int) and layers > len(header):  # they would take long to build
        raise ValueError(f"config.json has {layers} layers, and the weights {len(header)} tensors")
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    _check_names_and_shapes(model, header)
    _check_tied(model, header)


def read_header(folder: Path) -> dict[str, Header]:
    """Shape and dtype of every tensor of a checkpoint by name, without its data; empty without safetensors."""
    files = ["model.safetensors"] if (folder / "model.safetensors").is_file() else []
    if not files and (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    header = {}
    for file in files:
        if not (folder / file).is_file():
            raise OSError(f"{file} is in {INDEX}, and missing")
        with safe_open(folder / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  not a mapping
                part = tensors.get_slice(name)
                header[name] = Header(tuple(part.get_shape()), part.get_dtype(), folder / file)
    return header


def _check_names_and_shapes(model: PreTrainedModel, header: dict[str, Header]) -> None:
    from transformers.core_model_loading import revert_weight_conversion

    # Models stack the weights of experts, which are stored one by one.
    stored = revert_weight_conversion(model, model.state_dict())
    described = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    tied = set(model.all_tied_weights_keys)
    missing = [name for name in described if name not in header and name not in tied]
    unexpected = [name for name in header if name not in described and not name.endswith(BUFFERS)]
    for names, verb in ((missing, "lack"), (unexpected, "have beyond config.json")):
        if names:
            raise ValueError(f"the weights {verb} {names[0]} ({len(names)} in total): config.json is of another model")
    for name, shape in described.items():
        if name not in header:
            continue
        found, dtype, _ = header[name]
        if found != shape:
            raise ValueError(f"{name} has the shape {found} in the weights, {shape} by config.json")
        if dtype[0] not in "FB" or dtype == "BOOL":  # floats of any width
            raise ValueError(f"{name} has the dtype {dtype}, and config.json no `quantization_config`")


def _check_tied(model: PreTrainedModel, header: dict[str, Header]) -> None:
    """Tied tensors may be stored twice, as copies. Only their first and last rows are compared."""
    for name, source in model.all_tied_weights_keys.items():
        if name in header and source in header and _sample(header, name) != _sample(header, source):
            own_name = model.config.attribute_map.get("tie_word_embeddings", "tie_word_embeddings")
            raise ValueError(f"config.json has {own_name}=true, and the weights a {name} that is not {source}")


def _sample(header: dict[str, Header], name: str) -> list[list[float]]:
    with safe_open(header[name].file, framework="pt") as tensors:
        part = tensors.get_slice(name)
        return [row for rows in (part[:SAMPLE_ROWS], part[-SAMPLE_ROWS:]) for row in rows.tolist()]
