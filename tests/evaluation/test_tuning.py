"""`d3llm tune`: which point is chosen, what is written; and which file of data is whose."""

import argparse
import json
from pathlib import Path

import pytest

from d3llm.commands.eval import data_files
from d3llm.commands.main import build_parser
from d3llm.commands.tune import DEFAULT_SWEEPS, with_default_sweeps, write_fields
from d3llm.evaluation.tasks import TASKS
from d3llm.evaluation.tuning import choose_point
from tests.helpers.results import measured


def test_curves_are_compared_by_the_best_accuracy_of_all():
    """A curve that is far below the best one known must be a good deal more parallel to win."""
    accurate = measured(80, 3.0, point={"threshold": 0.1})
    parallel = measured(40, 4.5, point={"threshold": 0.1, "block_size": 8})
    faster = measured(40, 9.0, point={"threshold": 0.5, "block_size": 8})
    # with a y_max of its own the second would have the area 40 * 9, more than 80 * 3
    assert choose_point([accurate, parallel, faster], "aup", max_loss=50.0) is accurate


def config_of(folder: Path) -> dict:
    return json.loads((folder / "generation_config.json").read_text())


def test_a_new_preset_takes_the_place_of_the_method_that_was_there(tmp_path):
    before = {"preset": "llada", "block_size": 16, "steps": 8, "max_new_tokens": 7, "eos_token_id": 0}
    (tmp_path / "generation_config.json").write_text(json.dumps(before))
    write_fields(tmp_path, {"preset": "d3llm", "threshold": 0.4})
    found = config_of(tmp_path)
    assert (found["preset"], found["threshold"], found["max_new_tokens"], found["eos_token_id"]) == (
        "d3llm",
        0.4,
        7,
        0,
    )
    assert not {"block_size", "steps"} & found.keys()
    write_fields(tmp_path, {"threshold": 0.6})  # without one, all else stays
    assert config_of(tmp_path) == {**found, "threshold": 0.6}


@pytest.mark.parametrize("given", [["gsm8k_cot=own.jsonl", "all.jsonl"], ["all.jsonl", "gsm8k_cot=own.jsonl"]])
def test_a_task_with_a_file_of_its_own_does_not_take_that_of_all(given):
    tasks = [TASKS["gsm8k_cot"], TASKS["gsm8k_long"]]
    files = data_files(argparse.Namespace(data=given), tasks)
    assert files == {"gsm8k_cot": Path("own.jsonl"), "gsm8k_long": Path("all.jsonl")}


def test_most_tokens_per_forward_within_the_loss():
    points = [
        measured(80, 3.0, point={"block_size": 32, "threshold": 0.1}),
        measured(79, 6.0, point={"block_size": 32, "threshold": 0.5}),
        measured(79, 7.0, point={"block_size": 16, "threshold": 0.5}),
        measured(78, 9.0, point={"block_size": 16, "threshold": 0.9}),
    ]
    assert choose_point(points, "tpf", max_loss=1.0) is points[2]
    assert choose_point(points, "tpf", max_loss=2.0) is points[3]
    assert choose_point(points, "tpf", max_loss=0.5) is points[0]


@pytest.mark.parametrize(
    ("flags", "sweeps"),
    [
        (["--objective", "tpf"], ["block_size=8,16,32", DEFAULT_SWEEPS["entropy"]]),
        (["--objective", "tpf", "--block-size", "8"], [DEFAULT_SWEEPS["entropy"]]),
        (["--objective", "tpf", "--sweep", "block-size=4,8"], ["block-size=4,8", DEFAULT_SWEEPS["entropy"]]),
        (["--objective", "tpf", "--sweep", "threshold=0.3"], ["threshold=0.3", "block_size=8,16,32"]),
        (["--objective", "aup"], [DEFAULT_SWEEPS["entropy"]]),
        (["--preset", "fast_dllm", "--objective", "tps"], [DEFAULT_SWEEPS["probability"]]),
    ],
)
def test_what_is_tried_by_default(tmp_path, flags, sweeps):
    (tmp_path / "generation_config.json").write_text(json.dumps({"preset": "d3llm"}))
    given = ["tune", "--model", str(tmp_path), "--tasks", "stories", "--output", "x", *flags]
    args, fields = build_parser().parse_known_args(given)
    args.fields = fields
    assert with_default_sweeps(args) == sweeps
