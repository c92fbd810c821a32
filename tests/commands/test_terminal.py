"""What a terminal gets: `d3llm generate` draws there, and prints plain text anywhere else."""

import os
import re
import subprocess
import sys

import pytest

from d3llm.commands.main import main


pty = pytest.importorskip("pty")


def run_in_terminal(arguments: list[str]) -> str:
    """Everything a command writes to a terminal of 100 columns."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "d3llm.commands.main", *arguments]
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=environment) as process:
        os.close(follower)
        written = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not chunk:
                break
            written += chunk
    os.close(leader)
    assert process.returncode == 0, written.decode()
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
