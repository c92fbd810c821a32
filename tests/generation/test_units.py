"""The decoder's parts against recorded calls of d3LLM's own functions (golden/units).

Left out of the recordings, since nothing here is to equal them:

- the last digits of `entropy_f64_eps1e-12`: entropies are float32 here, compared at the tolerance of float32;
- `is_complete` and `total_masks` of `early_stop`: d3LLM marks the blocks after an EOS as activated and counts the
  prompt as masked; here a row that has ended opens no block, and the size of a block is what was masked in it.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.canvas import Canvas, Proposal
from d3llm.generation.proposals import propose
from d3llm.generation.selection import select
from d3llm.generation.visibility import Visibility
from tests.helpers.golden import GOLDEN


pytestmark = pytest.mark.golden
UNITS = json.loads((GOLDEN / "units" / "units.json").read_text())
MASK = UNITS.get("mask_id")


def recorded(name):
    """Parameters of a test: the recorded calls of one function."""
    return pytest.mark.parametrize("case", UNITS.get(name, []))


@pytest.fixture(scope="module")
def tensors(golden):
    return load_file(golden / "units" / "units.safetensors")


def canvas_of(tokens: torch.Tensor, prompt_length: int, block_size: int) -> Canvas:
    """A canvas (1, L) in the middle of a run: what is not a mask token is committed."""
    tokens = tokens.numpy()
    prompt = tokens[None, :prompt_length]
    canvas = Canvas.from_prompt(
        prompt,
        None,
        new_tokens=len(tokens) - prompt_length,
        block_size=block_size,
        mask_token_id=MASK,
        seeds=np.zeros(1, dtype=np.int64),
    )
    canvas.tokens, canvas.committed = tokens[None].copy(), (tokens != MASK)[None]
    canvas.count_masks()
    return canvas


def advance(canvas: Canvas):
    canvas.count_masks()
    canvas.advance_blocks(1.0, 1.0)


def propose_all(tensors, score: str) -> Proposal:
    """A proposal for all positions of the recorded canvas, committed ones too."""
    config = DiffusionGenerationConfig(score=score).resolve()
    canvas = canvas_of(tensors["x"][0], 0, tensors["x"].shape[1])
    return propose([tensors["logits"][0].clone()], canvas.positions[None], canvas, config, MASK, None, 1)


def committed(tensors, **fields) -> tuple[list[int], list[int]]:
    """Positions and tokens that one forward with the recorded logits commits to the recorded canvas."""
    # A threshold that nothing can reach is an error of `generate`; the selection is asked all the same.
    threshold = fields.pop("threshold", None)
    config = DiffusionGenerationConfig(block_size=tensors["x"].shape[1], **fields).resolve()
    config.threshold = config.threshold if threshold is None else threshold
    canvas = canvas_of(tensors["x"][0], 0, config.block_size)
    canvas.masks_at_start = canvas.masks_left
    advance(canvas)
    positions = canvas.positions[None]
    eligible = ~canvas.committed
    proposal = propose([tensors["logits"].flatten(0, 1).clone()], positions, canvas, config, MASK, None, 1)
    canvas.commit(positions, proposal, select(proposal, positions, eligible, canvas, config), 1)
    given = canvas.commit_steps == 0
    assert np.array_equal(canvas.tokens[given], tensors["x"].numpy()[given])
    where = canvas.commit_steps[0].nonzero()[0]
    return where.tolist(), canvas.tokens[0, where].tolist()


@pytest.mark.parametrize(
    ("score", "name", "sign"),
    [
        ("entropy", "entropy_f64_eps1e-12", -1),
        ("entropy", "dream_entropy_f32_eps1e-8", -1),
        ("entropy", "dream_neg_entropy_confidence_f32", 1),
        ("probability", "dream_maskgit_plus_confidence_f32", 1),
        ("probability", "dream_initial_confidence_f32", 1),
        ("margin", "dream_topk_margin_confidence_f32", 1),
    ],
)
def test_scores(tensors, score, name, sign):
    proposal = propose_all(tensors, score)
    torch.testing.assert_close(
        torch.from_numpy(proposal.score[0]), sign * tensors[name].flatten().float(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", ["dream_samples", "dream_x0"])
def test_proposed_tokens(tensors, name):
    assert np.array_equal(propose_all(tensors, "entropy").tokens[0], tensors[name].numpy())


@recorded("transfer_entropy")
def test_threshold_on_entropy(tensors, case):
    assert committed(tensors, score="entropy", threshold=case["threshold"]) == (case["positions"], case["tokens"])


@recorded("transfer_conf_threshold")
def test_threshold_on_probability(tensors, case):
    assert committed(tensors, score="probability", threshold=case["threshold"]) == (case["positions"], case["tokens"])


@recorded("transfer_conf_k")
def test_count(tensors, case):
    masked = int(tensors["mask"].sum())
    steps = -(-masked // case["k"])  # of which the first commits k
    found = committed(tensors, score="probability", selection="count", steps=steps)
    assert found == (case["positions"], case["tokens"])


def test_nothing_masked_commits_nothing(tensors):
    full = tensors | {"x": torch.zeros_like(tensors["x"])}
    assert committed(full, score="entropy", threshold=99.0) == (UNITS["transfer_entropy_no_mask_positions"], [])


@recorded("num_transfer_tokens")
def test_schedule_of_count(case):
    config = DiffusionGenerationConfig(score="probability", selection="count", steps=case["steps"]).resolve()
    size = max(case["mask_count"], 1)
    canvas = canvas_of(torch.full((size,), MASK), 0, size)
    canvas.committed[:, case["mask_count"] :] = True
    positions = np.arange(size)[None]
    scores = np.random.default_rng(0).random((1, size), dtype=np.float32)
    found = []
    while not canvas.committed.all():
        advance(canvas)
        before = int(canvas.committed.sum())
        proposal = Proposal(np.zeros_like(positions), scores, scores)
        accepted = select(proposal, positions, ~canvas.committed, canvas, config)
        canvas.commit(positions, proposal, accepted, len(found) + 1)
        found.append(int(canvas.committed.sum()) - before)
    # d3LLM goes on with forwards that commit nothing, a row here is done
    assert found + [0] * (case["steps"] - len(found)) == case["tokens"]


@recorded("early_stop")
def test_early_stop(case):
    blocks = list(case["block_states_before"].values())
    before, after = torch.tensor(case["x"]), torch.tensor(case["x_after"])
    canvas = canvas_of(before, case["prompt_length"], blocks[1]["end"] - blocks[1]["start"])
    assert canvas.masks_left[0].tolist() == [block["mask_count"] for block in blocks]
    eos = canvas.first_of([case["eos_token_id"]])
    assert eos.item() == (case["first_eos_abs"] if case["has_eos"] else canvas.length)
    canvas.end_after(eos, case["eos_token_id"], forwards=5)
    canvas.count_masks()
    assert canvas.ended.tolist() == [case["has_eos"]]
    assert np.array_equal(canvas.tokens[0], after.numpy())
    assert canvas.masks_left[0].tolist() == [block["mask_count"] for block in case["block_states_after"].values()]
    filled = (before == MASK) & (after != MASK)
    assert np.array_equal(canvas.commit_steps[0], filled.numpy() * 5)


@recorded("block_mask")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_block_causal_visibility(case, attention):
    canvas = canvas_of(torch.full((case["max_length"],), MASK), case["prompt_length"], case["block_size"])
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation=attention), dtype=torch.float32)
    visibility = Visibility(model, canvas, block_causal=True, device=torch.device("cpu"))
    windows = [(0, case["max_length"], case["visible"])]
    windows += [(part["start_pos"], part["input_length"], part["visible"]) for part in case["extract"]]
    for start, width, visible in windows:
        positions = torch.arange(start, start + width)[None]
        mask = visibility.mask(positions, None)
        assert mask.shape == (1, 1, width, canvas.length)
        seen = (mask if attention == "sdpa" else mask == 0)[0, 0]
        expected = torch.tensor(visible).bool()
        # the recorded mask ends with the window; what comes after it is in later blocks
        assert torch.equal(seen[:, : expected.shape[1]], expected)
        assert not seen[:, expected.shape[1] :].any()
