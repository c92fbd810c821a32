"""The columns of a trajectory dataset are listed once: cards, pages, checks and batches follow the list."""

import re
from dataclasses import fields

import pytest
from datasets import Dataset, List

from d3llm.hub_cards.cards import trajectory_card
from d3llm.hub_cards.facts import TrajectoryFacts
from d3llm.trainers.collator import COLUMNS
from d3llm.trajectories.dataset import as_stored
from d3llm.trajectories.row import (
    OPTIONAL,
    PER_POSITION,
    STORED_FEATURES,
    TRAJECTORY_FEATURES,
    Trajectory,
    TrajectoryRow,
)
from tests.helpers.paths import ROOT


def row(**values) -> TrajectoryRow:
    trajectory = Trajectory(response_ids=[5, 6], commit_steps=[2, 1], num_forwards=3, correct=True, tail_steps=[3])
    given = {"id": "a", "prompt_ids": [7], "source": "teacher", "teacher": "t"}
    config = '{"mask_token_id": 9, "eos_token_id": [0]}'
    return trajectory.row(**{**given, "decode_config": config, **values})


def written(feature) -> str:
    return f"list of {feature.feature.dtype}" if isinstance(feature, List) else feature.dtype


def test_the_card_has_every_column_with_its_type_and_meaning():
    facts = TrajectoryFacts(
        name="n",
        license="mit",
        teacher="t",
        source="teacher",
        rows=1,
        prompt_tokens=1,
        response_tokens=2,
        forwards=3,
        cut=0,
        checked=0,
        correct=0,
        mask_token_id=9,
        decoding={},
        prompts="",
    )
    table = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", trajectory_card(facts), re.MULTILINE)
    expected = {
        column.name: (
            written(column.metadata["feature"]) + (" or null" if column.metadata["nullable"] else ""),
            column.metadata["meaning"],
        )
        for column in fields(TrajectoryRow)
    }
    assert {name: (kind, meaning) for name, kind, meaning in table} == expected


def test_the_page_has_every_column():
    page = (ROOT / "docs/extraction.md").read_text(encoding="utf-8")
    table = page[page.index("| column | meaning |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))) == set(
        STORED_FEATURES
    )


def test_every_column_is_described_in_the_docstring():
    for name in STORED_FEATURES:
        assert re.search(rf"^        {name} \(", TrajectoryRow.__doc__, re.MULTILINE), name


def test_lists_reach_the_batch_and_are_checked():
    assert set(PER_POSITION) <= set(COLUMNS)
    for column in fields(TrajectoryRow):
        assert column.metadata["kind"] == "value" or column.name in PER_POSITION, column.name


def test_a_row_goes_through_arrow_as_it_is():
    dataset = Dataset.from_list([row().to_dict()], features=STORED_FEATURES)
    assert as_stored(dataset, "rows")[0] == row().to_dict()


def test_columns_that_other_datasets_lack_are_added():
    known = {name: value for name, value in row().to_dict().items() if name not in OPTIONAL}
    dataset = Dataset.from_list([known], features=TRAJECTORY_FEATURES)
    stored = as_stored(dataset, "rows")[0]
    assert {name: stored[name] for name in OPTIONAL} == {name: [] for name in OPTIONAL}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tail_steps": [4]}, "a commit step above its `num_forwards` in `tail_steps`"),
        ({"commit_steps": [-1, 1]}, "a negative commit step in `commit_steps`"),
        ({"prompt_ids": [-1]}, "has `prompt_ids` outside the vocabulary"),
    ],
)
def test_faults_are_named(changes, complaint):
    dataset = Dataset.from_list([row().to_dict() | changes], features=STORED_FEATURES)
    with pytest.raises(ValueError, match=complaint):
        as_stored(dataset, "rows")
