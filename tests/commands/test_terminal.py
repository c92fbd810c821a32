"""What a terminal gets: `d3llm generate` draws there, and prints plain text anywhere else."""

import os
import re
import select

import pytest

from d3llm.commands.main import main
from tests.helpers.forks import Fork


pty = pytest.importorskip("pty")


def run_in_terminal(arguments: list[str]) -> str:
    """Everything a command writes to a terminal of 100 columns."""
    leader, follower = pty.openpty()
    environment = {"COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color"}
    command = Fork(main, arguments, environment=environment, terminal=os.ttyname(follower))
    written = b""
    while select.select([leader], [], [], 0.1)[0] or command.process.is_alive():
        if select.select([leader], [], [], 0)[0]:
            written += os.read(leader, 65536)
    os.close(follower)
    os.close(leader)
    assert command.wait().returncode == 0, written.decode()
    return written.decode()


def test_generate_draws_drafts_in_a_terminal(tiny_checkpoint, capsys):
    arguments = ["generate", "--model", str(tiny_checkpoint), "--prompt", "one plus two is", "--preset", "llada"]
    arguments += ["--max-new-tokens", "8", "--block-size", "4", "--early-stop", "false"]
    written = run_in_terminal(arguments)
    forwards = re.findall(r"forward (\d+), \d+ tokens committed", written)
    assert list(dict.fromkeys(forwards)) == [str(n) for n in range(1, 9)]
    assert "░░" in written and "8 forwards" in written
    assert main(arguments) == 0
    plain = capsys.readouterr()
    assert "\x1b" not in plain.out and plain.err == ""
    assert plain.out.strip() in written
