"""Selects the files of a folder that go to the Hub."""

import fnmatch
import os
import stat
from collections.abc import Sequence
from pathlib import Path


# What a training saves besides its model, only for itself.
RUN_STATE = (
    "checkpoint-*/*",
    "runs/*",
    "logs/*",
    "wandb/*",
    "optimizer.*",
    "scheduler.*",
    "scaler.*",
    "rng_state*",
    "trainer_state.json",
    "training_args.bin",
    "training_plan.json",
    "global_step*/*",
    "zero_to_fp32.py",
    "*events.out.tfevents.*",
)
# Files and folders left by editors, shells, notebooks, schedulers and killed programs.
LEFTOVERS = (
    "*.tmp",
    ".tmp??????",
    ".lock",
    "*~",
    "*.sw[op]",
    "*.pyc",
    ".DS_Store",
    ".*_history",
    ".lesshst",
    ".viminfo",
    "core",
    "core.[0-9]*",
    "nohup.out",
    "slurm-*.out",
    "slurm-*.err",
)
LEFTOVER_FOLDERS = {"__pycache__", ".git", ".cache", ".ipynb_checkpoints"}


def folder_files(folder: Path, left_out: Sequence[str] = ()) -> tuple[dict[str, Path], list[str]]:
    """
    The files of a folder, by path in the repository.

    Args:
        folder (`Path`): The folder.
        left_out (`Sequence[str]`, *optional*): Patterns of files to skip, besides leftovers.

    Returns:
        `tuple[dict[str, Path], list[str]]`: The selected files, and the paths of the skipped ones.

    Raises:
        `ValueError`: For a folder without files, a link that points out of it, a device or a pipe, and a name that the
            Hub does not accept.
        `OSError`: For a folder that does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise OSError(f"There is no folder {folder}.")
    files: dict[str, Path] = {}
    skipped: list[str] = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for path in sorted(Path(place, name) for name in (*names, *links)):
            name = path.relative_to(folder).as_posix()
            if _is_skipped(name, left_out):
                skipped.append(name)
            else:
                _check_name(name)
                _check_kind(folder, path)
                files[name] = path
    if not files:
        raise ValueError(f"{folder} has no files to push: name another folder.")
    return dict(sorted(files.items())), sorted(skipped)


def _raise(error: OSError) -> None:
    raise error


def _is_skipped(name: str, left_out: Sequence[str]) -> bool:
    *folders, last = name.split("/")
    return (
        name.startswith("_")
        or not LEFTOVER_FOLDERS.isdisjoint(folders)
        or any(fnmatch.fnmatchcase(last, pattern) for pattern in LEFTOVERS)
        or any(fnmatch.fnmatchcase(name, pattern) for pattern in left_out)
    )


def _check_name(name: str) -> None:
    if not name.isprintable() or "\\" in name or any(part.startswith("..") for part in name.split("/")):
        raise ValueError(f"{name!r} is a name that the Hub does not accept: rename the file, or remove it.")


def _check_kind(folder: Path, path: Path) -> None:
    """Refuses anything but a file in this folder. Nothing is opened, since reading a pipe might never return."""
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.exists():
            raise ValueError(f"{path} is a broken link: remove it.")
        if not target.is_relative_to(folder.resolve()):
            raise ValueError(f"{path} is a link out of the folder: replace it by its target (`cp -L`).")
        if target.is_dir():
            raise ValueError(f"{path} is a link to a folder: replace it by a copy, or remove it.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is neither a file nor a folder: remove it.")
