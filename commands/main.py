"""The `d3llm` command line: one sub-command per file in this folder."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from . import (
    chat,
    compare,
    convert,
    demo,
    distill,
    doctor,
    eval,
    extract,
    generate,
    infill,
    leaderboard,
    presets,
    push,
    quickstart,
    serve,
    space,
    tune,
)
from .fields import not_empty


OUT_OF_MEMORY = "not enough memory: ask for less at once, such as fewer rows, shorter texts or fewer resamples"


class _Parser(argparse.ArgumentParser):
    """An `ArgumentParser` with one-line errors."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})
        self.register("type", Path, lambda text: Path(not_empty(text)))  # an empty path would be the current folder

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"d3llm: error: {message} (see `{self.prog} --help`)\n")


def build_parser() -> argparse.ArgumentParser:
    """
    Builds the parser. Each sub-command sets `run`, a function of the parsed arguments, which may return an exit code.
    If a command sets `takes_fields`, unknown arguments are passed to it as `args.fields`.
    """
    parser = _Parser(prog="d3llm", description="Fast diffusion language models in the Hugging Face stack.")
    parser.add_argument("--version", action="version", version=f"d3llm {version('d3llm')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        chat,
        compare,
        convert,
        demo,
        distill,
        doctor,
        eval,
        extract,
        generate,
        infill,
        leaderboard,
        presets,
        push,
        quickstart,
        serve,
        space,
        tune,
    ):
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; by default those of the process.

    Returns:
        `int`: Exit code: 0, or what the command returns. Errors that a user can cause, a `ValueError`, an `OSError`
            or a missing package, give one line on stderr and code 2.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is an escape, or as wide on a terminal
            with suppress(OSError):  # it leads to another file than when it was opened
                stream.reconfigure(errors="replace" if stream.isatty() else "backslashreplace")
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args, "takes_fields", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.fields = rest
    code = _run(args)
    _leave_process_group()
    return code


def _run(args: argparse.Namespace) -> int:
    try:
        code = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe, as in `d3llm presets | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"d3llm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print(f"d3llm: error: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code or 0


def _leave_process_group() -> None:
    """Destroys the process group, if there is one: a thread of it that still runs at exit would abort the process."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(text in str(error) for text in ("can't allocate", "out of memory"))


if __name__ == "__main__":
    sys.exit(main())
