"""Where the rows of a task come from: a local file, or the Hub."""

import glob
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from ...common.schema import check
from .text_files import read_csv, read_json


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]  # of a row: not blank, taken as it is
FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
TEXT_FILES: dict[str, Callable[[Path], list[dict[str, Any]]]] = {"json": read_json, "csv": read_csv}


ON_THE_HUB = " on the Hub"  # after the id of a dataset, in results


@dataclass(frozen=True)
class HubData:
    """
    A dataset on the Hub.

    Attributes:
        path (`str`): Its id.
        names (`tuple[str | None, ...]`): Its configurations, read one after another.
        splits (`dict[str, str]`): What the dataset calls the splits `"test"` and `"validation"`.
    """

    path: str
    names: tuple[str | None, ...]
    splits: dict[str, str]

    def __str__(self) -> str:
        return f"{self.path}{ON_THE_HUB}"


def load_rows(
    kind: Any, hub: HubData | None, file: Path | None, split: str, limit: int | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """
    Rows of a local file, or of a split on the Hub, checked against the form that a task needs.

    Args:
        kind (`type`): What a row must be, a `TypedDict`.
        hub ([`HubData`], *optional*): Where the dataset is by default; `None` where there is always a file.
        file (`Path`, *optional*): A file of the dataset's own form instead: JSON lines (also as `.gz`), Parquet, CSV.
        split (`str`): `"test"` or `"validation"`; a file is taken as a whole.
        limit (`int`, *optional*): Only the first rows, so many at most.

    Returns:
        `list[tuple[str, dict[str, Any]]]`: The rows, at least one, each with what to call it in an error: the file
        and the number of the row, counted from 1.

    Raises:
        `ValueError`: For a split that the dataset does not have, a file that cannot be read as data, and a row that
            is not of the form.
        `OSError`: For a file that is not there, and a dataset that cannot be downloaded.
    """
    rows = [(f"{file or hub}, row {number}", row) for number, row in enumerate(_read(hub, file, split)[:limit], 1)]
    if not rows:
        raise ValueError(f"{file or hub} has no rows: give data with a row per problem.")
    for where, row in rows:
        columns = textwrap.shorten(", ".join(map(repr, row)), 100, placeholder="...")
        check(kind, row, where, f"its columns are {columns}; give the data of this task (--data)")
    return rows


def check_unique(ids: Iterable[tuple[str, str]]) -> None:
    """
    Raises a `ValueError` when two rows have the same id: their answers would be taken for one.

    Args:
        ids (`Iterable[tuple[str, str]]`): What to call a row in an error, and its id.
    """
    first: dict[str, str] = {}
    for where, identity in ids:
        if first.setdefault(identity, where) != where:
            raise ValueError(f"{where} has the id {identity!r:.60} of {first[identity]}: give each problem once.")


def _read(hub: HubData | None, file: Path | None, split: str) -> list[dict[str, Any]]:
    import datasets

    if file is None:
        assert hub is not None, "a task has a file or a dataset"
        if split not in hub.splits:
            raise ValueError(f"{hub} has no {split} split: give a file of problems with --data.")
        parts = []
        for name in hub.names:
            try:
                parts.append(datasets.load_dataset(hub.path, name, split=hub.splits[split]))
            except Exception as error:  # anything from ConnectionError to the dataset's own
                raise OSError(
                    f"Cannot get {hub} ({type(error).__name__}: {error}): give its file with --data."
                ) from error
        return [row for part in parts for row in part]
    if not file.is_file():
        raise OSError(f"No data in {file}: give a file.")
    suffix = next((suffix for suffix in reversed(file.suffixes) if suffix in FORMATS), None)
    if suffix is None:
        raise ValueError(f"{file} is of no known form: expected {', '.join(FORMATS)}, also with .gz.")
    form = FORMATS[suffix]
    datasets.disable_progress_bars()
    try:
        if form in TEXT_FILES:  # `datasets` would guess the types
            return TEXT_FILES[form](file)
        return list(datasets.load_dataset(form, data_files=glob.escape(str(file)), split="train"))
    except Exception as error:
        said = str(error.__cause__ or error) or type(error).__name__
        raise ValueError(f"Cannot read {file} as {form}: {said}") from error


@cache
def exemplars() -> dict[str, list[dict[str, Any]]]:
    """The few-shot exemplars of the tasks, see `exemplars.yaml`."""
    import yaml

    return yaml.safe_load(Path(__file__).with_name("exemplars.yaml").read_text(encoding="utf-8"))
