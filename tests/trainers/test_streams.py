"""Iterable datasets: the same rows, in the same order, whatever the files, the workers and the processes."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import IterableDataset
from torch.utils.data import DataLoader

from tests.helpers.forks import fork_ranks
from tests.helpers.trajectory_rows import logged_losses, make_trainer, random_rows, random_trajectories


def stream(rows: int = 20, shards: int = 3, **options) -> IterableDataset:
    return random_trajectories(rows, **options).to_iterable_dataset(num_shards=shards)


def names(rows: Iterable[int]) -> list[str]:
    return [f"random/{index}" for index in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_row_has_a_number_of_its_own(tiny_checkpoint, tmp_path, workers):
    trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=stream(), dataloader_num_workers=workers)
    batches = [*islice(trainer.get_train_dataloader(), 5)]
    assert [name for batch in batches for name in batch["ids"]] == names(range(20))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [*range(20)]


def test_rows_that_do_not_fit_have_no_number(tiny_checkpoint, tmp_path):
    rows = random_rows(6)
    rows[2] |= {"response_ids": [3] * 25, "commit_steps": [1] * 25, "num_forwards": 25}
    unknown = IterableDataset.from_generator(lambda: iter(rows)).with_format("torch")  # its columns are not declared
    kept = [*make_trainer(tiny_checkpoint, tmp_path, train_dataset=unknown).train_dataset]
    assert [row["id"] for row in kept] == names([0, 1, 3, 4, 5])
    assert [row["index"] for row in kept] == [*range(5)]
    assert kept[2]["response_ids"] == rows[3]["response_ids"]


@pytest.mark.parametrize("shards", [1, 2])
def test_each_process_keeps_its_share_of_every_batch(tiny_checkpoint, tmp_path, shards):
    trainer = make_trainer(tiny_checkpoint, tmp_path, eval_dataset=stream(16, shards))
    loader = DataLoader(trainer.eval_dataset, batch_size=4, collate_fn=trainer.data_collator)
    for process in range(2):
        share = prepare_data_loader(loader, num_processes=2, process_index=process, put_on_device=False)
        first = names(range(16))[4 * process :]
        assert [batch["ids"] for batch in share] == [first[:4], first[8:12]]


SMALL = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 10}


def test_every_step_of_a_stream_has_all_of_its_rows(tiny_checkpoint, tmp_path):
    """20 rows, 6 to a step: without a learning rate, the gradient of a step is that of its own rows."""
    options = {**SMALL, "learning_rate": 0.0, "entropy_weight": 0.0, "max_grad_norm": 0.0}
    trainer = make_trainer(tiny_checkpoint, tmp_path, train_dataset=stream(), **options)
    read, take = [], trainer.get_batch_samples

    def spy(*args):
        batches, counts = take(*args)
        read.extend(name for batch in batches for name in batch["ids"])
        return batches, counts

    trainer.get_batch_samples = spy
    trainer.train()
    assert [sorted(read[start : start + 20]) for start in (0, 20, 40)] == [sorted(names(range(20)))] * 3
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [*range(1, 11)]
    for entry in logs:
        parts = entry.get("cross_entropy", 0.0) + entry.get("complementary_cross_entropy", 0.0)
        assert entry["loss"] == pytest.approx(parts, rel=1e-4)


def test_a_stream_is_resumed_in_any_pass(tiny_checkpoint, tmp_path):
    options = {**SMALL, "train_dataset": stream().shuffle(seed=1, buffer_size=8)}
    whole = make_trainer(tiny_checkpoint, tmp_path / "whole", save_strategy="steps", save_steps=3, **options)
    whole.train()
    for step in (3, 6, 9):  # after 18, 36 and 54 rows, of 20 in a pass
        resumed = make_trainer(tiny_checkpoint, tmp_path / "resumed", **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert logged_losses(resumed) == logged_losses(whole)
        assert resumed.state.global_step == 10
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), (step, name)


def test_what_was_prepared_can_be_evaluated_again(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, eval_dataset=stream(6))
    assert trainer.evaluate(trainer.eval_dataset)["eval_loss"] == trainer.evaluate()["eval_loss"]


def figures(checkpoint: Path, output: Path) -> list[float]:
    """Losses of a training and an evaluation, whose last batch is not complete, and how many rows are predicted."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    options = {"train_dataset": stream(shards=2), "per_device_train_batch_size": 4 // processes}
    options |= {"per_device_eval_batch_size": 4 // processes, "layout": "single"}
    if processes > 1:
        options |= {"ddp_backend": "gloo"}
    trainer = make_trainer(checkpoint, output, **options)
    found = []
    for rows in (5, 1):
        held_out = random_trajectories(rows, seed=3)
        for dataset in (held_out, held_out.to_iterable_dataset(num_shards=2 if rows > 1 else 1)):
            metrics = trainer.evaluate(dataset)
            found += [metrics["eval_loss"], metrics["eval_cross_entropy"], len(trainer.predict(dataset).predictions)]
    trainer.train()  # after evaluations: gradients are of all processes all the same
    return found + logged_losses(trainer)


def report(checkpoint: Path, output: Path) -> None:
    found = figures(checkpoint, output)
    if os.environ["RANK"] == "0":
        print("found", *found)
    torch.distributed.destroy_process_group()


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(tiny_checkpoint, tmp_path):
    ranks = [rank.wait() for rank in fork_ranks(report, tiny_checkpoint, tmp_path / "two")]
    assert [done.returncode for done in ranks] == [0, 0], "\n".join(done.stderr for done in ranks)
    (line,) = (line for line in ranks[0].stdout.splitlines() if line.startswith("found"))
    found = [float(value) for value in line.split()[1:]]
    assert found[2] == found[5] == 5 and found[8] == found[11] == 1
    assert found == pytest.approx(figures(tiny_checkpoint, tmp_path / "one"), rel=1e-4)
    assert found[:3] == pytest.approx(found[3:6], rel=1e-4)
