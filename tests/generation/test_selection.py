"""Which proposals are committed, worked out by hand: quotas, schedules and limits at their very edge."""

import numpy as np
import pytest
import torch

from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.canvas import Canvas, Proposal
from d3llm.generation.decoding_diffusion import RUNS
from d3llm.generation.fields import CHOICES
from d3llm.generation.selection import (
    MAY_ACCEPT_NOTHING,
    RULES,
    confident_quota,
    ranked,
    scheduled_quota,
    select,
    time_share,
)


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


@pytest.mark.parametrize(
    ("margin", "scores", "committed"),
    [
        (0.5, [0.875, 0.75, 0.5], 1),  # 0.875 - 0.125 = 0.75, then 0.625 - 0.25 = 0.375, then 0.125 - 0.5
        (0.375, [0.875, 0.75, 0.5], 2),
        (0.25, [0.875, 0.875, 0.75], 3),  # 0.75 - 0.125, then 0.5 - 0.25 = 0.25 exactly
        (0.26, [0.875, 0.875, 0.75], 2),
        (0.0, [0.5, 0.25, 0.125], 1),
        (1.0, [0.5, 0.25, 0.125], 1),  # one in any case
        (1.0, [1.0, 1.0, 0.5], 2),
    ],
)
def test_the_frechet_bound_of_the_set_exceeds_its_weakest_competitor(margin, scores, committed):
    accepted = selected(masked_block(3), scores, score="probability", selection="frechet", frechet_margin=margin)
    assert accepted == [True] * committed + [False] * (3 - committed)


def quotas(confidences: np.ndarray, **fields) -> np.ndarray:
    """How many of rows (B, K) of sorted probabilities a rule commits (B,)."""
    config = DiffusionGenerationConfig(score="probability", **fields).resolve()
    return confident_quota(confidences.astype(np.float32), config)


def test_frechet_of_equal_confidences_is_a_factor_of_one_less_the_margin():
    generator = np.random.default_rng(0)
    for margin in (0.0, 0.02, 0.25, 0.5, 0.9):
        confidence = 1 - generator.uniform(0, 1, (200, 1)) ** 3
        # nothing at the very edge, which rounding decides
        edges = (1 - margin) / (np.arange(1, 33) + 1)
        confidence = confidence[np.abs(1 - confidence - edges).min(axis=1) > 1e-5]
        equal = confidence.repeat(32, axis=1)
        frechet = quotas(equal, selection="frechet", frechet_margin=margin)
        assert np.array_equal(frechet, quotas(equal, selection="factor", factor=1 - margin))
        assert len(set(frechet.tolist())) > 1


def test_frechet_commits_less_the_larger_the_margin_and_never_nothing():
    confidences = -np.sort(-(1 - np.random.default_rng(0).uniform(0, 1, (300, 32)) ** 4), axis=1)
    found = np.stack([quotas(confidences, selection="frechet", frechet_margin=m) for m in np.linspace(0, 1, 21)])
    assert (np.diff(found, axis=0) <= 0).all() and (found[0] > found[-1]).all()
    assert (found >= 1).all() and (found[-1] == 1).sum() > 200
    # the same by the bound as the paper writes it
    totals = confidences.cumsum(axis=1) - np.arange(32)
    assert np.array_equal(found[5], (totals.clip(min=0) - (1 - confidences) > 0.25).sum(axis=1).clip(min=1))


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


@pytest.mark.parametrize(("masks", "steps", "eps"), [(32, 15, 0.05), (4, 9, 0.1), (9, 3, 0.1), (48, 18, 0.1)])
def test_a_fraction_is_that_of_the_published_grid_to_the_last_bit(masks, steps, eps):
    """Where a share of the masks is a whole number, the rounding of the grid decides (Dream, `_sample`)."""
    canvas, left, time = masked_block(masks), masks, torch.linspace(1, eps, steps + 1)
    config = DiffusionGenerationConfig(selection="fraction", steps=steps, eps=eps).resolve()
    for step in range(steps):
        share = 1 - time[step + 1] / time[step] if step < steps - 1 else torch.tensor(1.0)
        assert time_share(canvas, config).item() == share.item()
        count = int(torch.tensor(float(left)) * share)
        assert scheduled_quota(canvas, config).item() == count
        canvas.committed[0, 1 + masks - left : 1 + masks - left + count] = True
        left -= count
        advance(canvas)
    assert left == 0


@pytest.mark.parametrize("selection", ["count", "threshold_or_count"])
@pytest.mark.parametrize(("steps", "found"), [(8, [2, 2, 2]), (6, [3, 3]), (3, [4, 4]), (None, [1] * 6)])
def test_a_block_that_the_prompt_shares_has_the_number_of_a_whole_one(selection, steps, found):
    """SDAR's code spreads the length of a block over its forwards, and not what the prompt leaves of it."""
    seeds, prompt = np.zeros(1, dtype=np.int64), np.ones((1, 10), dtype=np.int64)
    grid = {"block_size": 8, "grid": "absolute", "mask_token_id": MASK}
    canvas = Canvas.from_prompt(prompt, None, new_tokens=14, seeds=seeds, **grid)
    advance(canvas)
    config = DiffusionGenerationConfig(score="probability", selection=selection, steps=steps).resolve()
    quotas = []
    while not canvas.committed[0, 10:16].all():
        quotas.append(int(scheduled_quota(canvas, config)[0]))
        first = int(canvas.committed[0].argmin())
        canvas.committed[0, first : min(first + quotas[-1], 16)] = True
        advance(canvas)
    assert quotas == found


@pytest.mark.parametrize("selection", ["count", "threshold_or_count"])
def test_masks_in_a_prompt_take_a_forward_each_whatever_the_steps(selection):
    prompt = np.array([[1, MASK, 1, MASK, 1, 1, MASK, 1]])
    canvas = Canvas.from_prompt(
        prompt, None, new_tokens=8, block_size=4, mask_token_id=MASK, seeds=np.zeros(1, dtype=np.int64)
    )
    advance(canvas)
    config = DiffusionGenerationConfig(score="probability", selection=selection, steps=4).resolve()
    assert scheduled_quota(canvas, config).tolist() == [1]


@pytest.mark.parametrize(("score", "scores"), [("entropy", [-0.5, -0.25, -0.25, 0]), ("margin", [0.5, 0.75, 0.75, 1])])
def test_a_position_penalty_asks_more_of_what_is_further_right(score, scores):
    fields = {"score": score, "threshold": 0.5, "position_penalty": 0.25}
    assert selected(masked_block(4), scores, **fields) == [True, True, False, False]
    assert selected(masked_block(4), scores, **fields | {"position_penalty": 0.0}) == [True] * 4


def test_the_distance_is_that_from_the_first_mask_of_the_row():
    canvas = masked_block(4)
    fields = {"score": "entropy", "threshold": 0.5, "position_penalty": 0.25}
    assert selected(canvas, [-0.5, -0.5, -0.5, -0.5], **fields) == [True, False, False, False]
    assert selected(canvas, [0, -0.5, -0.25, -0.5], **fields) == [False, True, True, False]
    assert selected(canvas, [0, 0, 0, -0.5], **fields) == [False, False, False, True]


def test_rows_and_padded_candidates_have_their_own_first_mask():
    positions = np.array([[2, 3, 5, 0], [4, 6, 7, 8]])
    eligible = np.array([[False, True, True, False], [True, True, True, True]])
    found = ranked(np.full((2, 4), -1, dtype=np.float32), positions, eligible, 0.5)
    nothing = -np.inf
    assert found.tolist() == [[nothing, -1.0, -2.0, nothing], [-1.0, -2.0, -2.5, -3.0]]
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("fields", "committed"),
    [
        ({"selection": "threshold", "threshold": 0.0}, 1),  # forced progress
        ({"selection": "count"}, 1),
        ({"selection": "threshold", "threshold": 0.0, "forced_score": "probability"}, 1),
        ({"selection": "entropy_bound", "entropy_bound": 1.0}, 2),
    ],
)
def test_what_every_rule_ranks_is_less_the_penalty(fields, committed):
    scores = [-0.75, -1.0, -0.5, -0.5]
    for penalty in (0.0, 0.5):
        accepted = selected(masked_block(4), scores, score="entropy", position_penalty=penalty, **fields)
        best = np.argsort([-s + penalty * distance for distance, s in enumerate(scores)], kind="stable")
        assert np.flatnonzero(accepted).tolist() == sorted(best[: sum(accepted)].tolist())
        assert penalty == 0 or sum(accepted) == committed


def test_every_selection_has_its_rule():
    assert RULES.keys() | RUNS.keys() == set(CHOICES["selection"])
    assert set(MAY_ACCEPT_NOTHING) <= RULES.keys()


@pytest.mark.parametrize(
    "rule",
    [
        lambda score, eligible, *rest: torch.from_numpy(eligible),
        lambda score, eligible, *rest: eligible[:, :1],
        lambda score, eligible, *rest: eligible * 1.0,
        lambda score, eligible, *rest: eligible.tolist(),
    ],
)
def test_a_rule_that_returns_something_else_is_named(monkeypatch, rule):
    monkeypatch.setitem(RULES, "threshold", rule)
    with pytest.raises(ValueError, match="the rule of `selection`='threshold' must return booleans"):
        selected(masked_block(4), [0.9, 0.6, 0.1, 0.1], selection="threshold", score="probability")
