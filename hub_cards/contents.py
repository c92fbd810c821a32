"""Reads files for the Hub piece by piece, so that files of any size can be checked."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any


PIECE = 2**18  # bytes

Content = Path | bytes
Files = Mapping[str, Content]
COMPRESSED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def size_of(content: Content) -> int:
    """The size of a file, in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def read(content: Content, size: int = -1) -> bytes:
    """The first `size` bytes of a file; all of them by default."""
    if isinstance(content, bytes):
        return content if size < 0 else content[:size]
    with content.open("rb") as file:
        return file.read(size)


def pieces(content: Content, size: int = PIECE) -> Iterator[bytes]:
    """
    The content of a file in pieces. Files compressed with gzip, bzip2 or xz are decompressed.

    Args:
        content (`Path` or `bytes`): The file.
        size (`int`, *optional*): Bytes per piece; the last one may be shorter.

    Raises:
        `ValueError`: For a compressed file that is damaged.
    """
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as plain:
        head = plain.read(8)
        plain.seek(0)
        opener = next((opener for magic, opener in COMPRESSED.items() if head.startswith(magic)), None)
        file: IO[bytes] = opener(plain) if opener else plain
        try:
            while piece := file.read(size):
                yield piece
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if opener is None:
                raise
            raise ValueError(f"it is a damaged compressed file: {error}") from error
