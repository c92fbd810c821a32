"""Commands that must fail, and a checkpoint to spoil."""

import shutil

from d3llm.commands.main import main


def run_fails(capsys, *arguments) -> str:
    """Runs a command that must fail as the contract says, and returns its one line."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("d3llm: error: ")
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    assert "Traceback" not in captured.err
    return captured.err


def copy_checkpoint(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")
