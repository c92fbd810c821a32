"""Which proposals are committed, worked out by hand: quotas, schedules and limits at their very edge."""

import numpy as np
import pytest

from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.canvas import Canvas, Proposal
from d3llm.generation.decoding_diffusion import RUNS
from d3llm.generation.fields import CHOICES
from d3llm.generation.selection import MAY_ACCEPT_NOTHING, RULES, select


MASK = 9


def masked_block(size: int) -> Canvas:
    """A canvas of one row whose only block is masked and is the current one."""
    seeds = np.zeros(1, dtype=np.int64)
    prompt = np.ones((1, 1), dtype=np.int64)
    canvas = Canvas.from_prompt(prompt, None, new_tokens=size, block_size=size, mask_token_id=MASK, seeds=seeds)
    advance(canvas)
    return canvas


def advance(canvas: Canvas):
    canvas.count_masks()
    canvas.advance_blocks(1.0, 1.0)


def selected(canvas: Canvas, scores: list[float], **fields) -> list[bool]:
    """Which positions of the block one forward commits; they are committed to the canvas."""
    positions = canvas.positions[None, 1:]
    eligible = ~canvas.committed[:, 1:]
    score = np.array([scores], dtype=np.float32)
    proposal = Proposal(np.full_like(positions, 2), score, score)
    accepted = select(proposal, positions, eligible, canvas, DiffusionGenerationConfig(**fields).resolve())
    canvas.commit(positions, proposal, accepted, 1)
    return accepted[0].tolist()


@pytest.mark.parametrize(
    ("scores", "committed"),
    [
        ([0.9, 0.6, 0.1], 1),  # rank 1 needs 1 - 1/2, rank 2 needs 1 - 1/3
        ([0.9, 0.7, 0.6], 2),  # rank 3 needs 1 - 1/4
        ([0.8, 0.9, 0.85], 3),
        ([0.4, 0.3, 0.2], 1),  # one in any case
    ],
)
def test_factor_asks_more_of_each_rank(scores, committed):
    accepted = selected(masked_block(3), scores, score="probability", selection="factor", factor=1.0)
    best = sorted(scores, reverse=True)[:committed]
    assert accepted == [score in best for score in scores]


@pytest.mark.parametrize(("bound", "committed"), [(0.0, 1), (0.1, 1), (0.125, 2), (0.37, 2), (0.375, 3)])
def test_the_entropy_bound_leaves_out_the_last_one(bound, committed):
    accepted = selected(masked_block(3), [-0.125, -0.25, -0.5], selection="entropy_bound", entropy_bound=bound)
    assert accepted == [True] * committed + [False] * (3 - committed)


@pytest.mark.parametrize(
    ("score", "scores"),
    [("probability", [0.75, 0.5, 0.25]), ("margin", [0.75, 0.5, 0.25]), ("entropy", [-0.25, -0.5, -0.75])],
)
def test_what_reaches_the_threshold_exactly_is_sure_enough(score, scores):
    assert selected(masked_block(3), scores, score=score, threshold=0.5) == [True, True, False]


def test_a_scheduled_threshold_makes_up_for_what_was_not_sure_and_goes_no_further():
    canvas = masked_block(8)
    fields = {"score": "probability", "selection": "scheduled_threshold", "threshold": 0.5, "steps": 4}
    sure, unsure = [0.9] * 8, [0.9] + [0.1] * 7
    found = []
    for scores in (sure, unsure[::-1], sure, sure):
        found.append(sum(selected(canvas, scores, **fields)))
        advance(canvas)
    assert found == [2, 1, 3, 2]  # of two per forward the second forward left one


def test_every_selection_has_its_rule():
    assert RULES.keys() | RUNS.keys() == set(CHOICES["selection"])
    assert set(MAY_ACCEPT_NOTHING) <= RULES.keys()
