"""The shipped models: a teacher trained on word problems, a student distilled from it, and their folders."""

if __name__ != "d3llm.quickstart":  # a second copy of every class
    raise ImportError("quickstart is a part of d3llm: import d3llm.quickstart.")

from pathlib import Path


_FOLDER = Path(__file__).resolve().parent
CHECKPOINTS = ("teacher", "student")


def checkpoint_path(name: str) -> Path:
    """
    The folder of a shipped checkpoint, for `from_pretrained`.

    Args:
        name (`str`): Name of the checkpoint: `"teacher"` or `"student"`.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: For an unknown name.
        `FileNotFoundError`: If the installation lacks the checkpoint's files.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"Unknown checkpoint {name!r}: expected one of {', '.join(CHECKPOINTS)}.")
    return shipped_folder(name, "model.safetensors")


def is_shipped(folder: Path) -> bool:
    """
    Whether a folder is that of a shipped checkpoint.

    Args:
        folder (`Path`): A checkpoint folder.
    """
    return folder.resolve() in [_FOLDER / name for name in CHECKPOINTS]


def shipped_folder(name: str, weights: str) -> Path:
    """
    A folder of this package with weights.

    Args:
        name (`str`): Name of the folder.
        weights (`str`): Name of the file with the weights.

    Returns:
        `Path`: The folder.

    Raises:
        `FileNotFoundError`: If the installation lacks the file.
    """
    folder = _FOLDER / name
    if not (folder / weights).is_file():
        raise FileNotFoundError(f"{folder} has no {weights}: install d3llm again, or from a full clone.")
    return folder


__all__ = ["CHECKPOINTS", "checkpoint_path"]
