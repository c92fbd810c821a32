"""Runs a generated program in a separate process, confined and limited."""

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO


SANDBOX = Path(__file__).with_name("sandbox.py")
ISOLATIONS = ("namespaces", "guard")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class ProgramResult:
    """
    The outcome of a program.

    Attributes:
        outcome (`str`):
            `"passed"` (it ran to its end), `"failed"` (an exception, `sys.exit` included), `"timeout"`, `"output"` (it
            wrote too much) or `"died"` (it ended early: `os._exit`, a crash, killed by a limit).
        message (`str`): The exception, or empty.
        output (`str`): The start of its output on stdout and stderr.
        seconds (`float`): Wall time.
    """

    outcome: str
    message: str
    output: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def run_program(
    program: str,
    *,
    timeout: float = 10.0,
    memory: int = 1024 * MEBIBYTE,
    file_size: int = 16 * MEBIBYTE,
    output: int = 64 * 1024,
    processes: int = 16,
    isolation: str | None = None,
) -> ProgramResult:
    """
    Runs untrusted Python source.

    It runs in its own session, in an empty working folder that is removed afterwards, without the environment of this
    process, without privileges, and within limits. On Linux, if the system allows namespaces, it has no network, no
    sockets, its own process tree and read-only files. The home folder and those of temporary files and of sockets
    (`/tmp`, `/var/tmp`, `/run`, `/dev/shm`) are empty, except for one that Python itself is in. Without namespaces an
    audit hook refuses what Python's own functions do to start processes, use the network or change files outside the
    folder. That stops accidents but not a determined attacker, who calls C: see [`available_isolation`].

    Args:
        program (`str`): The source; it passes if it runs to its end.
        timeout (`float`, *optional*, defaults to 10.0): Wall time in seconds.
        memory (`int`, *optional*, defaults to 1 GiB): Address space of a process, in bytes.
        file_size (`int`, *optional*, defaults to 16 MiB): Largest file in bytes; with namespaces, all files together
            have four times as much.
        output (`int`, *optional*, defaults to 64 KiB): Largest output on stdout and stderr, in bytes.
        processes (`int`, *optional*, defaults to 16): Largest number of processes and threads (with namespaces; the
            guard refuses to start any process and does not count threads).
        isolation (`str`, *optional*): `"namespaces"` or `"guard"`; by default the strongest that the system allows.

    Returns:
        [`ProgramResult`]: The outcome.

    Raises:
        `ValueError`: For an unknown isolation.
        `OSError`: For an isolation that the system does not allow, and on systems other than POSIX ones.
    """
    if os.name != "posix":
        raise OSError("Generated programs run only on Linux and macOS: their limits need POSIX.")
    isolation = available_isolation() if isolation is None else isolation
    if isolation not in ISOLATIONS:
        raise ValueError(f"Unknown isolation {isolation!r}: expected one of {', '.join(ISOLATIONS)}.")
    began = time.monotonic()
    token = secrets.token_hex(16)  # so that a program that ends early cannot report that it has passed
    with tempfile.TemporaryDirectory(prefix="d3llm-program-", ignore_cleanup_errors=True) as folder:
        settings = {
            "folder": folder,
            "home": os.path.expanduser("~"),
            "isolation": isolation,
            "token": token,
            "timeout": timeout,
            "memory": memory,
            "file_size": file_size,
            "processes": processes,
        }
        read_end, write_end = os.pipe()
        with open(read_end, "rb", buffering=0) as results:
            process = subprocess.Popen(
                [sys.executable, "-I", str(SANDBOX), str(write_end)],
                stdin=subprocess.PIPE,  # what was read from a pipe cannot be read again, by the program
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={"HOME": folder, "PATH": os.defpath, "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=(write_end,),
                start_new_session=True,
            )
            os.close(write_end)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(settings).encode() + b"\n" + program.encode("utf-8", "replace"))
            written, reported, ended = _listen(process, results, began + timeout, output)
    text = written[:output].decode("utf-8", "replace")
    seconds = time.monotonic() - began
    if ended is not None:
        return ProgramResult(ended, "", text, seconds)
    sender, _, result = reported.partition(b" ")
    if sender != token.encode():
        return ProgramResult("died", "", text, seconds)
    outcome, _, message = result.decode("utf-8", "replace").partition(" ")
    if outcome == "unavailable":
        raise OSError(f"This system does not allow the isolation {isolation!r}: {message}.")
    return ProgramResult(outcome, message, text, seconds)


@cache
def available_isolation() -> str:
    """
    The strongest isolation that the system allows.

    Returns:
        `str`: `"namespaces"` or `"guard"`, see [`run_program`].
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            if run_program("", isolation="namespaces").passed:
                return "namespaces"
    return "guard"


def _listen(
    process: subprocess.Popen, results: IO[bytes], deadline: float, output: int
) -> tuple[bytes, bytes, str | None]:
    """
    Reads the output of the process until it ends, then ends its whole session.

    Returns:
        `tuple[bytes, bytes, str | None]`: Its output, the report of the sandbox, and `"timeout"` or `"output"` if that
        was the reason to stop it.
    """
    assert process.stdout is not None
    streams = {process.stdout.fileno(): bytearray(), results.fileno(): bytearray()}
    ended = None
    with selectors.DefaultSelector() as selector, process.stdout:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        # A report marks the end, even if something keeps the pipes open. Without one, the end of both pipes does.
        while selector.get_map() and ended is None and not streams[results.fileno()]:
            remaining = deadline - time.monotonic()
            events = selector.select(max(0.0, remaining))
            if not events:
                ended = "timeout"
            for key, _ in events:
                chunk = os.read(key.fd, 65536)
                streams[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if len(streams[process.stdout.fileno()]) > output:
                ended = "output"
        _end(process)
        written, reported = streams.values()
    return bytes(written), bytes(reported), ended


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
