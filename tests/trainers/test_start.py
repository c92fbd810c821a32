"""What a training checks before it starts: weights, canvas, evaluation, and the run that its folder holds."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoTokenizer
from trl import ModelConfig

from d3llm.commands.main import main
from d3llm.modeling import LLaDAModelLM
from d3llm.trainers.distill import RECIPES, TRAINERS, DistillArguments, parse_arguments, read_held_out, trainer_of
from d3llm.trainers.preflight import check_precision
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.pseudo_trajectory_trainer import HeldOutPrompts
from d3llm.trainers.training_plan import (
    ADAPTERS,
    PLAN_FILE,
    TRAINING_ARGUMENTS,
    WITHOUT_EFFECT,
    training_plan,
)
from d3llm.trajectories.fingerprints import rows_fingerprint
from tests.helpers.trajectory_rows import make_trainer, random_trajectories


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trajectories")
    random_trajectories().to_parquet(str(folder / "part.parquet"))
    return folder


def distill(folder: Path, output: Path, *options: str) -> int:
    small = ["--use_cpu", "--report_to", "none", "--bf16", "false", "--disable_tqdm", "true"]
    if "--max_steps" not in options:
        small += ["--max_steps", "1"]
    small += ["--model_name_or_path", str(folder), "--output_dir", str(output), "--max_new_tokens", "24"]
    return main(["distill", *small, "--max_length", "64", *options])


def test_trained_weights_in_16_bits_need_a_copy_in_32(tiny_checkpoint, tmp_path):
    folder = tmp_path / "bfloat16"
    LLaDAModelLM.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16).save_pretrained(folder)
    with pytest.raises(ValueError, match="weights to train are bfloat16, in which small steps are rounded away"):
        make_trainer(folder, tmp_path, bf16=True)
    make_trainer(folder, tmp_path, bf16=True, peft_config=LoraConfig(r=4))
    model = LLaDAModelLM.from_pretrained(tiny_checkpoint).half()
    check_precision(model, has_float32_copy=True)
    with pytest.raises(ValueError, match="weights to train are float16"):
        check_precision(model, has_float32_copy=False)


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
        ("keep: Correct", "`keep` is 'Correct': expected 'correct' or 'all'"),
        ("held_out_check: nunber", "`held_out_check` is 'nunber': expected 'boxed', 'hash'"),
        ("dtype: bf16", "`dtype` is 'bf16': expected 'auto', 'bfloat16', 'float16' or 'float32'"),
        ("layout: pair", "`layout` is 'pair': expected 'single' or 'complementary'"),
        ("eval_trajectories: -3", "`eval_trajectories` is -3: expected greater than or equal to 0"),
        ("held_out_limit: 0", "`held_out_limit` is 0: expected greater than or equal to 1"),
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
        (["--max_length", "384"], "`max_length` is 384, but the model has 128 positions for prompt and response"),
        (["--max_length", "128", "--max_new_tokens", "256"], "`max_new_tokens` is 256, more than the 128 positions"),
    ):
        assert distill(tiny_checkpoint, tmp_path / "student", *options, *given) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "the teacher's runs have --max_new_tokens 24." in error
    rows = random_trajectories(decode_config='{"mask_token_id": 1, "eos_token_id": [0]}')
    with pytest.raises(ValueError, match=r"more than the 128 positions of .*: give less\.$"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=rows, max_new_tokens=129)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tiny_checkpoint, trajectories, tmp_path_factory) -> Path:
    """A run of four steps, with a checkpoint after every second one."""
    folder = tmp_path_factory.mktemp("start") / "whole"
    options = ["--trajectories", str(trajectories), "--max_steps", "4", "--save_steps", "2"]
    assert distill(tiny_checkpoint, folder, *options, "--per_device_train_batch_size", "4") == 0
    return folder


@pytest.fixture
def half_done(whole, tmp_path) -> Path:
    """The first two steps of the `whole` run, as a machine leaves them that dies."""
    shutil.copytree(whole, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoint-4")
    (tmp_path / "half" / "model.safetensors").unlink()
    return tmp_path / "half"


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (
            ["--corruption", "block", "--window_sizes", "8", "--learning_rate", "1e-3"],
            ['corruption was "trajectory", is "block"', "is [8]", "learning_rate was 2e-05, is 0.001"],
        ),
        (["--keep", "all"], ["rows was 21, is 32", "trajectories was"]),
        (["--max_steps", "6"], ["max_steps was 4, is 6"]),
        (["--use_peft"], ["use_peft was false, is true"]),
        (["--per_device_train_batch_size", "8"], ["samples_per_step was 4, is 8"]),
        (["--model_name_or_path", "OTHER"], ["(model was"]),
    ],
)
def test_another_training_does_not_go_on(
    tiny_checkpoint, trajectories, half_done, tmp_path, capsys, options, messages
):
    if "OTHER" in options:
        other = LLaDAModelLM.from_pretrained(tiny_checkpoint)
        torch.nn.init.normal_(other.get_output_embeddings().weight)
        shutil.copytree(tiny_checkpoint, tmp_path / "other")
        other.save_pretrained(tmp_path / "other")
        options = [options[0], str(tmp_path / "other")]
    before = files_of(half_done)
    resume = ["--trajectories", str(trajectories), "--per_device_train_batch_size", "4", "--resume"]
    resume += ["--save_steps", "2"]
    if "--max_steps" not in options:
        resume += ["--max_steps", "4"]
    assert distill(tiny_checkpoint, half_done, *resume, *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "half holds another run (" in error
    assert all(message in error for message in messages), error
    assert files_of(half_done) == before


def test_what_leaves_the_weights_alone_may_change(tiny_checkpoint, trajectories, whole, half_done, tmp_path):
    moved = shutil.copytree(trajectories, tmp_path / "moved")
    options = ["--trajectories", str(moved), "--max_steps", "4", "--resume"]
    options += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]  # 4 samples a step, too
    options += ["--save_steps", "1", "--save_total_limit", "1", "--logging_steps", "1"]
    options += ["--run_name", "again", "--per_device_eval_batch_size", "2", "--activation_checkpointing", "true"]
    assert distill(tiny_checkpoint, half_done, *options) == 0
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, half_done))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_a_run_without_a_plan_goes_on_with_a_warning_and_a_damaged_plan_is_refused(
    tiny_checkpoint, trajectories, half_done, capsys, caplog
):
    options = ["--trajectories", str(trajectories), "--max_steps", "4", "--per_device_train_batch_size", "4"]
    (half_done / PLAN_FILE).write_text('{"max_st')
    assert distill(tiny_checkpoint, half_done, *options, "--resume") == 2
    assert f"{PLAN_FILE} is damaged" in capsys.readouterr().err
    (half_done / PLAN_FILE).unlink()
    with caplog.at_level("WARNING", logger="d3llm"):
        assert distill(tiny_checkpoint, half_done, *options, "--resume") == 0
    assert f"has no {PLAN_FILE}" in caplog.text


@pytest.mark.parametrize("adapters", [[], ["--use_peft", "--lora_r", "2"]])
def test_a_finished_training_is_not_overwritten(tiny_checkpoint, trajectories, tmp_path, capsys, adapters):
    options = ["--trajectories", str(trajectories), "--save_strategy", "no", *adapters]
    # with nothing there, both start
    for folder, resume in ((tmp_path / "student", []), (tmp_path / "resumed", ["--resume"])):
        assert distill(tiny_checkpoint, folder, *options, *resume) == 0
        before = files_of(folder)
        for again in ([], ["--resume"]):
            assert distill(tiny_checkpoint, folder, *options, *again) == 2
            said = f"{folder.name} holds a model, but no complete checkpoint to resume from"
            assert said in capsys.readouterr().err
            assert files_of(folder) == before


def test_a_folder_of_trajectories_and_a_file_are_not_trained_into(tiny_checkpoint, tmp_path, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    for options in (["--trajectories", str(folder)], ["--rounds", "1", "--prompts", str(folder), "--keep", "all"]):
        assert distill(tiny_checkpoint, folder, *options) == 2
        assert "out holds trajectories: choose another --output_dir" in capsys.readouterr().err
        assert distill(tiny_checkpoint, folder / "plan.json", *options) == 2
        assert "plan.json is not a folder" in capsys.readouterr().err
    assert files_of(folder).keys() == {"plan.json"}


def test_the_plan_holds_all_of_a_recipe(tiny_checkpoint):
    """But what a training starts from, which is there by its content, and what is only about how it is computed."""
    elsewhere = {
        "model_name_or_path",
        "teacher_name_or_path",
        "dtype",
        "trust_remote_code",
        "activation_checkpointing",
    }
    elsewhere |= {"per_device_train_batch_size", "gradient_accumulation_steps"}  # `samples_per_step`
    model = LLaDAModelLM.from_pretrained(tiny_checkpoint)
    for path in RECIPES.glob("*.yaml"):
        if trainer_of(["--config", path.stem]) != TRAINERS[0]:
            continue  # another trainer has a plan of its own
        _, args, model_args = parse_arguments(["--config", path.stem, "--use_cpu", "--report_to", "none"])
        plan = training_plan(args, model_args, model, None, random_trajectories(4))
        assert yaml.safe_load(path.read_text()).keys() - elsewhere <= plan.keys(), path
    own = set(PseudoTrajectoryConfig.__annotations__)
    assert own > WITHOUT_EFFECT
    others = {field.name for field in fields(PseudoTrajectoryConfig)} - own
    assert set(TRAINING_ARGUMENTS) - others == {"weight_decay"}  # which the other trainers' configs do not declare
    assert set(ADAPTERS) < {field.name for field in fields(ModelConfig)}


def test_the_fingerprint_of_rows_is_of_what_the_student_sees():
    dataset = random_trajectories(8)
    first = rows_fingerprint(dataset)
    assert rows_fingerprint(random_trajectories(9).select(range(8))) == first
    assert rows_fingerprint(dataset.select(range(7))) != first
    for column in ("prompt_ids", "response_ids", "commit_steps", "tail_steps"):
        rows = dataset.to_list()
        rows[2][column] = [*rows[2][column], 3]
        assert rows_fingerprint(Dataset.from_list(rows, features=dataset.features)) != first, column
        rows = dataset.to_list()
        rows[2][column], rows[3][column] = rows[2][column][:-1], rows[2][column][-1:] + rows[3][column]
        assert rows_fingerprint(Dataset.from_list(rows, features=dataset.features)) != first, column


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--held_out", "problems.jsonl"], "--held_out is for evaluations, but there are none: give --eval_strategy"),
        (["--eval_trajectories", "4"], "--eval_trajectories is for evaluations, but there are none"),
        (["--held_out", "x.jsonl", "--eval_strategy", "epoch"], "give --eval_trajectories 100, too"),
        (["--eval_generation_kwargs", '{"preset": "d3llm"}'], "is for the problems of --held_out"),
        (
            ["--eval_generation_kwargs", "d3llm"],
            "`eval_generation_kwargs` is 'd3llm': expected a valid dictionary",
        ),
    ],
)
def test_an_evaluation_that_would_not_take_place_is_refused(
    tiny_checkpoint, trajectories, tmp_path, capsys, options, message
):
    assert distill(tiny_checkpoint, tmp_path / "student", "--trajectories", str(trajectories), *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompts", "fields", "message"),
    [
        (["one"], {"treshold": 0.3}, "unknown generation field `treshold`"),
        (["one"], {"batch_size": 3}, "unknown generation field `batch_size`"),
        (["one"], {"preset": "d4llm"}, "'d4llm'"),
        (["one"], {"num_return_sequences": 2}, "must be 1"),
        (["one", "one " * 120], {"max_new_tokens": 16}, "exceed the 128 positions"),
        ([], {}, "`prompts` is empty"),
    ],
)
def test_what_an_evaluation_would_stumble_over_is_refused_first(tiny_checkpoint, tmp_path, prompts, fields, message):
    options = {"eval_dataset": random_trajectories(4), "eval_generation_kwargs": fields}
    held_out = HeldOutPrompts(prompts, lambda index, text: True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_checkpoint, tmp_path, processing_class=tokenizer, held_out=held_out, **options)
    (tmp_path / "bare").mkdir()
    LLaDAModelLM.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="give a `processing_class`"):
        make_trainer(tmp_path / "bare", tmp_path, held_out=held_out, **options)


def test_held_out_problems_may_be_in_a_configuration(tiny_checkpoint, tmp_path):
    folder = tmp_path / "gsm"
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/test.jsonl\n" for name in ("main", "socratic"))
    for name, question in (("main", "one plus one"), ("socratic", "two plus two")):
        (folder / name).mkdir(parents=True)
        (folder / name / "test.jsonl").write_text(json.dumps({"question": question, "answer": "2"}) + "\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    arguments = DistillArguments(held_out_config="socratic", held_out_split="train")
    held_out = read_held_out(str(folder), arguments, tokenizer)
    assert "two plus two" in tokenizer.decode(held_out.prompts[0])


def test_a_report_that_is_not_installed_is_named(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("d3llm.trainers.argument_checks.get_available_reporting_integrations", lambda: ["wandb"])
    with pytest.raises(ValueError, match=r"tensorboard, not installed here: pip install 'd3llm\[tensorboard\]'"):
        make_trainer(tiny_checkpoint, tmp_path, report_to=["wandb", "tensorboard"])


def test_adapters_start_from_the_seed(tiny_checkpoint, tmp_path):
    def adapters(seed):
        torch.manual_seed(torch.seed() % 1000)  # whatever came before
        trainer = make_trainer(tiny_checkpoint, tmp_path, seed=seed, peft_config=LoraConfig(r=4))
        return torch.cat([p.flatten() for name, p in trainer.model.named_parameters() if "lora_A" in name])

    assert torch.equal(adapters(1), adapters(1)) and not torch.equal(adapters(1), adapters(2))


def test_a_recipe_may_state_the_default_trainer(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("trainer: pseudo_trajectory\nlayout: single\n")
    assert trainer_of(["--config", str(recipe)]) == TRAINERS[0]
    arguments, args, _ = parse_arguments(["--config", str(recipe), "--use_cpu", "--report_to", "none"])
    assert (arguments.trainer, args.layout) == (TRAINERS[0], "single")
