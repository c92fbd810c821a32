"""Files that are at any moment the old one or the new one."""

import os
from pathlib import Path


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
