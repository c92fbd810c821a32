"""Which states a decoder will likely pass through next."""

import numpy as np
import pytest

from d3llm.generation.canvas import Canvas, Proposal
from d3llm.generation.configuration_diffusion import DiffusionGenerationConfig
from d3llm.generation.foresight import Outlook, Seen, chances, names_of_states
from tests.helpers.decoding import MASK


def config(**fields):
    return DiffusionGenerationConfig(**{"selection": "count", "score": "probability"} | fields).resolve()


def canvas_with(committed, length=5):
    """A canvas of one row without a prompt to speak of, and these tokens by position."""
    canvas = Canvas.from_prompt(
        np.array([[3]]), None, new_tokens=length - 1, block_size=length - 1, mask_token_id=MASK, seeds=np.zeros(1)
    )
    positions, tokens = np.array([list(committed)]), np.array([list(committed.values())])
    if committed:
        ones = np.ones(positions.shape, dtype=np.float32)
        canvas.commit(positions, Proposal(tokens, ones, ones), np.ones(positions.shape, dtype=np.bool_), 1)
    return canvas


def floats(*values):
    return np.array([values], dtype=np.float32)


def flags(*values):
    return np.array([values], dtype=np.bool_)


def test_chances_of_an_order_fall_with_the_doubt_and_sum_to_one():
    accepted, eligible = flags(0, 1, 0, 0), flags(0, 1, 1, 1)
    odds, swaps = chances(floats(0, 0.99, 0.98, 0.9), accepted, eligible, config())
    assert swaps.all() and odds.sum() == pytest.approx(1, abs=1e-6)
    # Plackett and Luce, to the power 2: a doubt of 0.02 is twice that of 0.01
    assert odds[0, 2] / odds[0, -1] == pytest.approx(1 / 4, rel=1e-4)
    assert odds[0, 3] / odds[0, -1] == pytest.approx(1 / 100, rel=1e-4)
    assert odds[0, 0] == odds[0, 1] == 0


def test_an_order_that_is_known_has_no_other_decision():
    accepted, eligible = flags(0, 1, 0, 0), flags(0, 1, 1, 1)
    odds, _ = chances(floats(0, -1, -2, -3), accepted, eligible, config(score="position"), is_certain=True)
    assert odds[0].tolist() == [0, 0, 0, 0, 1]


def test_of_a_set_each_candidate_may_change_sides():
    score, accepted, eligible = floats(-0.1, -0.39, -0.41, -2.0), flags(1, 1, 0, 0), flags(1, 1, 1, 1)
    odds, swaps = chances(score, accepted, eligible, config(selection="threshold", score="entropy", threshold=0.4))
    assert not swaps.any() and odds.sum() == pytest.approx(1, abs=1e-6)
    assert odds[0].argsort().tolist()[-3:] in ([2, 1, 4], [1, 2, 4])
    assert min(odds[0, 1], odds[0, 2]) > 100 * max(odds[0, 0], odds[0, 3])


def test_progress_that_was_forced_is_an_order():
    odds, swaps = chances(
        floats(0.5, 0.4, 0.1),
        flags(1, 0, 0),
        flags(1, 1, 1),
        config(selection="threshold", score="probability", threshold=0.9),
    )
    assert swaps.all() and odds[0, 1] > odds[0, 2] > 0 == odds[0, 0]


def test_without_a_decision_nothing_is_likely():
    assert not chances(floats(0.5, 0.4), flags(0, 0), flags(0, 0), config())[0].any()


def test_orders_of_the_same_commits_meet_in_one_state():
    tokens, score = np.array([[3, 10, 11, 12, 13]]), floats(0, 0.9, 0.9, 0.1, 0.1)
    outlook, root = Outlook(1, 5), canvas_with({})
    proposal, seen = Proposal(tokens, score, score), []
    lanes, name, chance = [root], names_of_states(root), np.ones(1, dtype=np.float32)
    for _ in range(3):
        eligible = ~lanes[-1].committed
        accepted = eligible & (np.arange(5) == np.where(eligible, score, -1).argmax(axis=1)[:, None])
        outlook.add(lanes[-1], name, chance, proposal, accepted, eligible, config())
        parent, chosen, _, name, chance = outlook.likeliest()
        before = lanes[parent[0]].committed[0]
        seen.append((before | chosen[0]).nonzero()[0].tolist())
        lanes.append(canvas_with({position: int(tokens[0, position]) for position in seen[-1] if position}))
    # each of the two comes first in half of the cases, and after either the other one
    assert sorted(seen[:2]) == [[0, 1], [0, 2]] and seen[2] == [0, 1, 2]
    assert chance[0] == pytest.approx(1, abs=0.05)


def test_the_nearest_state_stands_in():
    states = [canvas_with({}), canvas_with({1: 10}), canvas_with({1: 10, 2: 11, 3: 12}), canvas_with({1: 9, 2: 11})]
    shown = np.ones((1, 4, 5), dtype=np.bool_)
    score = np.tile(np.arange(4, dtype=np.float32)[None, :, None], (1, 1, 5))
    seen = Seen(
        kept=np.array([0]),
        exists=np.ones((1, 4), dtype=np.bool_),
        committed=np.stack([state.committed[0] for state in states])[None],
        tokens=np.stack([state.tokens[0] for state in states])[None],
        shown=shown,
        proposed=np.zeros((1, 4, 5), dtype=np.int64),
        score=score,
        forced_score=score,
    )

    def nearest(committed):
        return int(seen.proposal_at(seen.nearest(canvas_with(committed)))[0].score[0, 0])

    assert nearest({1: 10}) == 1
    assert nearest({1: 10, 2: 11}) == 1  # a state that has more is further than one that lacks as much
    assert nearest({1: 10, 2: 11, 3: 12, 4: 13}) == 2
    assert nearest({1: 9, 2: 11, 4: 13}) == 3
    assert nearest({1: 11, 2: 11}) == 0  # a wrong token is worse than all that another state lacks
    seen.exists[0, 3] = False
    assert nearest({1: 9, 2: 11, 4: 13}) == 0
