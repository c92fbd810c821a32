"""`d3llm tune`: the choice of a point, and its mistakes."""

import json
import os
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from d3llm.commands.main import main
from d3llm.evaluation import resolve_generation_config
from d3llm.evaluation.result import Result
from d3llm.evaluation.tuning import choose_point
from d3llm.quickstart import checkpoint_path
from tests.helpers.commands import run_fails
from tests.helpers.results import measured, results_in


def test_tuning_writes_the_choice(tmp_path, capsys):
    folder = shutil.copytree(checkpoint_path("teacher"), tmp_path / "teacher")
    before = json.loads((folder / "generation_config.json").read_text())
    flags = ["tune", "--model", str(folder), "--tasks", "stories", "--limit", "3", "--sweep", "threshold=0.01,0.5"]
    flags += ["--output", str(tmp_path / "points"), "--device", "cpu", "--preset", "d3llm", "--max-loss", "40"]
    assert main([*flags, "--dry-run"]) == 0
    assert json.loads((folder / "generation_config.json").read_text()) == before
    assert main(flags) == 0
    assert "threshold=0.5" in capsys.readouterr().out
    after = json.loads((folder / "generation_config.json").read_text())
    assert (after["preset"], after["threshold"], after["max_new_tokens"]) == ("d3llm", 0.5, before["max_new_tokens"])
    assert all(result["split"] == "validation" for result in results_in(tmp_path / "points"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = resolve_generation_config(model, [20])
    assert (config.preset, config.threshold, config.block_add_threshold) == ("d3llm", 0.5, 0.1)


def test_a_checkpoint_that_cannot_be_written_is_refused_first(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tiny_checkpoint and access(path, mode))
    flags = ["--model", tiny_checkpoint, "--tasks", "stories", "--limit", 1, "--preset", "d3llm"]
    flags += ["--max-new-tokens", 8, "--sweep", "threshold=0.5", "--output", tmp_path / "points"]
    assert f"Cannot write {tiny_checkpoint}/generation_config.json: no permission" in run_fails(capsys, "tune", *flags)
    assert not list((tmp_path / "points").iterdir())


def point(threshold: float, tpf: float, accuracy: float, tps: float, **others) -> Result:
    fields = {"threshold": threshold, **others}
    return measured(tokens_per_forward=tpf, point=fields, accuracy=accuracy, tokens_per_second=tps)


def test_the_choice_by_objective_and_loss():
    points = [
        point(0.1, 2.0, 0.80, 50, block_add_threshold=0.1),
        point(0.5, 6.0, 0.795, 90, block_add_threshold=0.1),
        point(0.9, 9.0, 0.70, 200, block_add_threshold=0.1),
        point(0.1, 1.5, 0.80, 60, block_add_threshold=1.0),
        point(0.5, 3.0, 0.80, 150, block_add_threshold=1.0),
    ]
    assert choose_point(points, "aup", 1.0) is points[1]
    assert choose_point(points, "tps", 1.0) is points[4]
    assert choose_point(points, "tps", 20.0) is points[2]
    assert choose_point(points, "aup", 0.0) is points[4]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "stories"], "--model"),
        (["--tasks", "stories,mmlu", "--model", "x"], "one task"),
        (["--tasks", "stories", "--model", "x", "--max-loss", "-1"], "--max-loss"),
        (["--tasks", "stories", "--model", "x", "--preset", "llada"], "`selection`='count' has no threshold to tune"),
        (["--tasks", "humaneval", "--allow-code-execution", "--model", "x", "--preset", "d3llm"], "validation split"),
        (["--tasks", "stories", "--model", "x", "--preset", "d3llm", "--threshold", "0.3"], "leaves nothing to tune"),
    ],
)
def test_mistakes_of_tuning(capsys, tmp_path, flags, message):
    assert message in run_fails(capsys, "tune", "--output", str(tmp_path / "out"), *flags)


def test_a_given_threshold_is_not_tried_again(tmp_path, tiny_checkpoint):
    flags = ["tune", "--model", str(tiny_checkpoint), "--tasks", "stories", "--limit", "2", "--max-new-tokens", "8"]
    flags += ["--preset", "d3llm", "--device", "cpu", "--threshold", "9", "--sweep", "block_size=4,8"]
    assert main([*flags, "--output", str(tmp_path), "--dry-run"]) == 0
    found = [(result["point"], result["decoding"]["threshold"]) for result in results_in(tmp_path)]
    assert sorted(found, key=str) == [({"block_size": 4}, 9), ({"block_size": 8}, 9)]


def test_block_sizes_are_tried_for_most_tokens_per_forward(tmp_path, tiny_checkpoint, capsys):
    flags = ["tune", "--model", str(tiny_checkpoint), "--tasks", "stories", "--limit", "2", "--max-new-tokens", "8"]
    flags += ["--preset", "d3llm", "--device", "cpu", "--early-stop", "false", "--sweep", "threshold=0.01,9"]
    assert main([*flags, "--objective", "tpf", "--output", str(tmp_path), "--dry-run"]) == 0
    points = {(point["block_size"], point["threshold"]) for point in (r["point"] for r in results_in(tmp_path))}
    assert points == {(size, threshold) for size in (8, 16, 32) for threshold in (0.01, 9)}
    assert "best by tpf: threshold=9, block_size=" in capsys.readouterr().out
