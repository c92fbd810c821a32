"""No forward is wider than the longest canvas of its batch, and grouping by length leaves little padding."""

from pathlib import Path

import pytest
import torch

from d3llm import load_trajectories
from d3llm.modeling import DreamModel, LLaDAModelLM
from d3llm.quickstart import checkpoint_path
from d3llm.trainers.hidden_states import hidden_states, trim
from tests.helpers.decoding import FAMILIES
from tests.helpers.models import tiny_model
from tests.helpers.paths import ROOT
from tests.helpers.trajectory_rows import make_trainer


def widths_of(model: LLaDAModelLM | DreamModel) -> list[int]:
    """A list that grows with the width of each forward."""
    widths: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return widths


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_a_trimmed_batch_are_those_of_the_wide_one(family):
    model = tiny_model(family)
    widths = widths_of(model)
    first, end = torch.tensor([0, 5, 2]), torch.tensor([9, 14, 12])  # the longest has 10 tokens
    column = torch.arange(14)
    mask = ((column >= first[:, None]) & (column < end[:, None])).long()
    tokens = torch.randint(3, 16, mask.shape, generator=torch.Generator().manual_seed(0))
    picked = mask.nonzero().T
    with torch.no_grad():
        states = hidden_states(model, *trim(tokens, mask, picked))
        wide = model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    assert widths == [10, 14]
    expected = wide[picked[0], torch.maximum(model.logit_rows(picked[1]), first[picked[0]])]
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_length", [27, None])
def test_a_batch_is_as_wide_as_its_longest_canvas(tiny_checkpoint, tmp_path, max_length):
    """Prompts have 2 to 7 tokens and regions 24, unless `max_length` leaves a long prompt less."""
    trainer = make_trainer(tiny_checkpoint, tmp_path, max_length=max_length)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(8)])
    trainer.add_targets(batch, trainer.corrupt(batch, step=3, progress=0.5))
    widths = widths_of(trainer.model)
    trainer.compute_loss(trainer.model, batch)
    assert widths == [batch["attention_mask"].sum(dim=1).max()]
    assert (batch["input_ids"].shape[1] > widths[0]) == (max_length is not None)


def test_grouping_by_length_saves_most_of_the_padding(tmp_path):
    trajectories = load_trajectories(ROOT / "quickstart" / "trajectories")
    shares = {}
    for strategy in ("random", "group_by_length"):
        options = {"per_device_train_batch_size": 8, "train_sampling_strategy": strategy}
        trainer = make_trainer(
            Path(checkpoint_path("student")), tmp_path, train_dataset=trajectories, max_new_tokens=256, **options
        )
        valid = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
        shares[strategy] = 1 - sum(mask.sum().item() for mask in valid) / sum(mask.numel() for mask in valid)
    assert shares["random"] > 0.04
    assert shares["group_by_length"] < 0.01


def test_micro_batches_of_neighbours_have_the_loss_of_the_same_samples(tiny_checkpoint, tmp_path):
    """Two steps of 4 micro-batches of 4: grouped, shuffled and in one piece, a step is the sum over its samples."""
    options = {"gradient_accumulation_steps": 4, "train_sampling_strategy": "group_by_length"}
    trainer = make_trainer(tiny_checkpoint, tmp_path, **options)
    order = [row for batch in trainer.get_train_dataloader() for row in batch["index"].tolist()]
    assert sorted(order) == list(range(32))
    lengths = [trainer.train_dataset[index]["length"] for index in order]
    for step in (lengths[:16], lengths[16:]):
        spans = [range(min(step[start : start + 4]), max(step[start : start + 4])) for start in range(0, 16, 4)]
        assert sum(len(span) for span in spans) <= 9  # prompts of 2 to 7 tokens; 12 and more at random

    def loss(micro_batches: list[list[int]]) -> float:
        rows = [trainer.data_collator([trainer.train_dataset[index] for index in part]) for part in micro_batches]
        batches, counts = trainer.get_batch_samples(iter(rows), len(rows), torch.device("cpu"))
        return sum(trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts).item() for batch in batches)

    first = order[:16]
    grouped = loss([first[start : start + 4] for start in range(0, 16, 4)])
    assert grouped == pytest.approx(loss([first[start::4] for start in range(4)]), rel=1e-5)
    assert grouped == pytest.approx(loss([first]), rel=1e-5)
