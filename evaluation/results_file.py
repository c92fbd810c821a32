"""A file of results, one JSON line each, that survives a kill and knows the settings it was made with."""

import json
import os
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..common.files import check_writable, write_atomically
from ..common.plan import check_plan, plan_values, write_plan
from ..common.schema import check


Key = tuple[Hashable, int]
WAY_OUT = "give another file (--output), or start again (--overwrite)"


class ResultsFile:
    """
    Results of a run, appended batch by batch; the next run with the same settings resumes with what is missing.

    The lines are objects with an `id` and, for several results of one id, `sequence`. Until the last one is there they
    stand in the order they came in; `finish()` puts them into the order of `keys`. The settings are beside the file,
    in `NAME.settings.json`. A context manager: it opens the file for this process alone.

    Args:
        path (`Path`): The file.
        keys (`Sequence[tuple]`): `(id, sequence)` of every result to come, in their final order.
        settings (`dict[str, Any]`): What the results depend on, as JSON values.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to start again when the file exists.
        kind (`type`, *optional*, defaults to `dict`): What a line must be, such as a `TypedDict`.

    Attributes:
        lines (`dict[tuple, str]`): The lines that are there, by key.

    Raises:
        `ValueError`: On entering, for a file with other settings or one that is not a file of results.
        `OSError`: On entering, for a path that cannot be written.
    """

    def __init__(
        self, path: Path, keys: Sequence[Key], settings: dict[str, Any], *, overwrite: bool = False, kind: type = dict
    ):
        self.path = path
        self.settings_path = path.with_name(path.name + ".settings.json")
        self.keys = list(keys)
        self.settings = plan_values(settings)
        self.overwrite = overwrite
        self.kind = kind
        self.lines: dict[Key, str] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "ResultsFile":
        check_writable(self.path)
        self._file = self.path.open("ab+")
        try:
            _lock(self._file, self.path)
            if self.overwrite or os.fstat(self._file.fileno()).st_size == 0:
                self._file.truncate(0)  # before the settings: a kill in between leaves nothing that looks like ours
                write_plan(self.settings_path, self.settings)
            else:
                self._check_settings()
                self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Adds the records that are not there yet, and returns when the disk has them."""
        assert self._file is not None, "enter the context first"
        new: dict[Key, str] = {}
        for record in records:
            key = (record["id"], record.get("sequence", 0))
            if key not in self.lines:
                new[key] = json.dumps(record, ensure_ascii=False)
        try:
            self._file.write("".join(line + "\n" for line in new.values()).encode("utf-8"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # it writes once more what is still buffered
                self._file.close()
            raise OSError(
                f"Cannot write {self.path}: {error.strerror or error}. Finished results stay: free some space, and "
                "run the same command again."
            ) from error
        self.lines |= new

    def finish(self) -> None:
        """Puts the lines into the order of `keys`; the file is at any moment the old or the new one."""
        missing = [key for key in self.keys if key not in self.lines]
        if missing:
            raise ValueError(f"{self.path} lacks {len(missing)} results, the first of them of {missing[0][0]!r}.")
        if list(self.lines) != self.keys:
            self.lines = {key: self.lines[key] for key in self.keys}
            self.__exit__(None, None, None)  # Windows replaces no open file
            write_atomically(self.path, "".join(line + "\n" for line in self.lines.values()).encode("utf-8"))

    def _check_settings(self) -> None:
        if not check_plan(self.settings_path, self.settings, WAY_OUT, folder=self.path):
            raise ValueError(
                f"{self.path} exists without {self.settings_path.name}, which would tell its settings: {WAY_OUT}."
            )

    def _read(self) -> None:
        """Takes over the complete lines and cuts off a half-written last one."""
        assert self._file is not None
        self._file.seek(0)
        expected, kept = set(self.keys), 0
        content = self._file.read()
        for number, line in enumerate(content.split(b"\n"), start=1):
            end = kept + len(line)
            last = end == len(content)
            try:
                record = json.loads(line.decode("utf-8"))
                check(self.kind, record, "the line")
                key = (record["id"], record.get("sequence", 0))
                if key not in expected:
                    raise ValueError
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                if last:
                    break  # empty after the last newline, or cut
                raise ValueError(f"{self.path}, line {number}, is not a result of this run: {WAY_OUT}.") from error
            self.lines.setdefault(key, line.decode("utf-8"))
            kept = end + 1
        if kept > len(content):  # complete but for its newline
            self._file.write(b"\n")
        self._file.truncate(kept)


def _lock(file: IO[bytes], path: Path) -> None:
    """Keeps a second process from writing the same file; the lock ends with the process. POSIX only."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = os.path.samestat(os.fstat(file.fileno()), path.stat())  # else it was put into order just now
    except BlockingIOError:
        free = False
    except OSError:  # a file system without locks
        return
    if not free:
        raise OSError(f"Another process is writing {path}: wait for it, or give another file.")
