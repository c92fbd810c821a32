"""
Pseudo-trajectories as a dataset: one [`~d3llm.trajectories.row.TrajectoryRow`] per response.

With r = `response_ids`, c = `commit_steps` and m the mask token, the teacher's canvas after forward s was, over the
response, `where(c <= s, r, m)`: every intermediate state in one number per token (d3LLM, arXiv 2601.07568).
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, load_dataset
from typing_extensions import NotRequired, TypedDict

from ..common.field_types import Count, Name, Whole
from ..common.schema import check
from .prompt_rows import READERS, check_is_there, fault_of
from .row import NULLABLE, OPTIONAL, STEPS, STORED_FEATURES, TOKENS, TRAJECTORY_FEATURES
from .store import check_finished


class DecodeConfig(TypedDict):
    """What training needs of `decode_config`; the other fields are there to be read."""

    mask_token_id: Whole | None  # an autoregressive model has none
    eos_token_id: list[Whole]
    max_new_tokens: NotRequired[Count | None]
    tokenizer: NotRequired[str | None]


LARGEST_STEP = int(np.iinfo(np.int16).max)  # of `commit_steps`
NO_ORDER = "none"  # the `source` of prompts and completions


def load_trajectories(name: str | Path, *, split: str = "train", vocab_size: int | None = None) -> Dataset:
    """
    Loads and checks a trajectory dataset.

    Args:
        name (`str` or `Path`): Folder that `d3llm extract` wrote, another folder or file of Parquet, or a Hub id.
        split (`str`, *optional*, defaults to `"train"`): Split of a dataset on the Hub.
        vocab_size (`int`, *optional*): Number of rows of the student's embedding: no id may reach it.

    Returns:
        `Dataset`: With the columns of [`STORED_FEATURES`]; other columns are dropped.

    Raises:
        `ValueError`: For an unfinished extraction, missing columns, and for what [`check_trajectories`] refuses.
        `OSError`: If there is no such dataset.
    """
    return as_stored(read_rows(name, split), str(name), vocab_size)


def read_rows(name: str | Path, split: str = "train") -> Dataset:
    """
    Reads a dataset from disk or from the Hub, whatever its columns are.

    Args:
        name (`str` or `Path`): Folder that `d3llm extract` wrote, another folder of Parquet or JSON lines, a file
            (Parquet, JSON, JSON lines, CSV), or a Hub id.
        split (`str`, *optional*, defaults to `"train"`): Split of a dataset on the Hub.

    Returns:
        `Dataset`: Its rows.

    Raises:
        `ValueError`: For an unfinished extraction, and a folder without data.
        `OSError`: If there is no such dataset.
    """
    path = Path(name)
    check_is_there(str(name))
    files = [str(file) for file in _data_files(path)] if path.exists() else []
    reader = READERS.get(Path(files[0]).suffix) if files else None
    try:
        if reader == "parquet" and not any(pq.read_metadata(file).num_rows for file in files):
            return Dataset(STORED_FEATURES.arrow_schema.empty_table())  # which `load_dataset` cannot read
        if reader is not None:
            return load_dataset(reader, data_files=files, split="train")
        return load_dataset(str(name), split=split)
    except Exception as error:  # `datasets` raises anything from its own errors to those of the network and of pyarrow
        raise OSError(
            f"Cannot load trajectories from {name}: {fault_of(error)} (a folder, a file, or a dataset on the Hub?)"
        ) from error


def as_stored(dataset: Dataset, name: str, vocab_size: int | None = None) -> Dataset:
    """
    Casts and checks a trajectory dataset.

    Args:
        dataset (`Dataset`): Trajectories.
        name (`str`): What to call the dataset in an error.
        vocab_size (`int`, *optional*): Number of rows of the student's embedding.

    Returns:
        `Dataset`: With the columns of [`STORED_FEATURES`].

    Raises:
        `ValueError`: As from [`load_trajectories`].
    """
    check_columns(dataset.column_names, name)
    dataset = cast_columns(with_optional_columns(dataset), STORED_FEATURES, name)
    check_trajectories(dataset, vocab_size=vocab_size, name=name)
    return dataset


def without_tensors(dataset: Dataset) -> Dataset:
    """
    Rows of lists and numbers with all columns, whatever `set_format` made of them.

    Args:
        dataset (`Dataset`): Any dataset.

    Returns:
        `Dataset`: The same rows; a transform of the user's (`set_transform`) stays.
    """
    return dataset if dataset.format["type"] == "custom" else dataset.with_format(None)


def cast_columns(dataset: Dataset, features: Features, name: str) -> Dataset:
    """
    The columns of a dataset that have these names, with these types.

    Args:
        dataset (`Dataset`): The dataset.
        features (`Features`): Names and types.
        name (`str`): What to call the dataset in an error.

    Returns:
        `Dataset`: Without other columns.

    Raises:
        `ValueError`: For values of other types.
    """
    dataset = dataset.select_columns(list(features))
    if dataset.features == features:
        return dataset
    try:
        return dataset.cast(features)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"The columns of {name} have other types than expected: {said}") from error


def check_columns(columns: Sequence[str], name: str) -> None:
    """Raises a `ValueError` for a dataset that lacks columns of [`TRAJECTORY_FEATURES`], and names them."""
    missing = [column for column in TRAJECTORY_FEATURES if column not in columns]
    if missing:
        raise ValueError(
            f"{name} is not a trajectory dataset: it has no {', '.join(missing)}, only {', '.join(columns)}"
            ". Make one with `d3llm extract`, or give prompts and completions (columns `prompt` and `completion`, or "
            "`messages`)."
        )


def with_optional_columns(dataset: Dataset) -> Dataset:
    """
    Adds the columns that datasets of other origin may lack.

    Args:
        dataset (`Dataset`): Trajectories.

    Returns:
        `Dataset`: With all columns of [`STORED_FEATURES`]; the added ones say that nothing is known.
    """
    for name, default in OPTIONAL.items():
        if name not in dataset.column_names:
            dataset = dataset.add_column(name, [default] * len(dataset), feature=STORED_FEATURES[name])
    return dataset


def check_trajectories(dataset: Dataset, *, vocab_size: int | None = None, name: str = "The dataset") -> None:
    """
    Checks every row of a trajectory dataset.

    Args:
        dataset (`Dataset`): With the columns of [`STORED_FEATURES`].
        vocab_size (`int`, *optional*): Number of rows of the model's embedding.
        name (`str`, *optional*): What to call the dataset in an error.

    Raises:
        `ValueError`: For an empty dataset, a null, an `id` that occurs twice, an empty prompt or response, lengths
            of response and commit steps that disagree, an id outside the vocabulary, or a commit step that is negative
            or above `num_forwards`; it names the first such row. For a `teacher` that is not a name.
    """
    if not len(dataset):
        raise ValueError(
            f"{name} has no rows: extract at least one trajectory (`--keep all` keeps wrong answers too)."
        )
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        rows = RowBatch(batch, name)
        for column in STORED_FEATURES:
            if column not in NULLABLE:
                rows.refuse(rows.nulls(column), f"has no `{column}`")
        prompt, response, steps = (rows.lengths(name) for name in ("prompt_ids", "response_ids", "commit_steps"))
        rows.refuse(prompt == 0, "has an empty prompt")
        rows.refuse(response == 0, "has an empty response")
        rows.refuse(response != steps, "has a response of another length than its commit steps")
        limit = np.inf if vocab_size is None else vocab_size
        for column in TOKENS:
            outside = (rows.least(column) < 0) | (rows.greatest(column) >= limit)
            rows.refuse(outside, f"has `{column}` outside the vocabulary of {limit} tokens")
        forwards = batch["num_forwards"].to_numpy()
        for column in STEPS:
            rows.refuse(rows.least(column) < 0, f"has a negative commit step in `{column}`")
            rows.refuse(rows.greatest(column) > forwards, f"has a commit step above its `num_forwards` in `{column}`")
    for teacher in dataset.unique("teacher"):
        check(Name | Literal[""], teacher, f"{name}: `teacher`")  # prompts and completions have none
    repeated = [row for row, times in Counter(dataset.with_format(None)["id"]).items() if times > 1]
    if repeated:
        raise ValueError(f"{name}: row {repeated[0]!r} occurs twice ({len(repeated)} such).")


class RowBatch:
    """
    A batch of rows in Arrow, with what the checks need to know of each row.

    Args:
        table (`pa.Table`): The rows, not empty.
        name (`str`): What to call the dataset in an error.
    """

    def __init__(self, table: pa.Table, name: str):
        self.table = table.combine_chunks()
        self.name = name
        self.ids: list[str] = table["id"].to_pylist()

    def refuse(self, faulty: np.ndarray, reason: str) -> None:
        """Raises if any row is faulty, and names the first."""
        if faulty.any():
            raise ValueError(
                f"{self.name}: row {self.ids[int(faulty.argmax())]!r} {reason} ({int(faulty.sum())} such)."
            )

    def nulls(self, column: str) -> np.ndarray:
        values = self.table[column].combine_chunks()
        found = np.asarray(values.is_null())
        if pa.types.is_list(values.type) and values.flatten().null_count:
            found = found | np.array([row is not None and None in row for row in values.to_pylist()])
        return found

    def lengths(self, column: str) -> np.ndarray:
        return np.asarray(self.table[column].combine_chunks().value_lengths())

    def least(self, column: str) -> np.ndarray:
        return self._reduce(column, np.minimum)

    def greatest(self, column: str) -> np.ndarray:
        return self._reduce(column, np.maximum)

    def _reduce(self, column: str, ufunc: np.ufunc) -> np.ndarray:
        """Least or greatest element of each list; 0 of an empty one."""
        values, lengths = np.asarray(self.table[column].combine_chunks().flatten()), self.lengths(column)
        reduced = np.zeros(len(lengths), dtype=values.dtype)
        filled = lengths > 0
        if filled.any():
            reduced[filled] = ufunc.reduceat(values, (np.cumsum(lengths) - lengths)[filled])
        return reduced


def read_decode_config(row: dict[str, Any]) -> dict[str, Any]:
    """
    The decoding parameters of a row of a trajectory dataset.

    Args:
        row (`dict`): The row.

    Returns:
        `dict[str, Any]`: The fields, see [`TRAJECTORY_FEATURES`].

    Raises:
        `ValueError`: If it is not a JSON object, or the fields that training needs are not as in [`DecodeConfig`].
    """
    text = row["decode_config"]
    try:
        config = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"`decode_config` is not a JSON object: {text[:80]!r}.") from None
    check(DecodeConfig, config, "`decode_config`")
    return config


def _data_files(path: Path) -> list[Path]:
    """A file itself; of a folder its Parquet files, all the parts of an extraction, and none of one of JSON lines."""
    if path.is_file():
        return [path]
    files = sorted(path.rglob("*.parquet"))
    check_finished(path, files)
    if not files and not any(path.rglob("*.jsonl")):
        raise ValueError(
            f"{path} holds no Parquet files and no JSON lines: give a folder that `d3llm extract` wrote, or one with "
            "prompts and completions."
        )
    return files
