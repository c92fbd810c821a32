"""Atomic writes of files and folders, and the removal of what killed writers left."""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError


try:
    import fcntl
except ImportError:  # not POSIX: nothing is locked, so nothing is treated as a leftover
    fcntl = None  # type: ignore[assignment]

CLAIM = re.compile(r"\.(?P<name>.+)\.[^.]+\.tmp")  # of one output
SAFETENSORS = re.compile(r"\.tmp\w{6}")  # the temporary files of safetensors
LOCK = ".lock"
BLOBS = "blobs"  # the folder of the Hub's cache that the links of all revisions lead to


def write_atomically(path: Path, content: bytes) -> None:
    """
    Writes a file under a temporary name and renames it. Leftovers of killed writers of this file are removed first. A
    link stays one, and a file keeps its mode.

    Args:
        path (`Path`): The file.
        content (`bytes`): All of its content.

    Raises:
        `OSError`: If it cannot be written; the old file stays, and no temporary one is left.
    """
    path = _end_of_link(path)
    remove_leftovers(path)
    with _claimed(path) as (temporary, file):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()  # Windows cannot rename an open file
        os.replace(temporary, path)


@contextmanager
def whole_file(output: Path) -> Iterator[Path]:
    """
    Has a large file written under a temporary name and renames it once it is complete. A link stays one, and a file
    keeps its mode.

    Args:
        output (`Path`): The file.

    Yields:
        `Path`: The temporary file to write to, in the same folder.

    Raises:
        `OSError`: If it cannot be written; the old file stays, and no temporary one is left.
    """
    output = _end_of_link(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    with _claimed(output) as (temporary, file):
        yield temporary
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()  # Windows cannot rename an open file
        os.replace(temporary, output)


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """
    Writes a folder under a temporary name and renames it once it is complete. A folder of that name is replaced; a
    link to it stays, and so does its mode.

    Args:
        output (`Path`): The folder.

    Yields:
        `Path`: The temporary folder to write to, in the same parent folder.

    Raises:
        `OSError`: If it cannot be written; the old folder stays, and no temporary one is left.
    """
    output = _end_of_link(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    with _claimed(output) as (claim, _):
        folder, before = _folders(claim)
        try:
            folder.mkdir()
            _keep_mode(output, folder)
            yield folder
            if output.exists():
                output.rename(before)  # a folder cannot be replaced in one step
            folder.rename(output)
        except Exception as error:
            # When the disk is full, safetensors raises an error of its own and tokenizers a bare `Exception`.
            if isinstance(error, SafetensorError) or type(error) is Exception:
                raise OSError(f"Cannot write {output}: {error}") from error
            raise
        finally:
            _settle(claim, output)


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """
    Locks a folder that this process writes file by file, as a training does. Half-written files of killed processes
    are removed first, those of safetensors included. On a file system without locks, nothing is locked or removed.

    Args:
        folder (`Path`): The folder. It is created if it does not exist.

    Raises:
        `OSError`: If another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK
    with lock.open("ab") as file:
        locked = _lock(file)
        if locked is False:
            raise OSError(f"Another process is writing {folder}: wait for it, or give another folder.")
        owned = locked is True and _is_at(file, lock)
        if owned:
            remove_leftovers_in(folder)
            for path in folder.rglob(".tmp*"):
                if SAFETENSORS.fullmatch(path.name) and path.is_file():
                    path.unlink(missing_ok=True)
        try:
            yield
        finally:
            if owned:
                lock.unlink(missing_ok=True)


def remove_leftovers(output: Path) -> None:
    """
    Removes what killed writers of a file or folder left next to it. What a living process is writing is locked and
    stays, and so does everything on a file system without locks. A folder that was about to be replaced gets its name
    back.

    Args:
        output (`Path`): The file or folder.
    """
    output = _end_of_link(output)
    _remove_leftovers(output.parent, output.name)


def remove_leftovers_in(folder: Path) -> None:
    """
    Does what [`remove_leftovers`] does, for every output in a folder and its subfolders.

    Args:
        folder (`Path`): The folder.
    """
    for place, _, _ in os.walk(folder):
        _remove_leftovers(Path(place))


def _remove_leftovers(folder: Path, name: str | None = None) -> None:
    if fcntl is None or not folder.is_dir():
        return
    for entry in os.listdir(folder):
        match = CLAIM.fullmatch(entry)
        if match and name in (None, match["name"]):
            _remove_leftover(folder / entry, folder / match["name"])


def _remove_leftover(claim: Path, output: Path) -> None:
    try:
        with claim.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _settle(claim, output)
            claim.unlink()
    except OSError:  # its writer is alive, its writer has just finished, or there are no locks here
        return


def _end_of_link(output: Path) -> Path:
    """
    What a link leads to. Links of the Hub's cache are themselves replaced: the file is that of other revisions, too.
    """
    end = Path(os.path.realpath(output))
    return output if end.parent.name == BLOBS else end


def _keep_mode(before: Path, new: Path) -> None:
    """Gives a new file or folder the mode of the one that it replaces, and its owner at least what we need."""
    if before.exists():
        needed = stat.S_IRWXU if new.is_dir() else stat.S_IRUSR | stat.S_IWUSR
        new.chmod(stat.S_IMODE(before.stat().st_mode) | needed)


@contextmanager
def _claimed(output: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """
    A temporary file next to an output, open and locked. The lock tells every machine that the writer is alive, and
    is released when the process ends, however it ends.
    """
    while True:
        claim = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
        file = claim.open("x+b")
        if _lock(file) is not False and _is_at(file, claim):
            break
        file.close()  # another process removed it as a leftover before it was locked
    with file:
        try:
            if output.is_file():
                _keep_mode(output, claim)
            yield claim, file
        finally:
            claim.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> bool | None:
    """Locks a file; `False` if another process has locked it, `None` where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: no other process can treat it as a leftover either
        return None
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether this path still names the open file, and not a newer file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _folders(claim: Path) -> tuple[Path, Path]:
    """The unfinished folder of a claim, and the folder that it replaces."""
    return claim.with_suffix(".new"), claim.with_suffix(".old")


def _settle(claim: Path, output: Path) -> None:
    """Removes the folders of a claim. If the output no longer exists, the replaced folder gets its name back."""
    folder, before = _folders(claim)
    if before.exists() and not output.exists():
        before.rename(output)
    for leftover in (folder, before):
        if leftover.is_symlink() or leftover.is_file():
            leftover.unlink()
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def check_folder_to_be(folder: Path) -> None:
    """
    Checks before the work starts that a folder is one, or can be created.

    Args:
        folder (`Path`): The folder.

    Raises:
        `OSError`: If it, or what it would be in, is a file or not to be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OSError(f"Cannot write into {folder}: {there} is not a folder. Give the name of a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OSError(f"Cannot write into {folder}: no permission to write there. Choose another place.")


def check_writable(path: Path) -> None:
    """
    Checks before the work starts that a file can be written.

    Args:
        path (`Path`): The file.

    Raises:
        `OSError`: If it cannot.
    """
    folder = path.absolute().parent
    if path.exists() and not path.is_file():
        raise OSError(f"Cannot write {path}: it is not a file. Give the name of a file.")
    if not folder.is_dir():
        raise OSError(f"Cannot write {path}: there is no folder {folder}. Create it first.")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise OSError(f"Cannot write {path}: no permission to write there. Choose another place.")
