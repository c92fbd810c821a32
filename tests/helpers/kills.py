"""Runs something in a process that is killed before one of its file operations."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch


CHANGES = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.copyfile"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def is_killed(action: Callable[[], Any], root: Path, at: int) -> bool:
    """
    Runs an action in a fork that gets SIGKILL before its `at`-th change to files under `root`.

    Returns:
        `bool`: Whether it was killed; `False` when the action came to its end before that.
    """
    process = os.fork()
    if process:
        status = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, "the action failed"
        return os.WIFSIGNALED(status)
    count = 0

    def kill(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if not (event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITES)):
            return
        path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else ""
        if path.startswith(str(root)) or (event in ("os.remove", "os.rmdir") and not os.path.isabs(path)):
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    try:
        torch.set_num_threads(1)  # the threads of the parent are not in a fork
        sys.addaudithook(kill)
        action()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def every_kill(
    action: Callable[[Path], Any], folder: Path, prepare: Callable[[Path], Any] = lambda folder: None, step: int = 1
) -> Iterator[Path]:
    """
    Runs an action in one new folder after another, killed `step` file operations later each time.

    Yields:
        `Path`: The folder after the kill; the last one after a run that came to its end.
    """
    for at in range(0, 10_000, step):
        place = folder / f"{at}"
        place.mkdir()
        prepare(place)
        killed = is_killed(lambda: action(place), place, at)  # noqa: B023
        yield place
        if not killed:
            assert at > 2, "the kills do not reach what the action writes"
            return


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file in a folder, by path, and of empty folders nothing."""
    return {
        path.relative_to(folder).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }
