"""Processes forked from a server that has imported the package, which takes each new interpreter seconds."""

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["d3llm.trainers.distill", "d3llm.trajectories.extract", "d3llm.evaluation"])


class Done(NamedTuple):
    returncode: int | None
    stdout: str
    stderr: str


class Fork:
    """
    A function in a process of its own, which exits with what the function returns.

    Args:
        action (`Callable`): A function of a module.
        arguments: Of the function.
        cwd (`Path`, *optional*): The working directory.
        environment (`dict[str, str]`, *optional*): Variables besides those of this process. What the libraries read
            when they are imported has been read already.
        terminal (`str`, *optional*): The terminal that it reads and writes, instead of files.
    """

    def __init__(
        self,
        action: Callable[..., Any],
        *arguments: Any,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        terminal: str | None = None,
    ):
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        streams = [terminal] * 3 if terminal else [os.devnull, *map(str, self._files)]
        around = ({**os.environ, **(environment or {})}, str(cwd or Path.cwd()), streams)
        self.process: ForkServerProcess = FORKS.Process(target=_run, args=(action, arguments, *around))
        self.process.start()

    def wait(self, timeout: float = 240) -> Done:
        """Waits for its end, and returns what it wrote."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        return Done(self.process.exitcode, *(file.read_text() if file.exists() else "" for file in self._files))


def fork_ranks(action: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None) -> list[Fork]:
    """Two processes with the variables that `torchrun` and `accelerate launch` set for a group."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranks = [{**group, "RANK": rank, "LOCAL_RANK": rank, **(environment or {})} for rank in "01"]
    return [Fork(action, *arguments, environment=variables) for variables in ranks]


def run_script(source: str, arguments: Sequence[str] = ()) -> None:
    """The source as the main module."""
    sys.argv[1:] = arguments
    exec(compile(source, "<script>", "exec"), {"__name__": "__main__"})


def _run(
    action: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    folder: str,
    streams: list[str],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, path in enumerate(streams):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(open(1, "w", closefd=False)), open(0, closefd=False) as sys.stdin:
        code = action(*arguments)
        sys.stdout.flush()
    sys.exit(code)
