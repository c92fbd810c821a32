"""On-disk layout of an extraction: `plan.json` plus Parquet parts, each written atomically."""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..common.files import remove_leftovers_in, write_atomically
from ..common.fingerprints import fingerprint
from ..common.plan import check_plan, plan_values, read_plan, write_plan
from .row import STORED_FEATURES, TrajectoryRow


logger = logging.getLogger(__name__)

PLAN_FILE = "plan.json"
PART = re.compile(r"(?P<split>.*)-\d+-of-(?P<count>\d+)")  # without its suffix
FORMAT = 1  # of the parts; raise it when the same settings come to give other rows
METADATA = b"d3llm"
REMEDY = "give another --output, or delete the folder"


class Parts:
    """
    The parts `data/train-*.parquet` of an extraction, one a chunk of samples.

    A part carries the fingerprint of the plan, a checksum of every page, and the counts of its chunk. It is written to
    a temporary name and renamed, so that a run can be killed at any moment, and resumed with any number of processes.

    Args:
        folder (`Path`): The folder of the extraction.
        settings (`dict[str, Any]`): What the rows depend on, as JSON values.
        count (`int`): Number of parts.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], count: int):
        self.folder = folder
        self.plan: dict[str, Any] = {
            "format": FORMAT,
            "parts": count,
            "settings": plan_values(settings),
        }
        self.fingerprint = fingerprint(self.plan)

    @classmethod
    def open(cls, folder: Path) -> "Parts":
        """The parts of a folder that `d3llm extract` wrote; raises an `OSError` for another folder."""
        plan = extraction_plan(folder)
        if plan is None:
            raise OSError(
                f"{folder} is not an extraction: it has no {PLAN_FILE}. Give a folder that `d3llm extract` wrote."
            )
        return cls(folder, plan["settings"], plan["parts"])

    @property
    def count(self) -> int:
        return self.plan["parts"]

    def check_plan(self) -> None:
        """Raises a `ValueError` that names the differences if the folder holds another extraction, and for a model."""
        if check_plan(self.folder / PLAN_FILE, self.plan, REMEDY):
            return
        if any(self.folder.glob("data/*.parquet")):
            raise ValueError(f"{self.folder} holds data without a {PLAN_FILE}: {REMEDY}.")
        if any(self.folder.glob("*.safetensors")):  # whose card would be replaced
            raise ValueError(f"{self.folder} holds a model: give another --output.")

    def write_plan(self) -> None:
        """Makes the folder, and the plan if there is none."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        if not (self.folder / PLAN_FILE).exists():
            write_plan(self.folder / PLAN_FILE, self.plan)

    def path(self, index: int) -> Path:
        return self.folder / "data" / f"train-{index:05d}-of-{self.count:05d}.parquet"

    def todo(self) -> list[int]:
        """
        The missing parts. Every existing one is read in full, and removed if it is damaged or of another plan:
        otherwise it would count as finished.
        """
        missing = []
        for index in range(self.count):
            try:
                self.check(index)
            except FileNotFoundError:
                missing.append(index)
            except (OSError, ValueError) as error:  # pyarrow's errors are both
                reason = str(error).splitlines()[0]
                logger.warning("%s is made again: %s", self.path(index).name, reason)
                self.path(index).unlink(missing_ok=True)  # another process may have been quicker
                missing.append(index)
        return missing

    def check(self, index: int) -> None:
        """Reads a part in full and compares every checksum; raises an `OSError` or a `ValueError`."""
        with self.path(index).open("rb") as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            if self._metadata(parquet).get("plan") != self.fingerprint:
                raise ValueError("it is of another version")
            if not parquet.schema_arrow.equals(STORED_FEATURES.arrow_schema):
                raise ValueError("it has other columns")
            parquet.read()

    def counts(self, index: int) -> dict[str, Any]:
        """What was counted in the chunk of a finished part, see [`ChunkCounts`]."""
        return self._metadata(pq.ParquetFile(self.path(index)))["counts"]

    def finished(self) -> list[int]:
        """The parts that are there."""
        return [index for index in range(self.count) if self.path(index).exists()]

    def is_complete(self) -> bool:
        return len(self.finished()) == self.count

    def write(self, index: int, rows: list[TrajectoryRow], counts: dict[str, Any]) -> None:
        """
        Writes one part.

        Args:
            index (`int`): Its number.
            rows (`list[TrajectoryRow]`): Its rows; may be empty.
            counts (`dict[str, Any]`): What was counted in the chunk, as JSON values.

        Raises:
            `OSError`: If it cannot be written, for example onto a full disk. The other parts are as they were.
        """
        schema = STORED_FEATURES.arrow_schema
        metadata = json.dumps({"plan": self.fingerprint, "counts": counts})
        schema = schema.with_metadata({**schema.metadata, METADATA: metadata.encode()})
        buffer = pa.BufferOutputStream()
        with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
            if rows:  # `load_dataset` cannot read a row group without rows
                writer.write_table(pa.Table.from_pylist([row.to_dict() for row in rows], schema=schema))
        try:
            write_atomically(self.path(index), buffer.getvalue())
        except OSError as error:
            raise OSError(
                f"Cannot write {self.path(index)}: {error.strerror or error}. Finished parts stay: free some "
                "space, and run the same command again."
            ) from error

    def remove_leftovers(self) -> None:
        """Removes unfinished files of killed runs."""
        remove_leftovers_in(self.folder)

    def _metadata(self, parquet: pq.ParquetFile) -> dict[str, Any]:
        return json.loads((parquet.schema_arrow.metadata or {}).get(METADATA, b"{}"))


def check_finished(folder: Path, files: Sequence[Path]) -> None:
    """
    Checks that no part of an extraction is missing, by the names of the parts of each split.

    Args:
        folder (`Path`): A folder, of an extraction or of other data.
        files (`Sequence[Path]`): Its Parquet files.

    Raises:
        `ValueError`: If it is an unfinished extraction.
    """
    parts = [(file.parent, PART.fullmatch(file.stem)) for file in files]
    found = Counter((place, part["split"], part["count"]) for place, part in parts if part)
    begun = not files and (folder / PLAN_FILE).is_file()
    if begun or any(number != int(count) for (*_, count), number in found.items()):
        raise ValueError(
            f"{folder} is an unfinished extraction with {len(files)} parts: run the same `d3llm extract` again."
        )


def extraction_plan(folder: Path) -> dict[str, Any] | None:
    """
    The plan of an extraction.

    Args:
        folder (`Path`): Its folder.

    Returns:
        `dict` or `None`: `format`, `parts` and `settings`; `None` where there is no plan.

    Raises:
        `ValueError`: For a plan that is damaged.
    """
    path = folder / PLAN_FILE
    plan = read_plan(path, REMEDY)
    if plan is not None and not (isinstance(plan.get("settings"), dict) and isinstance(plan.get("parts"), int)):
        raise ValueError(f"{path} is damaged: {REMEDY}.")
    return plan
