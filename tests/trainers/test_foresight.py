"""What is committed next: which positions its losses count at, and what they make of the scores there."""

import itertools
from typing import Any

import pytest
import torch

from d3llm.trainers.corruption import Corruption
from d3llm.trainers.losses import TokenLosses
from d3llm.trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from d3llm.trainers.row_losses import order_losses
from tests.helpers.trajectory_rows import make_trainer


ROWS = 32
SINGLE: dict[str, Any] = {"layout": "single", "window_sizes": [16], "eos_tail": 8}


def corrupted(trainer: PseudoTrajectoryTrainer) -> tuple[dict[str, Any], Corruption]:
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(ROWS)])
    corruption = trainer.corrupt(batch, step=3, progress=0.2)
    trainer.add_targets(batch, corruption)
    return batch, corruption


@pytest.mark.parametrize("layout", ["single", "complementary"])
def test_next_are_the_masked_positions_that_the_trajectory_commits_first(tiny_checkpoint, tmp_path, layout):
    trainer = make_trainer(tiny_checkpoint, tmp_path, **{**SINGLE, "layout": layout}, next_commits=3)
    batch, corruption = corrupted(trainer)
    ties = 0
    for view, row in itertools.product(range(len(corruption.masked)), range(ROWS)):
        steps = batch["commit_steps"][row].tolist()
        masked = corruption.supervised[view, row].nonzero()[:, 0].tolist()
        order = sorted(masked, key=lambda position: (steps[position], position))
        assert batch["rank"][view, row][order].tolist() == list(range(len(order)))
        assert batch["is_next"][view, row].nonzero()[:, 0].tolist() == sorted(order[:3])
        ties += len(masked) - len({steps[position] for position in masked})
    assert ties and (corruption.supervised.sum(dim=2) > 3).any() and (corruption.supervised.sum(dim=2) < 3).any()


def losses_of(trainer: PseudoTrajectoryTrainer, batch: dict[str, Any], monkeypatch) -> tuple[Any, Any, TokenLosses]:
    seen: list[TokenLosses] = []
    plain = trainer.canvas_losses
    monkeypatch.setattr(trainer, "canvas_losses", lambda *args: seen.append(plain(*args)) or seen[-1])
    return *trainer.compute_loss(trainer.model, batch, return_outputs=True), seen[0]


def test_the_certainty_counts_at_the_next_commits_alone(tiny_checkpoint, tmp_path, monkeypatch):
    options: dict[str, Any] = {"complementary_entropy": True, "window_sizes": [16]}
    trainer = make_trainer(tiny_checkpoint, tmp_path, next_commits=3, **options)
    batch, corruption = corrupted(trainer)
    loss, sums, losses = losses_of(trainer, batch, monkeypatch)
    view = corruption.supervised.nonzero(as_tuple=True)[0]
    everywhere = losses.certainty * losses.correct
    expected = torch.zeros(())
    for number, prefix in enumerate(("", "complementary_")):
        here = view == number
        counted = (everywhere * batch["is_next"][corruption.supervised])[here].sum()
        torch.testing.assert_close(sums[f"{prefix}certainty"], counted)
        assert 0 < counted < everywhere[here].sum()
        expected = expected + losses.cross_entropy[here].mean() + 2.0 * counted / here.sum()
    torch.testing.assert_close(loss, expected)


def test_the_order_counts_at_the_next_commits_alone(tiny_checkpoint, tmp_path, monkeypatch):
    trainer = make_trainer(
        tiny_checkpoint, tmp_path, **SINGLE, entropy_weight=0.0, order_weight=0.5, next_commits=3, loss_scale=2.0
    )
    batch, corruption = corrupted(trainer)
    loss, sums, losses = losses_of(trainer, batch, monkeypatch)
    of_rows = losses.cross_entropy.split(corruption.supervised[0].sum(dim=1).tolist())
    expected, counted = torch.zeros(()), 0
    for row, cross_entropy in enumerate(of_rows):
        score = (1 - (-cross_entropy).exp()) ** -2
        rank = batch["rank"][0, row][corruption.supervised[0, row]]
        in_order = score[rank.argsort()]
        for place in range(min(3, len(score))):
            expected = expected - (in_order[place] / in_order[place:].sum()).log()
            counted += 1
    torch.testing.assert_close(sums["order"], expected)
    assert sums["next"] == counted
    torch.testing.assert_close(loss, 2 * (losses.cross_entropy.mean() + 0.5 * expected / len(losses.cross_entropy)))
    trainer.train()
    reports = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["order"] > 0 for entry in reports)


def test_more_commits_than_are_masked_are_all_of_them(tiny_checkpoint, tmp_path):
    def loss(**options: Any) -> float:
        trainer = make_trainer(tiny_checkpoint, tmp_path, **SINGLE, **options)
        return trainer.compute_loss(trainer.model, corrupted(trainer)[0]).item()

    assert loss() == loss(next_commits=16) != loss(next_commits=3)


def test_the_order_of_what_is_certain_has_finite_gradients():
    cross_entropy = torch.tensor([0.0, 1e-9, 1e-4, 30.0], requires_grad=True)
    row, rank = torch.tensor([0, 0, 0, 1]), torch.tensor([2, 1, 0, 0])
    losses = order_losses(cross_entropy, row, rank, rows=2, length=4)
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(cross_entropy.grad).all()
    assert losses[3] == 0 and losses[2] > 1  # alone in its row; the first is the least sure of three
    assert cross_entropy.grad[2] > 0
