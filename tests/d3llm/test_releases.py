"""Nothing here uses what the installed release of a library has deprecated."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT


@pytest.mark.slow
def test_no_call_of_ours_is_deprecated(tmp_path: Path):
    script, trajectories = ROOT / "tests/helpers/every_call.py", ROOT / "quickstart" / "trajectories"
    command = [sys.executable, "-W", "always", str(script), str(trajectories), str(tmp_path / "exported")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "TRANSFORMERS_VERBOSITY": "warning"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    warned = [line for line in result.stderr.splitlines() if "deprecat" in line.lower()]
    assert warned == []
