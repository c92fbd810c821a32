"""What adapters need to become a plain model, besides their weights."""

import json
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel
from typing_extensions import TypedDict

from ..common.field_types import Count
from ..common.files import write_atomically
from ..common.schema import check
from .from_results import read_json


ATTENTION_FILE = "attention.json"


class TrainedAttention(TypedDict):
    """What [`ATTENTION_FILE`] holds, as config.json does."""

    attention: Literal["block_causal"]
    attention_block_size: Count


def write_attention(model: PreTrainedModel, folder: Path) -> None:
    """
    Writes the attention that a training gave a model next to its weights: a folder of adapters, and a sharded
    checkpoint, have no config.json that would say it.

    Args:
        model (`PreTrainedModel`): The model, block-causal.
        folder (`Path`): The folder.
    """
    values = {"attention": "block_causal", "attention_block_size": model.config.attention_block_size}
    write_atomically(folder / ATTENTION_FILE, json.dumps(values).encode() + b"\n")


def restore_attention(model: PreTrainedModel, folder: Path) -> None:
    """
    Puts the attention that [`write_attention`] wrote into the config of a model; without such a file, does nothing.

    Args:
        model (`PreTrainedModel`): The model.
        folder (`Path`): The folder of its adapters or shards.

    Raises:
        `ValueError`: For a file that holds something else.
    """
    path = folder / ATTENTION_FILE
    if path.is_file():
        values = check(TrainedAttention, read_json(path), str(path), "train again, or delete the file")
        for name, value in values.items():
            setattr(model.config, name, value)


def merge_adapters(model: Any) -> PreTrainedModel:
    """
    Merges adapters into the weights.

    Args:
        model (`PeftModel`): The model, which is no longer a `PeftModel` afterwards.

    Returns:
        `PreTrainedModel`: The plain model. Its config says so if training has untied the head from the embedding.

    Raises:
        `NotImplementedError`, `ValueError`: For adapters that cannot be merged.
    """
    merged = model.merge_and_unload(safe_merge=True)
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        merged.config.tie_word_embeddings = False
    return merged
