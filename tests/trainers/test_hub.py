"""A training that pushes to the Hub sends what `d3llm push model` would: whole, described, without pickles."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

from d3llm.commands.main import main
from d3llm.hub_cards.push_checks import card_metadata
from tests.helpers.hub import Fault
from tests.helpers.trajectory_rows import make_trainer, random_trajectories


@pytest.fixture(autouse=True)
def every_client_talks_to_it(monkeypatch, hub):
    """The Trainer's own client too, which makes the repository and is kept for the whole process."""
    monkeypatch.setattr(HfApi, "endpoint", property(lambda self: hub.url, lambda self, value: None), raising=False)
    monkeypatch.setenv("HF_TOKEN", hub.token)


def distill(model: Path, work: Path, *options: str) -> int:
    random_trajectories().to_parquet(str(work / "trajectories" / "part.parquet"))
    arguments = (
        *("--model_name_or_path", str(model), "--output_dir", str(work / "student")),
        *("--trajectories", str(work / "trajectories"), "--config", "d3llm_llada", "--dtype", "float32"),
        *("--max_steps", "2", "--save_steps", "1", "--per_device_train_batch_size", "4", "--max_new_tokens", "24"),
        *("--max_length", "64"),
        *("--report_to", "none", "--use_cpu", "--bf16", "false", "--push_to_hub", "--hub_model_id", "ada/student"),
    )
    return main(["distill", *arguments, *options])


def downloaded(hub, folder: Path) -> Path:
    for path, content in hub.repository("ada/student").head.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def test_each_checkpoint_and_the_end_are_pushed_whole(hub, tiny_checkpoint, tmp_path, caplog):
    hub.faults = [Fault("POST", r"/commit/", 403)]  # the first push is refused; the training goes on
    assert distill(tiny_checkpoint, tmp_path, "--use_peft", "false") == 0
    assert "Step 1 is not on the Hub: Nothing was changed in ada/student" in caplog.text
    titles = [commit.title for commit in hub.repository("ada/student").commits]
    assert titles == ["initial commit", "Training in progress, step 2"]  # the end has nothing to add to it
    folder = downloaded(hub, tmp_path / "download")
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"modeling_llada.py", "generation_config.json", "tokenizer.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    assert "training_plan.json" not in names
    ours, theirs = (load_file(place / "model.safetensors") for place in (tmp_path / "student", folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    text = (folder / "README.md").read_text()
    assert "d3llm_llada" in card_metadata(text)["tags"]
    assert "# student\n" in text
    assert "- Teacher: tiny." in text
    assert "- Trajectories: trajectories." in text
    assert "| steps | 2 |" in text


def test_a_push_that_is_refused_at_the_end_is_not_called_a_full_disk(hub, tiny_checkpoint, tmp_path, capsys):
    hub.faults = [Fault("POST", r"/commit/", 403, times=99)]
    assert distill(tiny_checkpoint, tmp_path, "--use_peft", "false", "--save_strategy", "no") == 2
    printed = capsys.readouterr().err
    assert "d3llm: error: Nothing was changed in ada/student: the token may not write there" in printed
    assert "Cannot write" not in printed
    assert (tmp_path / "student" / "model.safetensors").is_file()


def test_adapters_are_pushed_merged(hub, tiny_checkpoint, tmp_path):
    assert distill(tiny_checkpoint, tmp_path, "--lora_r", "4") == 0
    folder = downloaded(hub, tmp_path / "download")
    assert not (folder / "adapter_config.json").exists()
    merged, theirs = (load_file(place / "model.safetensors") for place in (tmp_path / "student" / "merged", folder))
    assert merged.keys() == theirs.keys()
    assert all(torch.allclose(merged[name], theirs[name]) for name in merged)
    assert "| lora_rank | 4 |" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hub_strategy": "checkpoint"}, "optimizer's state, which is a pickle: use 'end' or 'every_save'"),
        ({"hub_revision": "draft"}, "a push goes to the main branch"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_training(tiny_checkpoint, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_checkpoint, tmp_path, push_to_hub=True, **options)
