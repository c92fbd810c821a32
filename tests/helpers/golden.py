"""The folder of recorded behaviour: that of tests/golden, or a complete set where D3LLM_GOLDEN says."""

import os
import tempfile
from pathlib import Path

from tests.helpers.golden_data import unpack


_unpacked = tempfile.TemporaryDirectory(prefix="d3llm-golden-")
GOLDEN = Path(os.environ.get("D3LLM_GOLDEN", _unpacked.name))
if "D3LLM_GOLDEN" not in os.environ:
    unpack(GOLDEN)
elif not (GOLDEN / "traces").is_dir():
    raise FileNotFoundError(f"D3LLM_GOLDEN names {GOLDEN}, which has no traces: give a folder of recordings.")
