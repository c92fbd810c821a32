"""Checkpoints and decoding fields that are wrong: one line names them, before anything is allocated or decoded."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CompileConfig

from d3llm.commands.loading import load_model
from d3llm.commands.main import main
from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.fields import FIELDS
from d3llm.modeling import DreamConfig, DreamModel, LLaDAModelLM
from d3llm.modeling.checkpoint import load_errors
from tests.helpers.commands import copy_checkpoint, run_fails
from tests.helpers.models import tiny_model
from tests.helpers.trajectory_rows import random_trajectories


ODD = ["x", "", -1, 0, 1, 1.5, math.nan, math.inf, 1e400, 2**70, True, [], {}, [1], ["x"], b"x", object()]


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_type": ["llada"]}, "`model_type` ['llada']"),
        ({"n_layers": 10**9}, "1000000000 layers"),
        ({"n_layers": 1}, "the weights have beyond config.json model.transformer.blocks.1."),
        ({"n_layers": 3}, "the weights lack model.transformer.blocks.2."),
        ({"n_layers": 0}, "n_layers=0 must be a whole number"),
        ({"n_heads": 0}, "n_heads=0"),
        ({"n_heads": 5}, "d_model=32 must be a multiple of n_heads=5"),
        ({"d_model": 64}, "has the shape"),
        ({"mask_token_id": 10**6}, "mask_token_id=1000000"),
        ({"mask_token_id": "<mask>"}, "mask_token_id='<mask>'"),
        ({"mask_token_id": -1}, "mask_token_id=-1"),
        ({"rope_theta": 0}, "rope_theta=0"),
        ({"rope_theta": math.nan}, "rope_theta=nan"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps=nan"),
        (
            {"weight_tying": True},
            "config.json has weight_tying=true, and the weights a model.transformer.ff_out.weight",
        ),
        ({"attn_implementation": 3}, "attn_implementation=3 is not a name"),
        ({"attn_implementation": "nope"}, "is not supported"),
        ({"attn_implementation": "flash_attention_2"}, "'flash_attention_2' needs a package that is not installed"),
    ],
)
def test_a_config_that_is_not_that_of_the_weights(capsys, tiny_checkpoint, tmp_path, values, named):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    edit_json(folder / "config.json", **values)
    assert named in run_fails(capsys, "generate", "--model", folder, "--prompt", "one")
    training = ["distill", "--model_name_or_path", folder, "--trajectories", "anything", "--report_to", "none"]
    assert named in run_fails(capsys, *training, "--output_dir", tmp_path / "out")


def test_tied_weights_may_be_there_twice(tiny_checkpoint, tmp_path):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    edit_json(folder / "config.json", weight_tying=True)
    head, embedding = (f"model.transformer.{name}.weight" for name in ("ff_out", "wte"))
    edit_weights(folder, lambda tensors: tensors.update({head: tensors[embedding].clone()}))
    model, _ = load_model(folder, device="cpu")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    edit_weights(folder, lambda tensors: tensors[head][-1, 0].add_(1))
    with pytest.raises(OSError, match="weight_tying=true"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("config.json", b"[" * 100_000, "config.json"),
        ("config.json", b'{"model_type": "gpt2"}', "is a 'gpt2' model: expected LLaDA, Dream"),
        ("config.json", b'{"model_type": "llada", "dtype": "nope"}', "config.json"),
        ("model.safetensors", b"x" * 100, "model"),
        ("generation_config.json", b"[]", "model"),
        ("tokenizer.json", b"{}", "tokenizer"),
        ("tokenizer_config.json", b"[]", "tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_not_trained(capsys, tiny_checkpoint, tmp_path, file, content, named):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    (folder / file).write_bytes(content)
    random_trajectories(4).to_parquet(str(tmp_path / "rows.parquet"))
    training = ["distill", "--model_name_or_path", folder, "--trajectories", tmp_path / "rows.parquet", "--use_cpu"]
    assert main([str(value) for value in [*training, "--report_to", "none", "--output_dir", tmp_path / "out"]]) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # after the progress of the libraries
    assert named in said and str(folder) in said and len(said) < 600


def test_weights_without_permission_are_not_missing(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).suffix != ".safetensors")  # root may read all
    with pytest.raises(OSError, match="no permission to read model"), load_errors(tiny_checkpoint, "model"):
        raise FileNotFoundError("No such file or directory: model.safetensors")  # what safetensors says


def test_the_config_of_another_architecture(capsys, tiny_checkpoint, tmp_path):
    """It describes a model of seven billion parameters, which nobody waits for."""
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": DreamConfig.model_type}))
    assert "28 layers" in run_fails(capsys, "generate", "--model", folder, "--prompt", "one")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"early_stop": "false"}, "`early_stop`='false' must be True or False"),
        ({"do_sample": "no"}, "`do_sample`='no'"),
        ({"temperature": math.inf}, "`temperature`=inf"),
        ({"eos_token_id": 10**6}, "`eos_token_id`=1000000 is outside of the model's vocabulary of 16 tokens"),
        ({"mask_token_id": 10**6}, "`mask_token_id`=1000000 is outside"),
        ({"compile_config": 3}, "compile_config"),
        ({"max_time": "soon"}, "`max_time`='soon'"),
    ],
)
def test_a_faulty_generation_config(capsys, tiny_checkpoint, tmp_path, values, named):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    edit_json(folder / "generation_config.json", **values)
    assert named in run_fails(capsys, "generate", "--model", folder, "--prompt", "one")


@pytest.mark.parametrize("preset", ["d3llm", "llada", "dream_origin", "fast_dllm"])
def test_weights_that_are_no_numbers_end_the_run(capsys, tiny_checkpoint, tmp_path, preset):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    edit_weights(folder, lambda tensors: tensors["model.transformer.ff_out.weight"][3].fill_(math.nan))
    arguments = ["generate", "--model", str(folder), "--prompt", "one", "--preset", preset, "--max-new-tokens", "8"]
    assert main(arguments) == 2
    warning, error = capsys.readouterr().err.strip().splitlines()
    assert "warning: model.transformer.ff_out.weight" in warning and "not finite" in warning
    assert "candidates are not numbers (NaN) in forward 1" in error


def test_weights_of_another_dtype(capsys, tiny_checkpoint, tmp_path):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    edit_weights(folder, lambda t: t.update({n: v.to(torch.int8) for n, v in t.items() if "q_proj" in n}))
    assert "dtype I8" in run_fails(capsys, "generate", "--model", folder, "--prompt", "one")


@pytest.mark.parametrize(
    "flag",
    [
        *(f"--{n}={2**90}" for n in ("cfg-scale", "temperature", "mask-token-id", "block-size", "steps", "factor")),
        *(f"--{n}={2**90}" for n in ("cache-delay", "top-k", "threshold", "cache-refresh-interval", "seed")),
        *(f"--{n}=1e400" for n in ("cfg-scale", "temperature", "threshold", "factor")),
        *(f"--{n}=null" for n in ("max-new-tokens", "seed", "score", "top-p", "attention", "steps")),
        "--temperature=Infinity",
        "--num-return-sequences=1000000",
        "--early-stop=yes",
        f"--steps={'[' * 100_000}",
    ],
)
def test_a_flag_out_of_its_range_is_named(capsys, flag):
    error = run_fails(capsys, "generate", "--prompt", "one", flag)
    assert flag[2:].partition("=")[0] in error.replace("_", "-") and len(error) < 300


@pytest.mark.parametrize("name", FIELDS)
def test_an_odd_value_is_refused_in_one_line_or_works(name):
    model = tiny_model(LLaDAModelLM)
    prompt = torch.randint(1, 60, (1, 4))
    for value in ODD:
        try:
            DiffusionGenerationConfig(**{name: value})
            model.generate(prompt, **{"max_new_tokens": 3} | {name: value})
        except ValueError as error:
            assert len(str(error)) < 600 and "\n" not in str(error)
            assert name in str(error) or name in ("max_length", "cache", "steps", "compile_config", "stop_strings")


@pytest.mark.parametrize("keyword", ["attention_mask", "logits_processor", "stopping_criteria", "tokenizer", "cache"])
def test_an_odd_argument_is_refused(keyword):
    model, prompt = tiny_model(DreamModel), torch.randint(1, 60, (1, 4))
    for value in (3, "x", [1], object()):
        with pytest.raises((ValueError, TypeError)):
            model.generate(
                prompt, max_new_tokens=3, stop_strings="x" if keyword == "tokenizer" else None, **{keyword: value}
            )


def test_a_compile_config_is_one():
    assert DiffusionGenerationConfig(compile_config=CompileConfig()).compile_config is not None
    with pytest.raises(ValueError, match="`compile_config`='fast' must be a CompileConfig"):
        DiffusionGenerationConfig(compile_config="fast")


def test_a_missing_package_of_attention_has_a_way_out(tiny_checkpoint):
    with pytest.raises(ImportError, match="needs a package that is not installed here: install it, or take 'sdpa'"):
        LLaDAModelLM.from_pretrained(tiny_checkpoint, attn_implementation="flash_attention_2")
