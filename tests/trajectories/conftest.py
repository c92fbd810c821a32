"""Fixtures of the extraction's tests."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import d3llm.modeling  # noqa: F401
from tests.helpers.extraction import write_jsonl
from tests.helpers.models import WORDS


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Eleven prompts of different lengths."""
    rows = [{"prompt": " ".join(WORDS[: 1 + index % 5]), "answer": WORDS[index]} for index in range(11)]
    return write_jsonl(tmp_path / "problems.jsonl", rows)
