"""Two processes under DeepSpeed ZeRO-2: the same weights as without it, also resumed, and the checkpoint converts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from d3llm.hub_cards.convert import convert
from tests.helpers.paths import ROOT
from tests.helpers.trajectory_rows import random_trajectories


pytestmark = pytest.mark.slow
SMALL = ["--max_steps", "4", "--save_steps", "2", "--per_device_train_batch_size", "4", "--max_new_tokens", "24"]
SMALL += ["--window_sizes", "8", "16", "--report_to", "none", "--bf16", "false", "--learning_rate", "1e-3"]


def train(launcher: list[str], model: Path, output: Path, *options: str) -> dict[str, torch.Tensor]:
    random_trajectories().to_parquet(str(output.parent / "trajectories" / "part.parquet"))
    command = [sys.executable, "-m", *launcher, "-m", "d3llm.trainers.distill", *SMALL, *options]
    command += ["--model_name_or_path", str(model), "--trajectories", str(output.parent / "trajectories")]
    run = subprocess.run(
        [*command, "--output_dir", str(output)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stderr
    return load_file(output / "model.safetensors")


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-5, rtol=1e-4)


def test_zero_2(tiny_checkpoint, tmp_path):
    pytest.importorskip("deepspeed")
    shipped = yaml.safe_load((ROOT / "trainers" / "accelerate_configs" / "zero2.yaml").read_text())
    (tmp_path / "zero2.json").write_text(json.dumps({**shipped, "num_processes": 2, "mixed_precision": "no"}))
    plain = train(["torch.distributed.run", "--nproc_per_node=2"], tiny_checkpoint, tmp_path / "plain", "--use_cpu")
    zero = ["accelerate.commands.launch", "--config_file", str(tmp_path / "zero2.json")]
    sharded = train(zero, tiny_checkpoint, tmp_path / "sharded", "--ddp_backend", "gloo")
    assert_close(sharded, plain)

    checkpoint = tmp_path / "sharded" / "checkpoint-4"
    assert (checkpoint / "global_step4").is_dir()
    (checkpoint / "model.safetensors").unlink()
    convert(checkpoint, tmp_path / "converted", license="mit")
    assert_close(load_file(tmp_path / "converted" / "model.safetensors"), sharded)

    (checkpoint / "trainer_state.json").unlink()  # as if it had died while it wrote this one
    resumed = train(zero, tiny_checkpoint, tmp_path / "sharded", "--ddp_backend", "gloo", "--resume")
    assert_close(resumed, sharded)
