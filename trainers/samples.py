"""The prompts of an extraction: a data set, and the tokens of its rows."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from transformers import PreTrainedTokenizerBase

from ..evaluation import encode_prompt


READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class Sample:
    """
    One row of the data set.

    Attributes:
        id (`str`): Data set, split and number of the row: `gsm8k/train/17`.
        prompt_ids (`list[int]`): Its prompt, with the chat template.
        row (`dict[str, Any]`): The row, with the columns that were asked for.
    """

    id: str
    prompt_ids: list[int]
    row: dict[str, Any]

    def seed(self, run_seed: int, attempt: int = 0) -> int:
        """A seed of 62 bits that depends on these alone, so that a row is the same in any batch and process."""
        digest = hashlib.sha256(f"{run_seed}/{attempt}/{self.id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 2


class Samples:
    """
    The prompts of an extraction, read from a data set when they are needed.

    Args:
        dataset (`str`): Hub id, file (JSON, JSON lines, Parquet, CSV) or folder.
        tokenizer (`PreTrainedTokenizerBase`): The teacher's tokenizer.
        prompt_column (`str`): Column of texts, of chats (lists of messages) or of token ids.
        columns (`Sequence[str]`, *optional*): Further columns that the run needs.
        unread (`Sequence[str]`, *optional*): Those of them that are too large for the fingerprint.
        dataset_config (`str`, *optional*): Configuration of a data set on the Hub that has several.
        split (`str`, *optional*, defaults to `"train"`): Split.
        limit (`int`, *optional*): How many rows, from the first; all by default.
        chat (`bool`, *optional*): See [`~d3llm.evaluation.encode_prompt`].
        vocab_size (`int`, *optional*): No id of a prompt may reach it.

    Attributes:
        fingerprint (`str`): A digest of the rows.

    Raises:
        `ValueError`: For a missing column, no rows at all, or an empty prompt.
        `OSError`: If there is no such data set.
    """

    def __init__(
        self,
        dataset: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt_column: str,
        columns: Sequence[str] = (),
        unread: Sequence[str] = (),
        dataset_config: str | None = None,
        split: str = "train",
        limit: int | None = None,
        chat: bool | None = None,
        vocab_size: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.prompt_column = prompt_column
        self.chat = chat
        self.vocab_size = vocab_size
        self.name = f"{Path(dataset).stem if Path(dataset).exists() else dataset}/{split}"
        self.rows = load_rows(dataset, dataset_config, split)
        for column in (prompt_column, *columns):
            if column not in self.rows.column_names:
                raise ValueError(
                    f"{dataset} has no column {column!r}, only {', '.join(self.rows.column_names)}: give the "
                    "columns for prompts, answers and the like by their names (see --help)."
                )
        self.rows = self.rows.select_columns(list(dict.fromkeys((prompt_column, *columns))))
        if limit is not None:
            self.rows = self.rows.select(range(min(limit, len(self.rows))))
        if not len(self.rows):
            raise ValueError(f"{dataset} has no rows in its split {split!r}.")
        self.fingerprint = self._read([column for column in self.rows.column_names if column not in unread])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chunk: slice) -> list[Sample]:
        start = chunk.indices(len(self))[0]
        rows = self.rows.select(range(len(self))[chunk]).to_list()
        return [self._encode(start + offset, row) for offset, row in enumerate(rows)]

    def id_of(self, index: int) -> str:
        return f"{self.name}/{index}"

    def _encode(self, index: int, row: dict[str, Any]) -> Sample:
        prompt = row[self.prompt_column]
        try:
            prompt_ids = list(prompt) if _is_ids(prompt) else encode_prompt(self.tokenizer, prompt, chat=self.chat)
            check_ids(prompt_ids, self.vocab_size)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"The prompt of {self.id_of(index)} cannot be used: {error}") from error
        return Sample(self.id_of(index), prompt_ids, row)

    def _read(self, columns: list[str]) -> str:
        """A digest of every row, read before the work starts; an empty prompt is an error."""
        digest = hashlib.sha256(self.name.encode())
        for index, row in enumerate(self.rows.select_columns(columns)):
            prompt = row[self.prompt_column]
            if not prompt or (isinstance(prompt, str) and not prompt.strip()):
                raise ValueError(f"The prompt of {self.id_of(index)} is empty (column {self.prompt_column!r}).")
            digest.update(json.dumps(row, default=str).encode())
        return digest.hexdigest()[:16]


def load_rows(dataset: str, config: str | None, split: str) -> Dataset:
    """
    Loads a data set from the Hub or from disk.

    Args:
        dataset (`str`): Hub id, file or folder.
        config (`str`, *optional*): Configuration of a data set on the Hub that has several.
        split (`str`): Split; a file has only `"train"`.

    Returns:
        `Dataset`: Its rows.

    Raises:
        `ValueError`: For a file of another kind, or an empty one.
        `OSError`: If it cannot be read.
    """
    path = Path(dataset)
    if path.is_file() and path.suffix not in READERS:
        raise ValueError(f"{path} is of no known kind: expected one of {', '.join(READERS)}.")
    if path.suffix in READERS and not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path} is empty.")
    try:
        if path.is_file():
            rows = load_dataset(READERS[path.suffix], data_files=str(path), split=split)
        else:
            rows = load_dataset(dataset, config, split=split)
    except (
        Exception
    ) as error:  # `datasets` raises anything, from its own errors to those of the network and of pyarrow
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
        raise OSError(
            f"Cannot load the data set {dataset}, split {split!r}: {reason}. Give a Hub id, a file or a folder."
        ) from error
    assert not isinstance(rows, DatasetDict)
    return rows


def check_ids(ids: list[int], vocab_size: int | None) -> None:
    """Raises a `ValueError` for ids outside the vocabulary."""
    if vocab_size is not None and ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise ValueError(f"it has ids from {min(ids)} to {max(ids)}, and the vocabulary has {vocab_size} tokens")


def _is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(isinstance(token, int) for token in prompt)
