"""From a base's own texts to padded batches for the training of its drafter."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from transformers.utils import logging

from ..trajectories.dataset import RowBatch, cast_columns, without_tensors


logger = logging.get_logger(__name__)

ANSWER = "answer_ids"  # in datasets that are not trajectories
COLUMNS = ["prompt_ids", "response_ids"]
TEXT_FEATURES = Features({"id": Value("string")} | {name: List(Value("int64")) for name in COLUMNS})
SHORTEST_ANSWER = 2  # tokens: the base predicts the first, a mask row the second


def as_texts(dataset: Dataset, name: str) -> Dataset:
    """
    The columns of texts.

    Args:
        dataset (`Dataset`): Trajectories of `d3llm extract --order ar`, or rows with `prompt_ids` and `answer_ids`.
        name (`str`): The name of the dataset in errors.

    Returns:
        `Dataset`: With `prompt_ids` and `response_ids`, and `id`.

    Raises:
        `ValueError`: If it is not a dataset, for other columns, columns of other types, and trajectories of a
            diffusion model.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"`{name}` is a {type(dataset).__name__}: expected one `datasets.Dataset` of texts.")
    dataset = without_tensors(dataset)
    columns = dataset.column_names
    if ANSWER in columns and "response_ids" not in columns:
        dataset = dataset.rename_column(ANSWER, "response_ids")
    missing = [column for column in COLUMNS if column not in dataset.column_names]
    if missing:
        raise ValueError(
            f"{name} has no {missing[0]}, only {', '.join(columns)}: give the base's own texts, as from "
            "`d3llm extract --order ar`, or columns `prompt_ids` and `answer_ids`."
        )
    others = sorted(set(dataset.unique("source")) - {"ar"}) if "source" in columns else []
    if others:
        raise ValueError(
            f"{name} has rows of the order {others[0]!r}: a drafter learns from the base's own texts, as from `d3llm "
            "extract --order ar`."
        )
    if "id" not in columns:
        dataset = dataset.add_column("id", [str(row) for row in range(len(dataset))])
    return cast_columns(dataset, TEXT_FEATURES, name)


def prepare_texts(dataset: Dataset, name: str, *, vocab_size: int, max_length: int | None) -> Dataset:
    """
    Checks texts against the base and skips those that do not fit.

    Args:
        dataset (`Dataset`): As for [`as_texts`].
        name (`str`): The name of the dataset in errors.
        vocab_size (`int`): Rows of the base's embedding.
        max_length (`int`, *optional*): Largest length of prompt and answer together.

    Returns:
        `Dataset`: The texts that fit, with their number as `index` and their length as `length`.

    Raises:
        `ValueError`: For faulty texts, and if none is left.
    """
    dataset = as_texts(dataset, name)
    lengths, answers = [], []
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        rows = RowBatch(batch, name)
        for column in COLUMNS:
            rows.refuse(rows.nulls(column), f"has no `{column}`")
            outside = (rows.least(column) < 0) | (rows.greatest(column) >= vocab_size)
            rows.refuse(outside, f"has `{column}` outside the vocabulary of {vocab_size} tokens")
        rows.refuse(rows.lengths("prompt_ids") == 0, "has an empty prompt")
        answers.append(rows.lengths("response_ids"))
        lengths.append(rows.lengths("prompt_ids") + answers[-1])
    length = np.concatenate([np.zeros(0, dtype=np.int64), *lengths]).astype(np.int64)
    fits = np.concatenate([np.zeros(0, dtype=np.int64), *answers]) >= SHORTEST_ANSWER
    if max_length is not None:
        fits &= length <= max_length
    if not fits.any():
        raise ValueError(
            f"{name} has no text left of {len(fits)}: each is longer than `max_length` ({max_length}), or its answer "
            f"is shorter than {SHORTEST_ANSWER} tokens."
        )
    if not fits.all():
        logger.warning(
            "%s: skipped %d of %d texts, which are longer than `max_length` (%s) or whose answer is shorter than %d "
            "tokens.",
            name,
            (~fits).sum(),
            len(fits),
            max_length,
            SHORTEST_ANSWER,
        )
    kept = np.flatnonzero(fits)
    return dataset.select(kept).add_column("index", np.arange(len(kept))).add_column("length", length[kept])


class TextCollator:
    """Pads texts on the right: what mask rows see lies before them, and positions are counted from the start."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Args:
            rows (`list[dict]`): Rows from [`prepare_texts`].

        Returns:
            `dict`: `input_ids` (B, T), `prompt_lengths`, `lengths` and `index` (B,), and the lists `ids` and `texts`:
            the tokens of each as bytes, which are the same for equal texts of any dataset.
        """
        texts = [torch.tensor([*row["prompt_ids"], *row["response_ids"]]) for row in rows]
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(texts, batch_first=True),
            "prompt_lengths": torch.tensor([len(row["prompt_ids"]) for row in rows]),
            "lengths": torch.tensor([len(text) for text in texts]),
            "index": torch.tensor([row["index"] for row in rows]),
            "ids": [row["id"] for row in rows],
            "texts": [text.numpy().tobytes() for text in texts],
        }
