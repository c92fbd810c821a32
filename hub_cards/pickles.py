"""Detects, by their content, files that may run code when they are loaded. Nothing is loaded to find out."""

import ast
import io
import pickletools

import numpy as np

from .contents import Content, pieces


HEAD = 2**20  # number of bytes to inspect
# More valid instructions than this at the head of a longer file are not a coincidence: it is a pickle, not text.
INSTRUCTIONS = 100
CALLS = {"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"}
PICKLE = "is a pickle, which runs code when it is loaded"
HEADS = {
    **{bytes([0x80, protocol]): PICKLE for protocol in range(2, 6)},
    b"PK\x03\x04": "is an archive, the format in which torch and numpy store pickles",
    b"\x89HDF\r\n\x1a\n": "is HDF5, in which Keras stores code that runs when it is loaded",
}


def danger(content: Content) -> str | None:
    """
    Whether a file may run code when it is loaded: a pickle of any protocol, an archive that may hold pickles, an array
    of objects, or HDF5; also if compressed with gzip, bzip2, xz, lzma or zlib.

    Args:
        content (`Path` or `bytes`): The file.

    Returns:
        `str` or `None`: The danger, as the end of a sentence; `None` if there is none.

    Raises:
        `ValueError`: For a compressed file that is damaged or cannot be decompressed here.
    """
    head = next(pieces(content, HEAD), b"")
    for magic, what in HEADS.items():
        if head.startswith(magic):
            return what
    if head[257:262] == b"ustar":
        return "is an archive, the format in which NeMo and old torch store pickles"
    if head.startswith(b"\x93NUMPY") and _has_objects(head):
        return "is an array of objects, which are pickles"
    return PICKLE if _is_pickle(head) else None


def _has_objects(head: bytes) -> bool:
    """Whether the items of a .npy file are pickled. A file that cannot be parsed counts as pickled."""
    try:
        start, length = (10, 2) if head[6] == 1 else (12, 4)
        size = int.from_bytes(head[8 : 8 + length], "little")
        fields = ast.literal_eval(head[start : start + size].decode("latin-1").strip())
        return np.lib.format.descr_to_dtype(fields["descr"]).hasobject
    except (ValueError, SyntaxError, LookupError, TypeError, RecursionError, MemoryError):
        return True


def _is_pickle(head: bytes) -> bool:
    """Whether a head is a pickle of protocol 0 or 1, which look like text."""
    names = []
    try:
        for instruction, _, _ in pickletools.genops(io.BytesIO(head)):
            names.append(instruction.name)
    except (ValueError, IndexError, UnicodeError):  # not an instruction, or the end of the head
        return len(head) == HEAD and len(names) > INSTRUCTIONS
    file = io.BytesIO(head)
    try:
        pickletools.dis(file, out=io.StringIO())  # follows the stack
    except (ValueError, IndexError, UnicodeError):
        return False
    return file.tell() == len(head) or not CALLS.isdisjoint(names)
