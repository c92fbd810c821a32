"""Reads files for the Hub piece by piece, so that files of any size can be checked."""

import bz2
import codecs
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
COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x5d\0\0": lzma.open,  # .lzma
}
ZLIB = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
UNREADABLE = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",  # of before 2013
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
}


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
    The content of a file in pieces. Files compressed with gzip, bzip2, xz, lzma or zlib are decompressed.

    Args:
        content (`Path` or `bytes`): The file.
        size (`int`, *optional*): Bytes per piece; the last one may be shorter.

    Raises:
        `ValueError`: For a compressed file that is damaged, or of a kind that is not decompressed here.
    """
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as plain:
        head = plain.read(64)
        plain.seek(0)
        for magic, kind in UNREADABLE.items():
            if head.startswith(magic):
                raise ValueError(f"it is compressed with {kind}")
        opener = next((opener for magic, opener in COMPRESSED.items() if head.startswith(magic)), None)
        is_zlib = head.startswith(ZLIB) and not _is_text(head)
        try:
            if is_zlib:
                yield from _inflated(plain, size)
                return
            file: IO[bytes] = opener(plain) if opener else plain
            while piece := file.read(size):
                yield piece
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if opener is None and not is_zlib:
                raise
            raise ValueError(f"it is a damaged compressed file: {error}") from error


def _is_text(head: bytes) -> bool:
    """Whether the start of a file is text: one that begins with "x^2" is not a file of zlib."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # its last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def _inflated(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The content of a file of zlib, for which the standard library has no file object."""
    stream = zlib.decompressobj()
    while not stream.eof:
        compressed = stream.unconsumed_tail or file.read(size)
        if piece := stream.decompress(compressed, size):  # it may have some left of what it took before
            yield piece
        elif not compressed and not stream.eof:
            raise EOFError("it ends too early")
    if stream.unused_data or file.read(1):
        raise EOFError("it goes on after its end")
