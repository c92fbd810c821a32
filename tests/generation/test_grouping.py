"""Rows that share a call: the division computes the fewest positions, and changes no row."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from d3llm.generation import decoding_run
from d3llm.generation.grouping import CALL_POSITIONS, MOST_CALLS, group_rows
from tests.helpers.decoding import left_pad, prompts


def cost(groups, widths) -> int:
    return sum((len(widths) if rows is None else len(rows)) * width + CALL_POSITIONS for rows, width in groups)


def test_the_division_is_the_cheapest():
    generator = np.random.default_rng(0)
    for _ in range(200):
        widths = generator.integers(1, 400, size=generator.integers(1, 9))
        groups = group_rows(widths)
        rows = [row for rows, _ in groups for row in (range(len(widths)) if rows is None else rows)]
        assert sorted(rows) == list(range(len(widths)))
        for rows, width in groups:
            assert width == (widths.max() if rows is None else widths[rows].max())
        ordered = sorted(widths, reverse=True)
        cheapest = min(
            sum((end - start) * ordered[start] + CALL_POSITIONS for start, end in pairwise([0, *cuts, len(ordered)]))
            for calls in range(1, min(len(ordered), MOST_CALLS) + 1)
            for cuts in combinations(range(1, len(ordered)), calls - 1)
        )
        assert cost(groups, widths) == cheapest


@pytest.mark.parametrize(
    "arguments",
    [
        {"preset": "fast_dllm", "threshold": 0.3},
        {"preset": "fast_dllm", "threshold": 0.3, "cache": "prefix"},
        {"preset": "d3llm", "threshold": 1.0, "cache": "block"},
        {"preset": "d3llm", "threshold": 1.0, "cache": "block", "cache_delay": 1, "cache_refresh_interval": 1000},
        # smaller windows share a call, however ragged they are
        {"preset": "d2f", "threshold": 0.3, "max_new_tokens": 112, "block_size": 16},
        {"preset": "fast_dllm", "threshold": 0.3, "cfg_scale": 0.5},
    ],
    ids=["dual", "prefix", "block", "block-no-refresh", "d2f", "guided"],
)
def test_work_is_close_to_need_and_rows_are_those_of_one_call(model, monkeypatch, arguments):
    batch = 8 if model.logits_shift == 0 else 4  # a size for each family
    ids, mask = left_pad(prompts(range(3, 3 + batch)))
    computed, needed, forward, call = [], [], decoding_run.DecodingRun.forward, model.forward

    def watched(run):
        needed.append(int(run.window.positions.sum()) * (2 if "cfg_scale" in arguments else 1))
        computed.append(0)
        return forward(run)

    def counted(**inputs):
        computed[-1] += inputs["input_ids"].numel()
        return call(**inputs)

    monkeypatch.setattr(decoding_run.DecodingRun, "forward", watched)
    monkeypatch.setattr(model, "forward", counted)
    given = {"max_new_tokens": 56, "block_size": 8, **arguments, "attention_mask": mask, "early_stop": False}
    given |= {"return_dict_in_generate": True}
    grouped = model.generate(ids, **given)
    # The first forward fills the cache in one call, whatever the padding.
    assert sum(computed[1:]) <= 1.15 * sum(needed[1:])
    monkeypatch.setattr(decoding_run, "group_rows", lambda widths: [(None, int(widths.max()))])
    together = model.generate(ids, **given)
    for field in ("sequences", "commit_steps", "forward_passes"):
        assert torch.equal(getattr(grouped, field), getattr(together, field)), field


def test_a_completed_block_may_be_left_at_once(model):
    ids = prompts([6])[0][None]
    given = {"preset": "fast_dllm", "threshold": 0.0, "max_new_tokens": 32, "block_size": 8, "early_stop": False}
    given |= {"return_dict_in_generate": True}
    published = model.generate(ids, **given)
    left = model.generate(ids, leave_completed_blocks=True, **given)
    assert published.forward_passes == 8 and left.forward_passes == 4
    assert torch.equal(left.sequences, published.sequences)


def test_the_window_of_opened_blocks_does_not_grow_with_the_canvas(model, monkeypatch):
    windows, forward = [], decoding_run.DecodingRun.forward

    def watched(run):
        windows.append(int(run.window.positions.sum()))
        return forward(run)

    monkeypatch.setattr(decoding_run.DecodingRun, "forward", watched)
    ids = prompts([6])[0][None]
    given = {"preset": "d3llm_opened", "threshold": 1.0, "block_size": 8, "early_stop": False}
    for length in (64, 128):
        windows.clear()
        model.generate(ids, max_new_tokens=length, block_add_threshold=1.0, **given)
        assert windows[0] == 6 + length  # the first forward fills the cache
        # a block that waits to settle, the current one, and of shifted logits the row before
        assert max(windows[1:]) <= 2 * 8 + 1
