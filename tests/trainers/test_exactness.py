"""What a run's numbers do not depend on: how a step is divided, when it was interrupted, and what is evaluated."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from d3llm.trainers.corruption import draw
from d3llm.trainers.distill import checkpoint_to_resume
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from d3llm.trajectories.row import STORED_FEATURES
from tests.helpers.trajectory_rows import logged_losses, make_trainer, random_rows, random_trajectories


def ragged_rows(count: int = 24) -> Dataset:
    """Prompts of every length, so that `max_length` shortens the regions of some."""
    rows = random_rows(count)
    for number, row in enumerate(rows):
        row["prompt_ids"] = [3] * (2 + number)
    return Dataset.from_list(rows, features=STORED_FEATURES)


def test_the_numbers_of_a_row_do_not_depend_on_the_region_of_another():
    index = torch.arange(4)
    wide, narrow = draw(0, 5, index, 10), draw(0, 5, index, 6, longest=10)
    for name in ("ratio", "window", "filled", "known", "full"):
        assert torch.equal(getattr(wide, name), getattr(narrow, name)), name
    for name in ("positions", "blocks", "noise"):
        assert torch.equal(getattr(wide, name)[:, :6], getattr(narrow, name)), name


@pytest.mark.parametrize(
    "options",
    [
        {"mask_noise": 0.3},
        {"corruption": "random", "full_mask_share": 0.5},
        {"corruption": "random", "block_ratios": "independent", "attention_block_sizes": [4]},
    ],
    ids=lambda options: next(reversed(options)),
)
def test_a_step_is_the_same_however_it_is_divided(tiny_checkpoint, tmp_path, options):
    given: dict[str, Any] = {"train_dataset": ragged_rows(), "max_length": 44, "max_steps": 2, "layout": "single"}
    given |= {"filled_tail_share": 0.0, "max_new_tokens": 24, "optim": "sgd", **options}
    losses = []
    for rows in (8, 2):
        size = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 8 // rows}
        trainer = make_trainer(tiny_checkpoint, tmp_path, **given, **size)
        trainer.train()
        losses.append(logged_losses(trainer))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def rows_and_losses(trainer: PseudoTrajectoryTrainer, **options: Any) -> tuple[list[list[str]], list[float]]:
    seen: list[list[str]] = []
    take = trainer.get_batch_samples

    def spy(*args: Any):
        batches, count = take(*args)
        seen.extend(batch["ids"] for batch in batches)
        return batches, count

    trainer.get_batch_samples = spy
    trainer.train(**options)
    return seen, logged_losses(trainer)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_a_resumed_run_has_the_rows_of_an_uninterrupted_one(tiny_checkpoint, tmp_path, strategy):
    """An epoch has 3 steps: resumed in the first epoch, in the second, and between two."""
    options = {"train_dataset": ragged_rows(12), "train_sampling_strategy": strategy, "max_steps": 8}
    options |= {"save_strategy": "steps", "save_steps": 2}
    rows, losses = rows_and_losses(make_trainer(tiny_checkpoint, tmp_path / "whole", **options))
    assert rows[:3] != rows[3:6]
    for step in (2, 4, 6):
        again, resumed = rows_and_losses(
            make_trainer(tiny_checkpoint, tmp_path / "again", **options),
            resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"),
        )
        assert again == rows[step:]
        assert resumed[step:] == losses[step:]


def test_evaluations_do_not_change_the_dropout_of_the_steps_after_them(tiny_checkpoint, tmp_path):
    held_out = {"eval_dataset": random_trajectories(8, seed=5), "eval_strategy": "steps", "eval_steps": 1}
    losses = []
    for options in ({}, held_out):
        options |= {"train_sampling_strategy": "group_by_length"}  # which shuffles the rows of an evaluation too
        adapters = LoraConfig(r=4, lora_dropout=0.3)
        trainer = make_trainer(tiny_checkpoint, tmp_path, peft_config=adapters, **options)
        trainer.train()
        losses.append(logged_losses(trainer))
    assert losses[0] == losses[1]


def test_a_checkpoint_without_the_optimizer_is_not_resumed(tiny_checkpoint, tmp_path):
    make_trainer(
        tiny_checkpoint, tmp_path, save_strategy="steps", save_steps=2, save_only_model=True, max_steps=2
    ).train()
    with pytest.raises(ValueError, match=r"checkpoint-2 was saved without the optimizer \(--save_only_model\)"):
        checkpoint_to_resume(tmp_path, resume=True)


def test_a_stream_of_which_no_row_fits(tiny_checkpoint, tmp_path):
    stream = random_trajectories(8).to_iterable_dataset()
    trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=stream, max_new_tokens=2, max_steps=2)
    with pytest.raises(ValueError, match=r"`train_dataset` has no row that fits `max_new_tokens` \(2\)"):
        trainer.train()


@pytest.mark.parametrize(
    ("column", "value"),
    [("prompt_ids", "one"), ("response_ids", [3.5]), ("num_forwards", "x"), ("decode_config", {"a": 1})],
)
def test_columns_of_other_types_are_named(tiny_checkpoint, tmp_path, column, value):
    rows = [row | {column: value} for row in random_rows(4)]
    with pytest.raises(ValueError, match="The columns of train_dataset have other types than expected"):
        make_trainer(tiny_checkpoint, tmp_path, train_dataset=Dataset.from_list(rows))


WEIGHTED = {"loss_weighting": "inverse_ratio", "filled_tail_share": 0.0, "entropy_weight": 0.0}


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("recipe", [{}, {"corruption": "random", "layout": "single", **WEIGHTED}])
def test_rows_that_processes_repeat_are_not_counted_again(tiny_checkpoint, tmp_path, monkeypatch, process, recipe):
    """The last batch of 6 rows on two processes with 4 each: the second one has two of its own."""
    trainer = make_trainer(tiny_checkpoint, tmp_path, **recipe)
    rows = [trainer.train_dataset[index] for index in range(4)]

    def counted(count: int) -> list[float]:
        trainer.take_parts("eval")
        trainer.model.eval()
        trainer.prediction_step(trainer.model, trainer.data_collator(rows[:count]), prediction_loss_only=True)
        return trainer._totals["eval"].tolist()

    whole, half = counted(4), counted(2)
    state = type(trainer.accelerator.gradient_state)
    monkeypatch.setattr(state, "end_of_dataloader", property(lambda self: True))
    monkeypatch.setattr(state, "remainder", property(lambda self: 6))
    monkeypatch.setattr(type(trainer.accelerator), "process_index", property(lambda self: process))
    assert counted(4) == pytest.approx(half if process else whole, rel=1e-5)


def test_predictions_are_in_the_order_of_the_rows(tiny_checkpoint, tmp_path):
    options = {"train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 3}
    rows, found = ragged_rows(), []
    for sampling in ({}, options):
        trainer = make_trainer(tiny_checkpoint, tmp_path, max_new_tokens=24, **sampling)
        found.append(trainer.predict(rows))
    assert (found[0].label_ids == found[1].label_ids).all()
    assert (found[0].predictions == found[1].predictions).all()


def test_the_order_of_far_commits_has_a_mean_of_its_own(tiny_checkpoint, tmp_path):
    options: dict[str, Any] = {"layout": "single", "order_weight": 1.0, "kl_weight": 1.0, "near_forwards": 0}
    options |= {"filled_tail_share": 0.0, "peft_config": LoraConfig(r=4), "max_steps": 1}
    trainer = make_trainer(tiny_checkpoint, tmp_path, **options)
    trainer.train()
    (loss,) = logged_losses(trainer)
    (order,) = [entry["order"] for entry in trainer.state.log_history if "order" in entry]
    assert 0 < loss < 10 * order


RECIPES = [
    {"entropy_weight": 2.0, "complementary_entropy": True, "loss_scale": 0.25},
    {"normalization": "microbatch", "entropy_weight": 1.0},
    {"corruption": "random", "layout": "single", **WEIGHTED},
    {"layout": "single", "order_weight": 1.0, "kl_weight": 1.0, "peft_config": LoraConfig(r=2)},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=["views", "microbatch", "weighted", "order"])
def test_the_loss_of_an_evaluation_does_not_depend_on_the_size_of_its_batches(tiny_checkpoint, tmp_path, recipe):
    trainer = make_trainer(tiny_checkpoint, tmp_path, eval_dataset=random_trajectories(20, seed=3), **recipe)
    whole = trainer.data_collator([*trainer.eval_dataset])
    trainer.model.eval()
    expected, _, _ = trainer.prediction_step(trainer.model, whole, prediction_loss_only=True)
    trainer.take_parts("eval")
    for rows in (1, 3, 20):
        trainer.args.per_device_eval_batch_size = rows
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
