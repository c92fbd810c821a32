"""The prompts of an extraction: a dataset, and the tokens of its rows."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from pydantic import Discriminator, Tag
from transformers import PreTrainedTokenizerBase

from ..common.field_types import Whole
from ..common.schema import check
from ..evaluation import encode_prompt
from ..evaluation.prompts import Message
from .store import PLAN_FILE, check_finished


def _form(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    return "messages" if any(isinstance(part, dict) for part in value) else "ids"


def _text_or_ids(value: Any) -> str:
    return "ids" if isinstance(value, list) else "text"


Prompt = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Message], Tag("messages")] | Annotated[list[Whole], Tag("ids")],
    Discriminator(_form),
]
Response = Annotated[Annotated[str, Tag("text")] | Annotated[list[Whole], Tag("ids")], Discriminator(_text_or_ids)]

READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
FILE_SUFFIXES = {
    *READERS,
    ".arrow",
    ".gz",
    ".tsv",
    ".txt",
    ".yaml",
    ".yml",
    ".zip",
    ".zst",
}  # no name on the Hub has one


@dataclass(frozen=True)
class Sample:
    """
    One row of the dataset.

    Attributes:
        id (`str`): Dataset, split and number of the row: `gsm8k/train/17`.
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
    The prompts of an extraction, read from a dataset when they are needed.

    Args:
        dataset (`str`): Hub id, file (JSON, JSON lines, Parquet, CSV) or folder.
        tokenizer (`PreTrainedTokenizerBase`): The teacher's tokenizer.
        prompt_column (`str`): Column of texts, of chats (lists of messages) or of token ids.
        columns (`Mapping[str, Any]`, *optional*): Further columns that the run needs, and the types of their values.
        unread (`Sequence[str]`, *optional*): Those of them that are too large for the fingerprint.
        dataset_config (`str`, *optional*): Configuration of a dataset on the Hub that has several.
        split (`str`, *optional*, defaults to `"train"`): Split.
        skip (`int`, *optional*, defaults to 0): How many rows to skip.
        limit (`int`, *optional*): How many of the rows after them; all by default.
        chat (`bool`, *optional*): See [`~d3llm.evaluation.encode_prompt`].
        vocab_size (`int`, *optional*): No id of a prompt may reach it.

    Attributes:
        fingerprint (`str`): A digest of the rows.

    Raises:
        `ValueError`: For a missing column, no rows at all, an empty prompt, or a value of another type.
        `OSError`: If there is no such dataset.
    """

    def __init__(
        self,
        dataset: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt_column: str,
        columns: Mapping[str, Any] = MappingProxyType({}),
        unread: Sequence[str] = (),
        dataset_config: str | None = None,
        split: str = "train",
        skip: int = 0,
        limit: int | None = None,
        chat: bool | None = None,
        vocab_size: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.prompt_column = prompt_column
        self.kinds = {**columns, prompt_column: Prompt}
        self.chat = chat
        self.skip = skip
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
        if not len(self.rows):
            raise ValueError(f"{dataset} has no rows in its split {split!r}.")
        if skip >= len(self.rows):
            raise ValueError(
                f"{dataset} has {len(self.rows)} rows, of which `skip` leaves none: skip fewer than {skip}."
            )
        end = len(self.rows) if limit is None else min(skip + limit, len(self.rows))
        self.rows = self.rows.select(range(skip, end))
        self.fingerprint = self._read([column for column in self.rows.column_names if column not in unread])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chunk: slice) -> list[Sample]:
        start = chunk.indices(len(self))[0]
        rows = self.rows.select(range(len(self))[chunk]).to_list()
        return [self._encode(start + offset, row) for offset, row in enumerate(rows)]

    def id_of(self, index: int) -> str:
        return f"{self.name}/{self.skip + index}"

    def _encode(self, index: int, row: dict[str, Any]) -> Sample:
        prompt = row[self.prompt_column]
        try:
            is_ids = _form(prompt) == "ids"
            prompt_ids = list(prompt) if is_ids else encode_prompt(self.tokenizer, prompt, chat=self.chat)
            check_ids(prompt_ids, self.vocab_size)
        except ValueError as error:
            raise ValueError(f"The prompt of {self.id_of(index)} cannot be used: {error}") from error
        return Sample(self.id_of(index), prompt_ids, row)

    def _read(self, columns: list[str]) -> str:
        """A digest of every row, read before the work starts; a value of another type is an error."""
        digest = hashlib.sha256(self.name.encode())
        for index, row in enumerate(self.rows.select_columns(columns)):
            prompt = row[self.prompt_column]
            if not prompt or (isinstance(prompt, str) and not prompt.strip()):
                raise ValueError(f"The prompt of {self.id_of(index)} is empty (column {self.prompt_column!r}).")
            for column in columns:
                check(self.kinds[column], row[column], f"Column {column!r} of {self.id_of(index)}")
            digest.update(json.dumps(row, default=str).encode())
        return digest.hexdigest()[:16]


def load_rows(dataset: str, config: str | None, split: str) -> Dataset:
    """
    Loads a dataset from the Hub or from disk.

    Args:
        dataset (`str`): Hub id, file or folder.
        config (`str`, *optional*): Configuration of a dataset on the Hub that has several.
        split (`str`): Split; a file has only `"train"`.

    Returns:
        `Dataset`: Its rows.

    Raises:
        `ValueError`: For a file of another kind, an empty one, a configuration of a file, or an unfinished extraction.
        `OSError`: If it cannot be read.
    """
    path = Path(dataset)
    if path.is_file() and path.suffix not in READERS:
        raise ValueError(f"{path} is of no known kind: expected one of {', '.join(READERS)}.")
    check_is_there(dataset)
    if path.is_file() and config is not None:
        raise ValueError(f"{path} is a file, which has no configurations such as {config!r}: leave it out.")
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path} is empty.")
    if (path / PLAN_FILE).is_file():  # shards of other datasets may be chosen
        check_finished(path, sorted(path.rglob("*.parquet")))
    try:
        if path.is_file():
            rows = load_dataset(READERS[path.suffix], data_files=str(path), split=split)
        else:
            rows = load_dataset(dataset, config, split=split)
    except (
        Exception
    ) as error:  # `datasets` raises anything, from its own errors to those of the network and of pyarrow
        reason = f"{fault_of(error)}. Give a Hub id, a file or a folder."
        raise OSError(f"Cannot load the dataset {dataset}, split {split!r}: {reason}") from error
    assert not isinstance(rows, DatasetDict)
    return rows


def fault_of(error: Exception) -> str:
    """Why `datasets` could not load something, in one line."""
    cause = error.__cause__ or error
    if isinstance(cause, StopIteration):
        return "it has no rows"
    return f"{type(cause).__name__}: {cause}".strip().splitlines()[0]


def check_is_there(name: str) -> None:
    """Raises a `FileNotFoundError` for what is not on disk and cannot be on the Hub, which would be asked in vain."""
    if Path(name).exists():
        return
    try:
        validate_repo_id(name)
    except HFValidationError:
        pass
    else:
        if Path(name).suffix not in FILE_SUFFIXES:
            return
    raise FileNotFoundError(f"There is no file or folder {name}.")


def check_ids(ids: list[int], vocab_size: int | None) -> None:
    """Raises a `ValueError` for ids outside the vocabulary."""
    if vocab_size is not None and ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise ValueError(f"it has ids from {min(ids)} to {max(ids)}, and the vocabulary has {vocab_size} tokens")
