"""Files and folders that are at any moment the old one or the new one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def write_atomically(path: Path, content: bytes) -> None:
    """
    Writes a file under a temporary name and renames it.

    Args:
        path (`Path`): The file.
        content (`bytes`): All of its content.

    Raises:
        `OSError`: If it cannot be written; the old file stays, and no temporary one is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """
    A folder that takes its name when everything in it is written; what had the name before goes then.

    Args:
        output (`Path`): The folder.

    Yields:
        `Path`: The folder to write to, beside it.

    Raises:
        `OSError`: If it cannot be written; what was there stays, and no temporary folder is left.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    before = folder.with_name(f"{folder.name}.before")
    try:
        yield folder
        folder.chmod(0o755)
        if output.exists():
            output.rename(before)  # a folder cannot be replaced in one step
        folder.rename(output)
    except Exception as error:
        # Of a full disk safetensors makes an error of its own, and tokenizers a bare `Exception`.
        if isinstance(error, SafetensorError) or type(error) is Exception:
            raise OSError(f"Cannot write {output}: {error}") from error
        raise
    finally:
        if before.exists() and not output.exists():
            before.rename(output)
        for leftover in (folder, before):
            shutil.rmtree(leftover, ignore_errors=True)
