"""What a training checks before it starts: weights, canvas, evaluation, and the run that its folder holds."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from d3llm.commands.main import main
from d3llm.modeling import LLaDAModelLM

from .trajectory_rows import make_trainer, random_trajectories


@pytest.fixture
def trajectories(tmp_path) -> Path:
    random_trajectories().to_parquet(str(tmp_path / "trajectories" / "part.parquet"))
    return tmp_path / "trajectories"


def distill(folder: Path, output: Path, *options: str) -> int:
    small = ["--use_cpu", "--report_to", "none", "--bf16", "false", "--disable_tqdm", "true", "--max_steps", "1"]
    small += ["--model_name_or_path", str(folder), "--output_dir", str(output), "--max_new_tokens", "24"]
    return main(["distill", *small, "--max_length", "64", *options])


def test_trained_weights_in_16_bits_need_a_copy_in_32(tiny_checkpoint, tmp_path):
    folder = tmp_path / "bfloat16"
    LLaDAModelLM.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16).save_pretrained(folder)
    with pytest.raises(ValueError, match="weights to train are bfloat16, in which small steps are rounded away"):
        make_trainer(folder, tmp_path, bf16=True)
    make_trainer(folder, tmp_path, bf16=True, peft_config=LoraConfig(r=4))
    trainer = make_trainer(tiny_checkpoint, tmp_path, bf16=True)
    trainer.model.bfloat16()
    trainer.is_deepspeed_enabled = True  # keeps the copy when it runs in mixed precision
    trainer._check_precision()
    trainer = make_trainer(tiny_checkpoint, tmp_path)
    trainer.model.half()
    trainer.is_deepspeed_enabled = True
    with pytest.raises(ValueError, match="weights to train are float16"):
        trainer._check_precision()


@pytest.mark.parametrize("recipe", ["d3llm_dream_coder", "llada_sft"])
def test_recipes_for_all_weights_reach_all_of_them(recipe, tiny_checkpoint, trajectories, tmp_path):
    """A step of 2e-6 is lost in bfloat16 on all but the smallest weights."""
    options = ["--config", recipe, "--trajectories", str(trajectories), "--learning_rate", "2e-6"]
    options += ["--warmup_steps", "0", "--gradient_accumulation_steps", "1", "--per_device_train_batch_size", "32"]
    assert distill(tiny_checkpoint, tmp_path / "student", "--lr_scheduler_type", "constant", *options) == 0
    before, after = (load_file(path / "model.safetensors") for path in (tiny_checkpoint, tmp_path / "student"))
    blocks = [name for name in before if "blocks" in name and name.endswith("weight")]
    changed = torch.cat([(before[name].to(after[name].dtype) != after[name]).flatten() for name in blocks])
    assert changed.float().mean() > 0.99


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("keep: Correct", "`keep` is 'Correct': expected one of correct, all"),
        ("held_out_check: nunber", "`held_out_check` is 'nunber': expected one of"),
        ("dtype: bf16", "`dtype` is 'bf16': expected one of auto, bfloat16, float16, float32"),
        ("layout: pair", "`layout` is 'pair': expected one of single, complementary"),
        ("eval_trajectories: -3", "`eval_trajectories` is -3: expected at least 0"),
        ("held_out_limit: 0", "`held_out_limit` is 0: expected at least 1"),
    ],
)
def test_a_recipe_is_held_against_the_choices_too(tiny_checkpoint, trajectories, tmp_path, capsys, recipe, message):
    (tmp_path / "own.yaml").write_text(recipe)
    options = ["--trajectories", str(trajectories), "--config", str(tmp_path / "own.yaml")]
    assert distill(tiny_checkpoint, tmp_path / "student", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "student").exists()


def test_a_canvas_that_does_not_fit_the_model_is_refused(tiny_checkpoint, trajectories, tmp_path, capsys):
    options = ["--trajectories", str(trajectories), "--config", "d3llm_llada"]
    for given, message in (
        (["--max_length", "384"], "`max_length` is 384, and the model has 128 positions for prompt and response"),
        (["--max_length", "128", "--max_new_tokens", "256"], "`max_new_tokens` is 256, which leaves no room"),
    ):
        assert distill(tiny_checkpoint, tmp_path / "student", *options, *given) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "the teacher's runs have --max_new_tokens 24." in error
    rows = random_trajectories(decode_config='{"mask_token_id": 1, "eos_token_id": [0]}')
    with pytest.raises(ValueError, match=r"in the 128 positions of .*: give less\.$"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=rows, max_new_tokens=128)
