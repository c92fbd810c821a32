"""The loop takes decoders that it was not written for: they revise, mask again, and verify, without a change to it."""

import numpy as np
import pytest
import torch
from transformers.utils import ModelOutput

from d3llm.generation import decoding_diffusion, windows
from d3llm.generation.canvas import Proposal, gather
from d3llm.generation.decoding_run import DecodingRun
from d3llm.generation.windows import WholeCanvas, Window
from d3llm.modeling import LLaDAModelLM
from tests.helpers.decoding import MASK, prompts
from tests.helpers.models import tiny_model


EDITS = 4  # forwards of a block after its last mask


class Editing(WholeCanvas):
    """Token editing (LLaDA2.1, joint threshold): in the current block a committed token gives way to another one that
    is sure enough. A block is left when nothing was edited, or after `EDITS` forwards without a mask."""

    def __init__(self, edit_threshold: float):
        self.edit_threshold = edit_threshold
        self.edited, self.unmasked, self.edits = None, None, 0

    def must_stay(self, canvas):
        if self.edited is None:
            self.edited, self.unmasked = np.zeros_like(canvas.ended), np.zeros_like(canvas.opened)
        complete = canvas.masks_left_in(canvas.current.clip(min=0)) == 0
        self.unmasked = np.where(complete, self.unmasked + 1, 0)
        return complete & self.edited & (self.unmasked <= EDITS) & (canvas.current >= 0)

    def window(self, canvas, open_positions, forward):
        window = super().window(canvas, open_positions, forward)
        editable = (canvas.block_of == canvas.current[:, None]) & canvas.committed & ~canvas.given
        return Window(window.positions, window.candidates | editable, window.eligible)

    def revise(self, canvas, positions, proposal, accepted):
        was_committed = gather(canvas.committed & ~canvas.given, positions)
        differs = proposal.tokens != gather(canvas.tokens, positions)
        edited = was_committed & differs & (proposal.score > self.edit_threshold)
        self.edited, self.edits = edited.any(axis=1), self.edits + int(edited.sum())
        return accepted | edited

    def select_rows(self, rows):
        self.edited, self.unmasked = self.edited[rows], self.unmasked[rows]


class Remasking(WholeCanvas):
    """The first decoded token of each of the first `times` forwards is masked again, as ReMDM (arXiv 2503.00307) does
    with some at random."""

    def __init__(self, times: int):
        self.times = times

    def revise(self, canvas, positions, proposal, accepted):
        if self.times:
            self.times -= 1
            decoded = canvas.committed & ~canvas.given
            canvas.remask(decoded & (decoded.cumsum(axis=1) == 1), MASK)
        return accepted


@pytest.fixture
def model():
    return tiny_model(LLaDAModelLM)


def test_a_policy_revises_committed_tokens(model, monkeypatch):
    arguments = {"max_new_tokens": 24, "block_size": 8, "early_stop": False, "return_dict_in_generate": True}
    arguments |= {"score": "probability", "threshold": 0.1, "output_history": True}
    ids = prompts([6])[0][None]
    plain = model.generate(ids, **arguments)
    policy = Editing(edit_threshold=0.0)
    monkeypatch.setitem(windows.POLICIES, "none", lambda *_: policy)
    edited = model.generate(ids, **arguments)
    assert policy.edits and edited.forward_passes > plain.forward_passes
    assert not (edited.sequences == MASK).any()
    # The text is a fixed point: the last block would be proposed again as it is, unless it ran out of edits.
    canvas = edited.history[0]
    changed = (canvas[1:] != canvas[:-1]) & (canvas[:-1] != MASK)
    assert int(changed.sum()) == policy.edits
    steps = edited.commit_steps[0]
    for position in range(24):  # a revised token has the forward that revised it last
        column = canvas[:, 6 + position]
        last = max([0, *((column[1:] != column[:-1]).nonzero()[:, 0] + 1).tolist()])
        assert steps[position] == last + 1


def test_an_editing_policy_without_edits_is_the_plain_decoder(model, monkeypatch):
    arguments = {"max_new_tokens": 24, "block_size": 8, "early_stop": False, "score": "probability", "threshold": 0.1}
    ids = prompts([6])[0][None]
    plain = model.generate(ids, **arguments)
    monkeypatch.setitem(windows.POLICIES, "none", lambda *_: Editing(edit_threshold=1.0))
    assert torch.equal(model.generate(ids, **arguments), plain)


def test_a_policy_masks_tokens_again(model, monkeypatch):
    arguments = {"max_new_tokens": 16, "block_size": 8, "early_stop": False, "return_dict_in_generate": True}
    arguments |= {"selection": "count", "output_history": True}
    ids = prompts([6])[0][None]
    assert model.generate(ids, **arguments).forward_passes == 16
    monkeypatch.setitem(windows.POLICIES, "none", lambda *_: Remasking(times=4))
    output = model.generate(ids, **arguments)
    assert output.forward_passes == 16 + 3  # the first of the four finds nothing to mask
    masked_again = (output.history[0, 1:] == MASK) & (output.history[0, :-1] != MASK)
    assert int(masked_again.sum()) == 3 and not (output.sequences == MASK).any()
    assert (output.commit_steps > 0).all()


class VerifyingRun(DecodingRun):
    """Self-speculation (S2D2, arXiv 2603.25702, greedy): all candidates are drafted at once, a second forward with
    causal attention reads them, and the longest prefix that it agrees with is committed, at least one token."""

    def propose(self, states):
        draft = super().propose(states)
        in_order = self.positions.argsort(axis=1)
        self.positions = gather(self.positions, in_order)
        tokens = self.canvas.tokens.copy()
        np.put_along_axis(tokens, self.positions, gather(draft.tokens, in_order), axis=1)
        self.forwards += 1
        length = tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        seen: ModelOutput = self.model(self.upload(tokens), attention_mask=causal.expand(len(tokens), 1, -1, -1))
        verified = seen.logits.index_fill(-1, torch.tensor([MASK]), -torch.inf).argmax(dim=-1).numpy()
        before = (self.positions - 1).clip(min=0)
        self.agrees = gather(verified, before) == gather(tokens, self.positions)
        return Proposal(gather(tokens, self.positions), *[gather(draft.score, in_order)] * 2)

    def select(self, proposal):
        prefix = self.agrees.cumprod(axis=1) > 0
        return prefix | (np.arange(prefix.shape[1]) == 0)


def test_a_step_verifies_a_draft_with_another_attention(model, monkeypatch):
    monkeypatch.setattr(decoding_diffusion, "DecodingRun", VerifyingRun)
    ids = prompts([6])[0][None]
    output = model.generate(ids, max_new_tokens=16, block_size=16, early_stop=False, return_dict_in_generate=True)
    steps = output.commit_steps[0]
    assert (steps.diff() >= 0).all() and not (output.sequences == MASK).any()
    # Each accepted token but the first of a step is what causal attention predicts after the text before it.
    for position in range(1, 16):
        if steps[position] == steps[position - 1]:
            causal = torch.ones(22, 22, dtype=torch.bool).tril()[None, None]
            logits = model(output.sequences, attention_mask=causal).logits[0, 5 + position]
            logits[MASK] = -torch.inf
            assert logits.argmax() == output.sequences[0, 6 + position]


@pytest.mark.parametrize("cache", ["none", "block"])
def test_blocks_of_the_decoder_inside_blocks_of_the_attention(model, cache):
    """A forward of block-causal attention with blocks of 8, decoded in blocks of 4, against a mask made by hand."""
    ids = prompts([6])[0][None]
    arguments = {"preset": "d2f", "max_new_tokens": 16, "threshold": 1.0, "early_stop": False, "cache": cache}
    arguments |= {"block_add_threshold": 1.0, "cache_refresh_interval": 1, "output_history": True}
    output = model.generate(ids, block_size=4, attention_block_size=8, return_dict_in_generate=True, **arguments)
    blocks = torch.cat([torch.zeros(6), 1 + torch.arange(16) // 8])
    visible = (blocks[None, :] <= blocks[:, None])[None, None]
    canvas = torch.cat([ids, torch.full((1, 16), MASK)], dim=1)
    for forward in range(int(output.forward_passes)):
        logits = model(canvas, attention_mask=visible).logits[0, 6:]
        logits[:, MASK] = -torch.inf
        masked = canvas[0, 6:] == MASK
        current = int(masked.nonzero()[0]) // 4
        score = logits.softmax(dim=-1).amax(dim=-1)
        score[~masked | (torch.arange(16) // 4 != current)] = -1
        best = int(score.argmax())
        canvas[0, 6 + best] = logits[best].argmax()
        assert torch.equal(canvas, output.history[:, forward])
    same = model.generate(ids, block_size=4, attention_block_size=4, **arguments)
    assert torch.equal(same, model.generate(ids, block_size=4, **arguments))
    assert not torch.equal(same, output.sequences)


def test_block_sizes_that_do_not_fit(model):
    ids = prompts([6])[0][None]
    with pytest.raises(ValueError, match="one must divide the other"):
        model.generate(ids, preset="d2f", block_size=6, attention_block_size=4)
    with pytest.raises(ValueError, match="is for `attention`='block_causal'"):
        model.generate(ids, preset="d3llm", attention_block_size=4)
