"""The comparison with published code, on a fake checkout: the plumbing, not the published code."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.against import compared, main
from benchmarks.subjects import random_model


ROOT = Path(__file__).resolve().parents[2]
MODEL = f"import sys\nsys.path.append({str(ROOT)!r})\nfrom d3llm.modeling import LLaDAModelLM\n"
GENERATE = """
from .model.modeling_llada import LLaDAModelLM

def decode(model, prompt, cache, gen_length, block_length, mask_id, threshold):
    fields = {"preset": "fast_dllm", "cache": cache, "max_new_tokens": gen_length, "block_size": block_length}
    return model.generate(prompt, threshold=threshold, **fields), None

def generate(model, prompt, steps, gen_length, block_length, mask_id, threshold=None):
    return decode(model, prompt, "none", gen_length, block_length, mask_id, threshold)

def generate_with_prefix_cache(model, prompt, steps, gen_length, block_length, mask_id, threshold=None):
    tokens, forwards = decode(model, prompt, "prefix", gen_length, block_length, mask_id, threshold)
    tokens[:, -1] += 1  # a difference that the comparison has to show
    return tokens, forwards

def generate_with_dual_cache(model, prompt, steps, gen_length, block_length, mask_id, threshold=None):
    return decode(model, prompt, "dual", gen_length, block_length, mask_id, threshold)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like Fast-dLLM."""
    folder = tmp_path / "Fast-dLLM" / "llada"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "modeling_llada.py").write_text(MODEL)
    (folder / "generate.py").write_text(GENERATE)
    return folder.parent


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    special = {"mask_token_id": 126, "eos_token_id": 127, "pad_token_id": 127}
    shape = {"d_model": 32, "n_layers": 1, "mlp_hidden_size": 48, "max_sequence_length": 128}
    model = random_model(6.0, seed=0, vocab_size=128, embedding_size=128, **shape, **special)
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.processes
def test_a_checkout_is_compared_side_by_side(checkout, checkpoint, tmp_path, capsys):
    output = tmp_path / "result.json"
    methods = ["fast_dllm prefix", "fast_dllm dual", "d3llm"]
    main(
        ["--fast-dllm", str(checkout), "--checkpoint", str(checkpoint), "--json", str(output), "--methods", *methods]
        + ["--prompts", "2", "--prompt-length", "8", "--new-tokens", "64", "--repeats", "1", "--threads", "1"]
    )
    prefix, dual = json.loads(output.read_text())["rows"]  # d3llm is not one of its methods
    assert (prefix["method"], dual["method"]) == ("fast_dllm prefix", "fast_dllm dual")
    assert (prefix["rows_with_equal_tokens"], dual["rows_with_equal_tokens"]) == (0, 2)
    for row in (prefix, dual):
        assert row["rows"] == 2
        assert row["ours_forwards"] == row["theirs_forwards"] > 4
        assert row["ours_positions"] == row["theirs_positions"]
        assert row["ratio"] > 0 and 0 < row["theirs_share_of_head"] < 1
    assert "2/2" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["d3llm", "fast-dllm", "dllm"])
def test_another_folder_is_refused_in_one_line(side, tmp_path):
    with pytest.raises(SystemExit) as refusal:
        main([f"--{side}", str(tmp_path)])
    message = str(refusal.value)
    assert f"--{side} {tmp_path} has no " in message and "\n" not in message


def test_arguments_are_checked(checkout):
    with pytest.raises(SystemExit, match="give a checkout"):
        main([])
    with pytest.raises(SystemExit, match="is not SIDE=PATH of a Python"):
        main(["--fast-dllm", str(checkout), "--python", "fast-dllm=/no/such/python"])


def test_tokens_are_compared_up_to_the_first_eos():
    run = {"seconds": 1.0, "head_seconds": 0.5, "forwards": 2, "positions": 8}
    ours, theirs = (
        [{"torch": torch.__version__, "methods": {"d3llm": {**run, "tokens": [tokens]}}}]
        for tokens in ([5, 9, 9, 9], [5, 9, 7, 7])
    )
    assert compared(ours, theirs, "d3llm", eos=9)["rows_with_equal_tokens"] == 1
    assert compared(ours, theirs, "d3llm", eos=None)["rows_with_equal_tokens"] == 0
