"""The certainty of the next commits: which positions it counts at, and what the loss makes of them."""

import itertools
from typing import Any

import pytest
import torch

from d3llm.trainers.corruption import Corruption, Region
from d3llm.trainers.losses import TokenLosses
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from tests.helpers.trajectory_rows import make_trainer


ROWS = 32
COUNTED = ("commit_steps", "response_lengths", "canvas_lengths", "ended")


def corrupted(trainer: PseudoTrajectoryTrainer) -> tuple[dict[str, Any], Corruption]:
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(ROWS)])
    corruption = trainer.corrupt(batch, step=3, progress=0.2)
    trainer.add_targets(batch, corruption)
    return batch, corruption


@pytest.mark.parametrize("layout", ["single", "complementary"])
def test_certain_are_the_masked_positions_that_the_trajectory_commits_first(tiny_checkpoint, tmp_path, layout):
    trainer = make_trainer(tiny_checkpoint, tmp_path, layout=layout, window_sizes=[16], certainty_next=3)
    batch, corruption = corrupted(trainer)
    order = Region(*(batch[name] for name in COUNTED)).commit_order()
    for view, row in itertools.product(range(len(corruption.masked)), range(ROWS)):
        masked = corruption.supervised[view, row].nonzero()[:, 0].tolist()
        first = sorted(masked, key=lambda position: int(order[row, position]))[:3]
        assert batch["certain"][view, row].nonzero()[:, 0].tolist() == sorted(first)
    assert (corruption.supervised.sum(dim=2) > 3).any() and (corruption.supervised.sum(dim=2) < 3).any()


def test_the_certainty_counts_there_alone(tiny_checkpoint, tmp_path, monkeypatch):
    options: dict[str, Any] = {"complementary_entropy": True, "window_sizes": [16]}
    trainer = make_trainer(tiny_checkpoint, tmp_path, certainty_next=3, **options)
    batch, corruption = corrupted(trainer)
    seen: list[TokenLosses] = []
    plain = trainer.canvas_losses
    monkeypatch.setattr(trainer, "canvas_losses", lambda *args: seen.append(plain(*args)) or seen[-1])
    loss, sums = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    (losses,) = seen
    view = corruption.supervised.nonzero(as_tuple=True)[0]
    everywhere = losses.certainty * losses.correct
    expected = torch.zeros(())
    for number, prefix in enumerate(("", "complementary_")):
        here = view == number
        counted = (everywhere * batch["certain"][corruption.supervised])[here].sum()
        torch.testing.assert_close(sums[f"{prefix}certainty"], counted)
        assert 0 < counted < everywhere[here].sum()
        expected = expected + losses.cross_entropy[here].mean() + 2.0 * counted / here.sum()
    torch.testing.assert_close(loss, expected)


def test_more_commits_than_are_masked_are_all_of_them(tiny_checkpoint, tmp_path):
    def loss(**options: Any) -> float:
        trainer = make_trainer(tiny_checkpoint, tmp_path, window_sizes=[16], **options)
        return trainer.compute_loss(trainer.model, corrupted(trainer)[0]).item()

    assert loss() == loss(certainty_next=16) != loss(certainty_next=3)
