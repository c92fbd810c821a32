"""Tells files that may run code where they are loaded, by their content; nothing is loaded for it."""

import ast
import io
import pickletools

import numpy as np

from .contents import Content, pieces


HEAD = 2**20  # bytes that are looked at
# More than this of valid instructions at the head of a longer file are no text that begins like a pickle by chance.
INSTRUCTIONS = 100
CALLS = {"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"}
PICKLE = "is a pickle, which runs code where it is loaded"
HEADS = {
    **{bytes([0x80, protocol]): PICKLE for protocol in range(2, 6)},
    b"PK\x03\x04": "is an archive, as those are in which torch and numpy keep pickles",
    b"\x89HDF\r\n\x1a\n": "is HDF5, in which Keras keeps code that runs where it is loaded",
}


def danger(content: Content) -> str | None:
    """
    Whether a file may run code where it is loaded: a pickle of any protocol, an archive that may hold some, an array
    of objects, HDF5; also within gzip, bzip2 and xz.

    Args:
        content (`Path` or `bytes`): The file.

    Returns:
        `str` or `None`: What it is.

    Raises:
        `ValueError`: For a compressed file that is damaged.
    """
    head = next(pieces(content, HEAD), b"")
    for magic, what in HEADS.items():
        if head.startswith(magic):
            return what
    if head[257:262] == b"ustar":
        return "is an archive, as those are in which NeMo and old torch keep pickles"
    if head.startswith(b"\x93NUMPY") and _has_objects(head):
        return "is an array of objects, which are pickles"
    return PICKLE if _is_pickle(head) else None


def _has_objects(head: bytes) -> bool:
    """Whether the items of a .npy file are pickled; one that cannot be read counts as such."""
    try:
        start, length = (10, 2) if head[6] == 1 else (12, 4)
        size = int.from_bytes(head[8 : 8 + length], "little")
        fields = ast.literal_eval(head[start : start + size].decode("latin-1").strip())
        return np.lib.format.descr_to_dtype(fields["descr"]).hasobject
    except (ValueError, SyntaxError, LookupError, TypeError, RecursionError, MemoryError):
        return True


def _is_pickle(head: bytes) -> bool:
    """Whether a head is one of the protocols 0 and 1, which begin like text."""
    names = []
    try:
        for instruction, _, _ in pickletools.genops(io.BytesIO(head)):
            names.append(instruction.name)
    except (ValueError, IndexError, UnicodeError):  # no instruction, or the end of the head
        return len(head) == HEAD and len(names) > INSTRUCTIONS
    file = io.BytesIO(head)
    try:
        pickletools.dis(file, out=io.StringIO())  # follows the stack
    except (ValueError, IndexError, UnicodeError):
        return False
    return file.tell() == len(head) or not CALLS.isdisjoint(names)
