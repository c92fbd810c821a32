"""The prompt and the blocks in their order: when each is filled, with how many forwards, and what a cache keeps."""

import numpy as np
import pytest
import torch

from d3llm.generation import CanvasCache
from d3llm.generation.canvas import Canvas
from d3llm.generation.decoding_run import DecodingRun
from tests.helpers.decoding import MASK, left_pad, prompts


@pytest.mark.parametrize("preset", ["llada", "d3llm"])
def test_masks_in_a_prompt_are_filled_before_the_first_block_opens(model, preset):
    ids = prompts([12])[0][None]
    ids[0, [2, 3, 7]] = MASK
    arguments = {"threshold": 0.0} if preset == "d3llm" else {}
    output = model.generate(
        ids,
        preset=preset,
        block_add_threshold=1.0,
        max_new_tokens=16,
        block_size=8,
        early_stop=False,
        output_history=True,
        return_dict_in_generate=True,
        **arguments,
    )
    in_prompt = (output.history[0, :, :12] == MASK).sum(dim=1)
    assert in_prompt[:3].tolist() == [2, 1, 0]
    assert output.commit_steps.min() == 4


def test_the_first_blocks_take_the_remainder_of_the_steps(model):
    output = model.generate(
        prompts([6])[0][None],
        preset="llada",
        steps=8,
        max_new_tokens=12,
        block_size=4,
        early_stop=False,
        return_dict_in_generate=True,
    )
    last = output.commit_steps.view(3, 4).amax(dim=1)
    assert last.tolist() == [3, 6, 8]


@pytest.fixture
def active_blocks(monkeypatch):
    """Unfinished opened blocks (rows,) of every forward."""
    found, forward = [], DecodingRun.forward

    def recorded(run):
        opened = np.arange(run.canvas.masks_left.shape[1]) < run.canvas.opened[:, None]
        found.append((opened & (run.canvas.masks_left > 0)).sum(axis=1))
        return forward(run)

    monkeypatch.setattr(DecodingRun, "forward", recorded)
    return found


@pytest.mark.parametrize("cache", ["none", "block", "opened", "delayed"])
def test_no_more_blocks_are_active_than_asked_for(model, active_blocks, cache):
    ids, mask = left_pad(prompts([4, 9, 13]))
    ids[2, -3] = MASK
    given = {"preset": "d3llm", "threshold": 1.5, "block_add_threshold": 0.0, "cache": cache, "block_size": 4}
    given |= {"max_new_tokens": 18, "early_stop": False, "attention_mask": mask, "return_dict_in_generate": True}
    bounded = {}
    for most in (1, 2, 3):
        active_blocks.clear()
        bounded[most] = model.generate(ids, **given, max_active_blocks=most)
        assert max(rows.max() for rows in active_blocks) == most
    active_blocks.clear()
    unbounded = model.generate(ids, **given)
    assert max(rows.max() for rows in active_blocks) > 3
    sequential = model.generate(ids, **given | {"block_add_threshold": 1.0})
    assert torch.equal(bounded[1].commit_steps, sequential.commit_steps)
    assert torch.equal(bounded[1].sequences, sequential.sequences)
    assert not torch.equal(bounded[1].commit_steps, unbounded.commit_steps)
    many = model.generate(ids, **given, max_active_blocks=30)
    assert torch.equal(many.commit_steps, unbounded.commit_steps)


def test_a_finished_block_after_an_unfinished_one_keeps_its_place():
    canvas = Canvas.from_prompt(
        np.ones((1, 2), dtype=np.int64),
        None,
        new_tokens=8,
        block_size=2,
        mask_token_id=MASK,
        seeds=np.zeros(1, dtype=np.int64),
    )
    for committed, opened in (([], 3), ([3, 4, 5], 3), ([2], 4), ([], 5), ([], 5)):
        canvas.committed = canvas.committed.copy()
        canvas.committed[0, committed] = True
        canvas.count_masks()
        canvas.advance_blocks(0.0, 1.0, 2)
        assert canvas.opened.tolist() == [opened]


def test_a_cache_is_kept_up_to_the_first_difference():
    cache, tokens = CanvasCache(2, 12), np.arange(12)[None]
    for layer in range(2):
        cache.update(torch.ones(1, 2, 12, 4), torch.ones(1, 2, 12, 4), layer)
    cache.record_tokens(tokens, tokens, np.zeros(1, dtype=np.int64))
    other = tokens.copy()
    other[0, 5] = 40  # what follows is the same again
    assert cache.reuse_prefix(other, limit=12) == 5
    assert cache.layers[0].keys[0, 0, :, 0].tolist() == [1.0] * 5 + [0.0] * 7
    assert cache.reuse_prefix(tokens, limit=3) == 3


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_block_with_a_cache_takes_a_forward_that_rebuilds_and_one_of_its_own(model, cache):
    ids = prompts([6])[0][None]
    arguments = {"preset": "fast_dllm", "threshold": 0.0, "cache": cache, "max_new_tokens": 24, "block_size": 8}
    arguments |= {"return_dict_in_generate": True}
    output = model.generate(ids, early_stop=False, **arguments)
    assert output.commit_steps.tolist() == [[1] * 8 + [3] * 8 + [5] * 8]  # however sure the others are, they wait
    assert output.forward_passes.tolist() == [6]
    # a row that has ended waits for nothing
    eos = int(output.sequences[0, 6 + 5])
    ended = model.generate(ids, eos_token_id=eos, **arguments)
    assert ended.forward_passes.tolist() == [1]
