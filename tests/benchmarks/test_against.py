"""The comparison with published code, on a fake checkout: the plumbing, not the published code."""

import json
from pathlib import Path

import pytest

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


# the models of the two others are stand-ins of one weight, which make a token of 7
STAND_IN = """
import torch

class StandIn(torch.nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()
        self.head, self.embedding = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1)

    def load_state_dict(self, weights, strict):
        assert "model.transformer.wte.weight" in weights
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def get_output_embeddings(self):
        return self.head

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids):
        self.head(torch.ones(1, 1))
        return torch.full_like(input_ids, 7)
"""
D3LLM_MODEL = (
    STAND_IN
    + """
class LLaDAModelLM(StandIn):
    from_pretrained = classmethod(lambda cls, folder: cls())
"""
)
D3LLM_GENERATE = """
import torch
from utils.utils_LLaDA.model.modeling_llada import LLaDAModelLM

def generate_multi_block(model, prompt, max_new_tokens, block_size, threshold, mask_id, block_add_threshold,
                         decoded_token_threshold, eos_token_id, early_stop):
    canvas = torch.cat([prompt, torch.full((1, max_new_tokens), mask_id)], dim=1)
    return torch.cat([prompt, model(canvas)[:, prompt.shape[1] :]], dim=1), 1

def generate_multi_block_kv_cache(*args, cache_delay_iter, refresh_interval, **fields):
    return generate_multi_block(*args, **fields)
"""
DLLM_MODEL = (
    STAND_IN
    + """
from types import SimpleNamespace

def create_model_config_from_pretrained_config(config):
    return SimpleNamespace(init_device="cuda")

class FastdLLMLLaDAModel:
    def __init__(self, config, init_params):
        assert config.init_device == "cpu"

class FastdLLMLLaDAModelLM(StandIn):
    pass
"""
)
DLLM_SAMPLER = """
from dataclasses import dataclass
from typing import Any
import torch

@dataclass
class MDLMSampler:
    model: Any
    tokenizer: Any

    def sample(self, inputs, config=None, *, max_new_tokens, steps, block_size, return_dict, **cached):
        longest = max(map(len, inputs))
        canvas = torch.full((len(inputs), longest + max_new_tokens), self.tokenizer.eos_token_id)
        tokens = self.model(canvas)
        for row, prompt in zip(tokens, inputs):
            row[: len(prompt)] = prompt
        return tokens
"""
DLLM_FAST = """
from dllm.core.samplers import MDLMSampler as FastdLLMLLaDASampler
from .models.modeling_llada import FastdLLMLLaDAModelLM

class FastdLLMLLaDAConfig:
    from_pretrained = classmethod(lambda cls, folder: cls())

class FastdLLMLLaDASamplerConfig:
    pass
"""
CHECKOUTS = {
    "fast-dllm": {"llada/model/modeling_llada.py": MODEL, "llada/generate.py": GENERATE},
    "d3llm": {
        "utils/utils_LLaDA/model/modeling_llada.py": D3LLM_MODEL,
        "d3llm/d3llm_LLaDA/d3llm_llada_generate_util.py": D3LLM_GENERATE,
    },
    "dllm": {
        "dllm/core/samplers/mdlm.py": DLLM_SAMPLER,
        "dllm/core/samplers/__init__.py": "from .mdlm import MDLMSampler",
        "dllm/pipelines/fastdllm/llada/models/modeling_llada.py": DLLM_MODEL,
        "dllm/pipelines/fastdllm/llada/__init__.py": DLLM_FAST,
    },
}


@pytest.fixture
def checkouts(tmp_path: Path) -> dict[str, Path]:
    """Folders that look like the published code."""
    for side, files in CHECKOUTS.items():
        for name, text in files.items():
            (tmp_path / side / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / side / name).write_text(text)
    return {side: tmp_path / side for side in CHECKOUTS}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    special = {"mask_token_id": 126, "eos_token_id": 127, "pad_token_id": 127}
    shape = {"d_model": 32, "n_layers": 1, "mlp_hidden_size": 48, "max_sequence_length": 128}
    model = random_model(6.0, seed=0, vocab_size=128, embedding_size=128, **shape, **special)
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.processes
@pytest.mark.slow
def test_checkouts_are_compared_side_by_side(checkouts, checkpoint, tmp_path, capsys):
    output = tmp_path / "result.json"
    given = [argument for side, path in checkouts.items() for argument in (f"--{side}", str(path))]
    main(
        [*given, "--checkpoint", str(checkpoint), "--json", str(output), "--batch-sizes", "1", "2", "--prompts", "2"]
        + ["--methods", "fast_dllm prefix", "fast_dllm dual", "d3llm", "d3llm block"]
        + ["--prompt-length", "8", "--new-tokens", "64", "--repeats", "1", "--threads", "1"]
    )
    assert "2/2" in capsys.readouterr().out
    rows = {(row["side"], row["method"], row["batch_size"]): row for row in json.loads(output.read_text())["rows"]}
    alone = [("fast-dllm", f"fast_dllm {cache}", 1) for cache in ("prefix", "dual")]
    alone += [("d3llm", method, 1) for method in ("d3llm", "d3llm block")]
    batched = [("dllm", f"fast_dllm {cache}", size) for size in (1, 2) for cache in ("prefix", "dual")]
    assert sorted(rows) == sorted(alone + batched)
    for row in rows.values():
        assert row["rows"] == 2
        assert row["ratio"] > 0 and 0 < row["theirs_share_of_head"] < 1
    # the fake Fast-dLLM runs this package, and changes a token with the prefix cache
    assert [rows[key]["rows_with_equal_tokens"] for key in alone[:2]] == [0, 2]
    for key in alone[:2]:
        assert rows[key]["ours_forwards"] == rows[key]["theirs_forwards"] > 4
        assert rows[key]["ours_positions"] == rows[key]["theirs_positions"]
    # the stand-ins make one forward per call: per prompt, or per batch
    assert [rows[key]["theirs_forwards"] for key in alone[2:] + batched] == [2, 2, 2, 2, 1, 1]
    assert all(rows[key]["rows_with_equal_tokens"] == 0 for key in alone[2:] + batched)


@pytest.mark.parametrize("side", ["d3llm", "fast-dllm", "dllm"])
def test_another_folder_is_refused_in_one_line(side, tmp_path):
    with pytest.raises(SystemExit) as refusal:
        main([f"--{side}", str(tmp_path)])
    message = str(refusal.value)
    assert f"--{side} {tmp_path} has no " in message and "\n" not in message


def test_arguments_are_checked(checkouts):
    with pytest.raises(SystemExit, match="give a checkout"):
        main([])
    with pytest.raises(SystemExit, match="is not SIDE=PATH of a Python"):
        main(["--dllm", str(checkouts["dllm"]), "--python", "dllm=/no/such/python"])


def test_tokens_are_compared_up_to_the_first_eos():
    run = {"seconds": 1.0, "head_seconds": 0.5, "forwards": 2, "positions": 8}
    ours, theirs = ([{**run, "tokens": [tokens]}] for tokens in ([5, 9, 9, 9], [5, 9, 7, 7]))
    assert compared(ours, theirs, eos=9)["rows_with_equal_tokens"] == 1
    assert compared(ours, theirs, eos=None)["rows_with_equal_tokens"] == 0
