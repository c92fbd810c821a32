"""The commands, killed at every file operation: the next run leaves what an uninterrupted one does, no more."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import SafetensorError

from d3llm.commands.main import main
from d3llm.modeling import LLaDAModelLM
from d3llm.quickstart.teacher_recipe import load_recipe
from tests.helpers.kills import contents, every_kill


TIMES = {"seconds", "tokens_per_second"}
DECODING = ["--preset", "d3llm", "--max-new-tokens", "8", "--device", "cpu"]


def without_times(value: Any) -> Any:
    """Results but for how long they took."""
    if isinstance(value, dict):
        return {name: without_times(entry) for name, entry in value.items() if name not in TIMES}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, content in contents(folder).items():
        text = content.decode(errors="replace").replace(str(folder), "")
        if path.endswith(".jsonl"):
            found[path] = [without_times(json.loads(line)) for line in text.splitlines()]
        else:
            found[path] = without_times(json.loads(text)) if path.endswith(".json") else content
    return found


def generate(checkpoint: Path, folder: Path) -> list[str]:
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"one plus {word}"}) + "\n" for word in ("two", "three", "four")))
    return ["--model", str(checkpoint), "--input", str(prompts), "--output", str(folder / "out.jsonl"), *DECODING]


def evaluate(checkpoint: Path, folder: Path) -> list[str]:
    return ["--model", str(checkpoint), "--tasks", "stories", "--limit", "3", "--batch-size", "2"] + [
        *DECODING, "--output", str(folder / "out")
    ]  # fmt: skip


def tune(checkpoint: Path, folder: Path) -> list[str]:
    own = folder / "model"
    if not own.exists():
        shutil.copytree(checkpoint, own)
    return [*evaluate(own, folder), "--sweep", "threshold=0.2,0.5"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("generate", generate),
        pytest.param("eval", evaluate, marks=pytest.mark.slow),
        pytest.param("tune", tune, marks=pytest.mark.slow),
    ],
)
def test_a_command_goes_on_after_every_kill(tiny_checkpoint, tmp_path, name, arguments: Callable):
    def prepare(folder: Path) -> None:
        arguments(tiny_checkpoint, folder)

    def run(folder: Path) -> None:
        assert main([name, *arguments(tiny_checkpoint, folder)]) == 0

    whole = tmp_path / "whole"
    whole.mkdir()
    run(whole)
    expected = results(whole)
    for folder in every_kill(run, tmp_path, prepare, step=3 if name == "tune" else 1):
        run(folder)
        assert results(folder) == expected
        shutil.rmtree(folder)


@pytest.mark.parametrize("full", ["for the training state", "for the model"])
def test_a_full_disk_ends_the_training_of_a_teacher_in_one_line(tmp_path, capsys, monkeypatch, full):
    recipe = load_recipe()
    del recipe["copying_heads"]
    recipe["model"].update(d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=32)
    recipe["batch_size"] = dict.fromkeys(recipe["batch_size"], 2)
    recipe["optimizer"].update(max_steps=2, learning_rate_schedule=[[0, 1], [2, 0]])
    recipe["logging"].update(log_every=1, eval_every=2, eval_problems=1)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["quickstart", "train-teacher", "--recipe", str(tmp_path / "recipe.yaml"), "--output"]

    def no_room(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if full == "for the model":
            patch.setattr(LLaDAModelLM, "save_pretrained", no_room)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        try:
            assert main([*command, str(tmp_path / "out")]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert error.startswith(f"d3llm: error: Cannot write to {tmp_path / 'out'}: ")
    assert error.endswith("free some space, and continue with --resume.")
    assert not list(tmp_path.rglob(".*"))
    assert main([*command, str(tmp_path / "out"), "--resume"]) == 0
    assert (tmp_path / "out/model.safetensors").exists()
