"""Each shipped recipe builds its masks and losses on a tiny model; the command line around them."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import PreTrainedModel
from trl import get_peft_config

from d3llm.commands.main import main
from d3llm.hub_cards import ModelFacts, read_facts
from d3llm.modeling import (
    DreamModel,
    Fast_dLLM_QwenForCausalLM,
    LLaDA2MoeModelLM,
    LLaDAModelLM,
    SDARForCausalLM,
)
from d3llm.trainers.distill import (
    RECIPES,
    TRAINERS,
    DistillArguments,
    card_facts,
    last_checkpoint,
    parse_arguments,
    split_recipe,
    split_trajectories,
    trainer_of,
)
from d3llm.trainers.preflight import check_canvas
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from tests.helpers.models import OF_WORDS, tiny_model
from tests.helpers.trajectory_rows import random_trajectories


NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml") if trainer_of(["--config", path.stem]) == TRAINERS[0])
SMALL = ["--use_cpu", "--report_to", "none", "--max_new_tokens", "24", "--max_length", "64", "--bf16", "false"]
SMALL += ["--disable_tqdm", "true", "--activation_checkpointing", "false"]


# The published values, one column a recipe, from the code and papers that the recipes name; `...` where none is known.
# The factor of d3LLM's loss is a constant 1/4 in each of its recipes, which for Dream makes up for a division by the 4
# micro-batches that is missing there.
COLUMNS = ("d3llm_llada", "d3llm_dream", "d3llm_dream_coder", "dparallel_llada", "dparallel_dream", "llada_sft", "tad")
PUBLISHED = {
    "num_train_epochs": (6, 3, 3, 6, 3, 3, 1),
    "learning_rate": (2e-5, 2e-5, 2e-6, 2e-5, 2e-5, 2.5e-5, 2e-5),
    "lr_scheduler_type": ("constant", "cosine", "cosine", ..., ..., "constant_with_warmup", ...),
    "warmup_steps": (0, 0.05, 0.05, ..., ..., 50, ...),
    "weight_decay": (0.01, 0.01, 0.01, ..., ..., 0.1, ...),
    "max_grad_norm": (1.0, 1.0, 1.0, ..., ..., ..., ...),
    "per_device_train_batch_size": (4, 4, 4, 1, 1, 2, 4),
    "gradient_accumulation_steps": (4, 4, 4, 8, 8, 32, 8),
    "use_peft": (True, True, False, True, True, False, True),
    "lora_r": (256, 256, ..., 128, 32, ..., 128),
    "lora_alpha": (256, 256, ..., ..., ..., ..., 128),
    "lora_dropout": (0.0, 0.0, ..., ..., ..., ..., 0.05),
    "max_new_tokens": (256, 256, 512, ..., ..., ..., ...),
    "max_length": (384, 512, 1000, ..., ..., ..., ...),
    "corruption": ("trajectory", "trajectory", "trajectory", "block", "block", "random", "trajectory"),
    "layout": ("complementary", "complementary", "single", "complementary", "complementary", "single", "single"),
    "min_mask_ratio": (0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0),
    "max_mask_ratio": (0.8, 0.8, 0.8, 0.5, 0.5, 1.0, 1.0),
    "raise_mask_ratio": (True, True, True, False, False, False, False),
    "window_sizes": ([16, 16, 24, 24, 32, 32], [16, 24, 32], [16, 24, 32], [32], [32], ..., [256]),
    "eos_tail": (..., ..., ..., ..., ..., 256, ...),
    "entropy_weight": (2.0, 1.0, 1.0, 2.0, 2.0, 0.0, 0.0),
    "entropy_temperature": (0.5, 0.5, 0.5, 0.5, 0.5, ..., ...),
    "complementary_entropy": (False, True, False, True, True, False, False),
    "kl_weight": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "near_forwards": (..., ..., ..., ..., ..., ..., 8),
    "loss_weighting": (*["uniform"] * 5, "inverse_ratio", "uniform"),
    "loss_scale": (0.25, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
}
# Those of block-causal models. d3LLM's own recipe for SDAR is not published: it is that for LLaDA without the 1/4.
FOR_BLOCKS = {
    "d3llm_sdar": {
        **{field: values[0] for field, values in PUBLISHED.items()},
        "max_length": 512,
        "loss_scale": 1.0,
        "attention_block_sizes": None,
        "block_context": "clean",
    },
    "t3d": {
        "corruption": "trajectory",
        "layout": "single",
        "min_mask_ratio": 1.0,
        "max_mask_ratio": 1.0,
        "raise_mask_ratio": False,
        "window_sizes": [1024],
        "max_new_tokens": 1024,
        "max_length": 1536,
        "attention_block_sizes": [8],
        "block_context": "clean",
        "eos_tail": 2,
        "entropy_weight": 0.0,
        "ddo_beta": 0.1,
        "ddo_fake_weight": 0.5,
        "ddo_weight": 5.0,
        "loss_scale": 0.2,
        "kl_weight": 0.0,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "num_train_epochs": 10,
        "use_peft": False,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 32,
    },
    "fast_dllm_v2": {
        "corruption": "random",
        "layout": "complementary",
        "min_mask_ratio": 0.0,
        "max_mask_ratio": 1.0,
        "raise_mask_ratio": False,
        "block_ratios": "independent",
        "block_context": "clean",
        "attention_block_sizes": [1, 4, 8, 16, 32],
        "loss_weighting": "uniform",
        "entropy_weight": 0.0,
        "learning_rate": 2e-5,
        "kl_weight": 0.0,
        "use_peft": False,
    },
    "oput": {
        "corruption": "random",
        "layout": "single",
        "min_mask_ratio": 0.75,
        "max_mask_ratio": 0.75,
        "raise_mask_ratio": False,
        "block_context": "clean",
        "max_new_tokens": 2048,
        "max_length": 2048,
        "eos_tail": 32,
        "entropy_weight": 0.0,
        "own_prediction_weight": 1.0,
        "loss_scale": 0.5,
        "num_train_epochs": 2,
        "learning_rate": 2e-6,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 4,
        "use_peft": False,
    },
    "d2f": {
        "corruption": "random",
        "layout": "single",
        "min_mask_ratio": 0.2,
        "max_mask_ratio": 0.7,
        "raise_mask_ratio": False,
        "block_ratios": "rising",
        "block_context": "noisy",
        "use_peft": True,
        "attention_block_sizes": [16],
        "loss_weighting": "inverse_ratio",
        "entropy_weight": 0.0,
        "kl_weight": 1.0,
        "near_forwards": 0,
        "max_steps": 50000,
        "learning_rate": 1e-5,
        "eos_tail": 256,
    },
}
# Those that are this package's own, and one whose paper has no code.
OWN = {
    "trims": {
        "corruption": "trajectory",
        "layout": "single",
        "min_mask_ratio": 0.0,
        "max_mask_ratio": 1.0,
        "raise_mask_ratio": False,
        "max_new_tokens": 1024,
        "max_length": 1024,
        "window_sizes": [1024],
        "eos_tail": 0,
        "mask_noise": 0.05,
        "entropy_weight": 0.0,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 4,
        "use_peft": True,
        "lora_r": 32,
    },
    "foresight": {
        "max_new_tokens": 256,
        "corruption": "trajectory",
        "layout": "single",
        "min_mask_ratio": 0.0,
        "max_mask_ratio": 1.0,
        "raise_mask_ratio": False,
        "window_sizes": [32],
        "entropy_weight": 0.0,
        "order_weight": 1.0,
        "next_commits": 8,
        "num_train_epochs": 1,
        "learning_rate": 2e-5,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "use_peft": True,
        "lora_r": 128,
        "lora_alpha": 128,
        "lora_dropout": 0.0,
    },
}
OWN["on_policy"] = {
    "corruption": "state",
    "layout": "single",
    "eos_tail": 16,
    "full_mask_share": None,
    "entropy_weight": 1.0,
    "entropy_temperature": 0.5,
    "max_steps": 72,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "per_device_train_batch_size": 48,
    "use_peft": False,
}
# What a recipe says beside them: the model, and how it is held in memory.
OTHER_FIELDS = {"model_name_or_path", "dtype", "bf16", "trust_remote_code", "activation_checkpointing"}
OTHER_FIELDS |= {"teacher_name_or_path"}


@cache
def parsed(name: str) -> tuple[Any, ...]:
    """The arguments of a recipe; no test changes them."""
    return parse_arguments(["--config", name, "--output_dir", "out", "--use_cpu", "--report_to", "none"])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_published_values(name):
    groups = parsed(name)
    others = FOR_BLOCKS | OWN
    if name in others:
        published = others[name]
    else:
        published = {field: values[COLUMNS.index(name)] for field, values in PUBLISHED.items()}
    published = {field: value for field, value in published.items() if value is not ...}
    found = {field: getattr(group, field) for field in published for group in groups if hasattr(group, field)}
    assert found == published
    fields = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert fields.keys() <= PUBLISHED.keys() | others.get(name, {}).keys() | OTHER_FIELDS


def published_loss(name: str, sums: dict[str, torch.Tensor], window_positions: int) -> torch.Tensor:
    """The loss of each recipe, in the terms of its paper."""

    def mean(part: str, count: str) -> torch.Tensor:
        return sums[part] / sums[count]

    if name == "llada_sft":
        return sums["cross_entropy"] / window_positions
    if name == "d2f":
        return mean("divergence", "far")
    near = mean("cross_entropy", "masked")
    if name == "tad":
        return near + mean("divergence", "far")
    if name == "t3d":
        return mean("discriminative", "rows") + 0.2 * near
    if name == "foresight":
        return near + mean("order", "masked")
    if name == "oput":
        return (near + mean("own_cross_entropy", "own_masked")) / 2
    if name == "trims":
        return near
    certainty = mean("certainty", "masked")
    if name in ("d3llm_dream_coder", "on_policy"):
        return near + certainty
    near = near + mean("complementary_cross_entropy", "complementary_masked")
    if name == "fast_dllm_v2":
        return near
    if name in ("d3llm_llada", "d3llm_sdar"):
        return (near + 2 * certainty) / (4 if name == "d3llm_llada" else 1)
    certainty = certainty + mean("complementary_certainty", "complementary_masked")
    return near + (1 if name == "d3llm_dream" else 2) * certainty


def student_of(name: str | None, folder: Path) -> PreTrainedModel:
    families = {"Dream": DreamModel, "SDAR": SDARForCausalLM, "Fast_dLLM": Fast_dLLM_QwenForCausalLM}
    families["LLaDA2"] = LLaDA2MoeModelLM
    for part, family in families.items():
        if name is not None and part in name:
            return tiny_model(family, **OF_WORDS, kv_heads=1)
    return LLaDAModelLM.from_pretrained(folder)


def test_the_published_methods_are_there():
    assert [
        *("d2f", "d3llm_dream", "d3llm_dream_coder", "d3llm_llada", "d3llm_sdar", "dparallel_dream"),
        *("dparallel_llada", "fast_dllm_v2", "foresight", "llada_sft", "on_policy", "oput", "t3d", "tad", "trims"),
    ] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_canvas_of_a_recipe_is_one_that_can_be_trained(name):
    args = parsed(name)[1]
    check_canvas(args, args.max_length, {})


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_builds_its_masks_and_losses(name, tiny_checkpoint, tmp_path):
    arguments, args, model_args = parse_arguments(
        ["--config", name, "--output_dir", str(tmp_path), "--max_steps", "2", "--lora_r", "4", "--logging_steps", "1"]
        + ["--gradient_accumulation_steps", "2", *SMALL]
    )
    model = student_of(model_args.model_name_or_path, tiny_checkpoint)
    named = arguments.teacher_name_or_path
    teacher = None if named is None else student_of(named, tiny_checkpoint)
    trainer = PseudoTrajectoryTrainer(
        model, args, train_dataset=random_trajectories(), peft_config=get_peft_config(model_args), teacher=teacher
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(16)])
    corruption = trainer.corrupt(batch, step=0, progress=1.0)
    trainer.add_targets(batch, corruption)
    loss, sums = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    size = corruption.end - corruption.start
    torch.testing.assert_close(loss, published_loss(name, sums, int(size.sum())))
    if args.entropy_weight:  # no term of the loss is empty
        assert sums["certainty"] > 0 and (args.layout == "single" or sums["complementary_certainty"] > 0)
    supervised = corruption.supervised.sum(dim=2)
    if name == "llada_sft":
        assert len(supervised) == 1
        assert (corruption.end == batch["canvas_lengths"]).sum() >= 14  # all but those without EOS
    elif name == "trims":
        exact = (corruption.ratio * size + 0.5).floor()
        assert 0 < (supervised[0] - exact).abs().sum() < 0.2 * size.sum()
    elif args.corruption != "random":
        assert (supervised[0] == (corruption.ratio * size + 0.5).floor()).all()
    if name.startswith("dparallel"):
        assert (corruption.ratio == 0.5).all()
    if name.startswith("d3llm"):
        assert (corruption.ratio == 0.8).all()
    if name == "tad":
        assert (corruption.end == batch["response_lengths"]).all()
        assert sums["far"] > 0
    if name == "d2f":
        assert sums["masked"] == 0 and sums["far"] == supervised.sum()
    if name == "oput":
        assert (corruption.ratio == 0.75).all() and sums["own_masked"] == supervised.sum()
    if name == "foresight":
        assert sums["order"] > 0 and 0 < sums["next"] < supervised.sum()
    if name == "on_policy":
        assert (corruption.ratio == 1).any() and (corruption.ratio < 1).any()
    single = ("d3llm_dream_coder", "llada_sft", "tad", "t3d", "d2f", "foresight", "on_policy", "oput", "trims")
    assert ("blocks" in batch) == (name in FOR_BLOCKS)
    assert (len(supervised) == 2) == (name not in single)
    trainer.train()
    assert all(0 < entry["loss"] < 1e4 for entry in trainer.state.log_history if "loss" in entry)


def test_a_recipe_names_only_fields_that_exist():
    for name in NAMES:
        fields = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        for field, value in fields.items():
            found = [getattr(group, field) for group in parsed(name) if hasattr(group, field)]
            assert found == [value], (name, field)


def test_wrong_answers_are_left_out_and_the_last_rows_held_out():
    rows = random_trajectories(9)
    assert list(rows["correct"]) == [False, True, True] * 3
    train, held_out = split_trajectories(rows, DistillArguments(eval_trajectories=2))
    assert list(train["id"]) == [f"random/{index}" for index in (1, 2, 4, 5)]
    assert list(held_out["id"]) == ["random/7", "random/8"]
    assert len(split_trajectories(rows, DistillArguments(keep="all"))[0]) == 9
    unjudged = random_trajectories(3, correct=None)
    assert len(split_trajectories(unjudged, DistillArguments())[0]) == 3
    with pytest.raises(ValueError, match=r"No trajectory in .* has a correct answer: .*--keep all"):
        split_trajectories(random_trajectories(3, correct=False), DistillArguments())
    with pytest.raises(ValueError, match="leaves no rows to train on: there are 6"):
        split_trajectories(rows, DistillArguments(eval_trajectories=6))


@pytest.fixture
def trajectories(tmp_path) -> Path:
    random_trajectories().to_parquet(str(tmp_path / "trajectories" / "part.parquet"))
    return tmp_path / "trajectories"


def distill(folder: Path, output: Path, *options: str) -> int:
    return main(["distill", "--model_name_or_path", str(folder), "--output_dir", str(output), *SMALL, *options])


def test_command_trains_stops_and_goes_on(tiny_checkpoint, trajectories, tmp_path, capsys):
    options = ["--trajectories", str(trajectories), "--keep", "all", "--save_steps", "2", "--logging_steps", "1"]
    broken = tmp_path / "broken"
    assert distill(tiny_checkpoint, broken, "--max_steps", "4", *options) == 0
    whole = load_file(broken / "model.safetensors")
    (broken / "checkpoint-4" / "trainer_state.json").write_text('{"log_his')  # killed while it was written
    (broken / "model.safetensors").unlink()
    assert last_checkpoint(str(broken)) == broken / "checkpoint-2"
    assert distill(tiny_checkpoint, broken, "--max_steps", "4", *options) == 2
    assert "holds a run: resume it (--resume)" in capsys.readouterr().err
    assert distill(tiny_checkpoint, broken, "--max_steps", "4", "--resume", *options) == 0
    resumed = load_file(broken / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert LLaDAModelLM.from_pretrained(broken).generate(torch.tensor([[3, 4]]), max_new_tokens=8).shape == (1, 10)


def test_command_decodes_held_out_problems_and_saves_adapters_merged(tiny_checkpoint, trajectories, tmp_path):
    output = tmp_path / "student"
    held_out = tmp_path / "problems.jsonl"
    held_out.write_text('{"question": "one plus one", "answer": "2"}\n{"question": "is", "answer": "3"}\n')
    code = distill(
        tiny_checkpoint,
        output,
        *("--trajectories", str(trajectories), "--max_steps", "2", "--use_peft", "--lora_r", "4"),
        *("--eval_trajectories", "4", "--eval_strategy", "steps", "--eval_steps", "2", "--held_out", str(held_out)),
        *("--held_out_split", "train", "--eval_generation_kwargs", '{"max_new_tokens": 8}'),
    )
    assert code == 0
    state = json.loads((output / "trainer_state.json").read_text())
    assert any("eval_tokens_per_forward" in entry for entry in state["log_history"])
    assert (output / "adapter_config.json").is_file()
    assert (output / "merged" / "tokenizer.json").is_file()
    merged = LLaDAModelLM.from_pretrained(output / "merged")
    facts = read_facts(ModelFacts, output / "merged" / "model_facts.json")
    assert facts.parameters == merged.num_parameters()
    assert facts.trajectories == "trajectories"
    assert main(["push", "model", "--dry-run", str(output / "merged"), "ada/merged"]) == 0


def test_the_model_of_the_divergence_has_the_token_ids_of_the_student(tiny_checkpoint, trajectories, tmp_path, capsys):
    options = ["--trajectories", str(trajectories), "--max_steps", "1", "--save_strategy", "no", "--layout", "single"]
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    options += ["--teacher_name_or_path", str(other)]
    assert distill(tiny_checkpoint, tmp_path / "a", *options) == 2
    assert "--teacher_name_or_path is for recipes with `kl_weight`, which is 0" in capsys.readouterr().err
    assert distill(tiny_checkpoint, tmp_path / "a", "--kl_weight", "1", *options) == 0
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    vocab = vocabulary["model"]["vocab"]
    vocab["six"], vocab["seven"] = vocab["seven"], vocab["six"]
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert distill(tiny_checkpoint, tmp_path / "b", "--kl_weight", "1", *options) == 2
    assert "other has other token ids than the student (2 differ, for example 'seven')" in capsys.readouterr().err


def test_a_recipe_is_named_in_either_way(tiny_checkpoint):
    assert split_recipe(["--seed", "1", "--config", "a", "--bf16"]) == ("a", ["--seed", "1", "--bf16"])
    assert split_recipe(["--seed", "1", "--config=a", "--bf16"]) == ("a", ["--seed", "1", "--bf16"])
    assert split_recipe(["--seed", "1"]) == (None, ["--seed", "1"])
    _, args, _ = parse_arguments(["--config=d3llm_dream", "--output_dir", "out", "--use_cpu", "--num_train_epochs=5"])
    assert (args.window_sizes, args.num_train_epochs) == ([16, 24, 32], 5)
    assert card_facts("tiny", ["--config=recipes/own.yaml"])["recipe"] == "own"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config"], "Which recipe? --config needs"),
        (["--config=nobody"], "No recipe nobody"),
        (["--config", "nobody"], "No recipe nobody: give a YAML file or one of d2f, d3llm_dream"),
        (["--window_size", "3"], "see `d3llm distill --help`"),
        (["--corruption", "blocks"], "`corruption` is 'blocks': expected 'trajectory', 'block', 'state' or 'random'"),
        ([], "Which trajectories?"),
        (
            ["--trajectories", "x", "--held_out", "y", "--held_out_check", "code"],
            "allow it with --allow_code_execution",
        ),
        (["--trajectories", "/nowhere"], "There is no file or folder /nowhere"),
    ],
)
def test_command_refuses_in_one_line(tiny_checkpoint, tmp_path, capsys, options, message):
    assert distill(tiny_checkpoint, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("d3llm: error: ")
    assert message in error
