"""Block-causal models: the blocks of attention and decoder, exact caches, editing, and the end of a row."""

import pytest
import torch

from d3llm.generation.decoding_run import DecodingRun
from d3llm.modeling import (
    Fast_dLLM_QwenForCausalLM,
    LLaDA2MoeModelLM,
    SDARForCausalLM,
    SDARMoeForCausalLM,
    families,
)
from tests.helpers.decoding import MASK, left_pad, prompts
from tests.helpers.models import tiny_model


BLOCK_CAUSAL = [family for family in families() if family.attention == "block_causal"]
PRESETS = [
    "sdar",
    "sdar_static",
    "sdar_sequential",
    "fast_dllm_v2",
    "llada2",
    "llada21_speed",
    "dmax",
    "d3llm",
    "llada",
]
NEW = 21
RUN = {"max_new_tokens": NEW, "early_stop": False, "return_dict_in_generate": True}
# The rest of the product is slow: presets do not know the families, whose logits are shifted or not.
USUAL = {
    SDARForCausalLM: PRESETS,
    Fast_dLLM_QwenForCausalLM: ["sdar_static", "fast_dllm_v2", "llada21_speed", "d3llm"],
    LLaDA2MoeModelLM: ["llada2", "dmax"],
    SDARMoeForCausalLM: ["sdar"],
}


def cases(*fields):
    """A preset, and what else a test has, with each family."""
    return [
        pytest.param(
            family,
            preset,
            *others,
            id="-".join(map(str, (family.__name__, preset, *others))),
            marks=() if preset in USUAL.get(family, PRESETS) else pytest.mark.slow,
        )
        for family in BLOCK_CAUSAL
        for preset, *others in fields
    ]


def same(one, other, fields=("sequences", "commit_steps", "forward_passes")) -> bool:
    return all(torch.equal(getattr(one, field), getattr(other, field)) for field in fields)


@pytest.fixture(scope="module", params=BLOCK_CAUSAL, ids=lambda family: family.__name__)
def model(request):
    """In float64, so that no tie of scores is broken by the order of a sum; the kernels of experts have no float64."""
    built = tiny_model(request.param)
    built = built if hasattr(built.config, "num_experts") else built.double()
    with torch.no_grad():
        built.get_output_embeddings().weight[[MASK, 0]] = 0.0
        built.get_output_embeddings().weight.mul_(3)
    return built


@pytest.mark.parametrize(
    ("model", "preset", "block_size", "attention_block_size"),
    cases(("sdar", 8, 8), ("sdar", 16, 8), ("sdar", 3, 3), ("d3llm", 16, 8), *((preset, 4, 8) for preset in PRESETS)),
    indirect=["model"],
)
def test_the_block_cache_is_exact(model, preset, block_size, attention_block_size):
    ids = prompts([11])[0][None]
    given = {
        "preset": preset,
        "block_size": block_size,
        "attention_block_size": attention_block_size,
        "threshold": 0.4,
    }
    if preset in ("llada21_speed", "dmax"):
        given |= {"edit_threshold": 0.2, "edit_forwards": 3}
    plain = model.generate(ids, cache="none", **given, **RUN)
    cached = model.generate(ids, cache="block", cache_delay=0, cache_refresh_interval=None, **given, **RUN)
    assert same(plain, cached)
    if preset == "sdar_static":
        assert plain.forward_passes.item() == NEW


@pytest.mark.parametrize("cache", ["prefix", "dual", "delayed", "vicinity", "block", "opened"])
def test_a_forward_sees_nothing_that_was_not_computed(model, cache, monkeypatch):
    """Blocks of the attention that hold several of the decoder's are seen as soon as the first of them opens."""
    propose, forwards = DecodingRun.propose, []

    def checked(run, states):
        visible = run.canvas.in_visible_blocks()
        assert (run.cache.tokens[run.canvas.row_ids][visible] >= 0).all()
        forwards.append(run.forwards)
        return propose(run, states)

    monkeypatch.setattr(DecodingRun, "propose", checked)
    ids = prompts([11])[0][None]
    ids[0, [1, 6]] = MASK  # the tokens after them are in blocks that are not open at first
    sizes = {"block_size": 4, "attention_block_size": 8, "block_add_threshold": 0.5}
    model.generate(ids, preset="d3llm", threshold=0.4, cache=cache, cache_delay=1, **sizes, **RUN)
    assert forwards


@pytest.mark.parametrize(("model", "preset"), cases(*((preset,) for preset in PRESETS)), indirect=["model"])
def test_rows_of_a_ragged_batch_are_those_of_the_row_alone(model, preset):
    texts = prompts([3, 11])
    ids, mask = left_pad(texts)
    given = {"preset": preset, "attention_block_size": 8, "block_size": 4, "threshold": 0.4, "edit_forwards": 3}
    together = model.generate(ids, attention_mask=mask, **given, **RUN)
    for row, text in enumerate(texts):
        alone = model.generate(text[None], **given, **RUN)
        assert torch.equal(together.sequences[row, -NEW:], alone.sequences[0, -NEW:])
        assert torch.equal(together.commit_steps[row], alone.commit_steps[0])
        assert together.forward_passes[row] == alone.forward_passes[0]


@pytest.mark.parametrize("first_prompt", [8, 11])
def test_the_next_turn_of_a_chat_reuses_the_cache_exactly(model, first_prompt, monkeypatch):
    given = {"preset": "llada2", "attention_block_size": 8, "threshold": 0.4} | RUN
    first = model.generate(prompts([first_prompt])[0][None], **given)
    second = torch.cat([first.sequences, prompts([5], seed=2)[0][None]], dim=1)
    fresh = model.generate(second, **given)
    widths, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: widths.append(inputs["input_ids"].shape[1]) or forward(**inputs)
    )
    resumed = model.generate(second, cache=first.cache, **given)
    assert same(fresh, resumed)
    # the last block of the first turn was not computed with its last tokens
    assert max(widths) <= second.shape[1] + NEW - (first_prompt + NEW) // 8 * 8 + 16


def test_a_forward_against_a_mask_made_by_hand(model):
    """The grid is absolute: the end of the prompt shares a block with the first new tokens."""
    ids = prompts([11])[0][None]
    given = {"preset": "sdar_static", "block_size": 8, "attention_block_size": 8, "output_history": True}
    output = model.generate(ids, **given, **RUN)
    canvas = torch.cat([ids, torch.full((1, NEW), MASK)], dim=1)
    blocks = torch.arange(11 + NEW) // 8
    visible = (blocks[None, :] <= blocks[:, None])[None, None]
    for forward in range(NEW):
        logits = model(canvas, attention_mask=visible).logits[0]
        logits[:, MASK] = -torch.inf
        rows = model.logit_rows(torch.arange(11 + NEW))
        masked = canvas[0] == MASK
        candidates = masked & (blocks == blocks[masked].min())
        score = torch.where(candidates, logits[rows].softmax(dim=-1).amax(dim=-1), -1)
        best = int(score.argmax())
        canvas[0, best] = logits[rows[best]].argmax()
        assert torch.equal(canvas, output.history[:, forward])


def test_a_size_that_the_weights_were_not_trained_with_is_said(model, caplog):
    model.generate(prompts([4])[0][None], attention_block_size=16, max_new_tokens=4)
    said = [record.getMessage() for record in caplog.records]
    if model.attention_block_size != 16 and said:  # once in a process
        assert any("was trained with blocks of" in line for line in said)


def test_editing_revises_and_ends(model):
    ids, given = prompts([5])[0][None], {"preset": "llada21_speed", "block_size": 8, "attention_block_size": 8}
    given |= {"threshold": 0.1, "output_history": True}
    drafted = model.generate(ids, edit_threshold=1.0, **given, **RUN)  # nothing is surer than that
    edited = model.generate(ids, edit_threshold=0.0, edit_forwards=5, **given, **RUN)
    history, before = edited.history[0, 1:], edited.history[0, :-1]
    revised = (history != before) & (before != MASK)
    assert revised.any() and not revised[:, :5].any()
    # a revised position has the step of its last revision
    last = (history != before).long().argmax(dim=0)
    assert (edited.commit_steps[0] >= 1).all() and edited.commit_steps.max() <= edited.forward_passes
    assert (last[5:] + 1 <= edited.commit_steps[0]).all()
    # a block without edits costs one forward more; one that is always edited, five
    blocks = 4
    plain = model.generate(ids, **given | {"preset": "llada2"}, **RUN)
    assert drafted.forward_passes - plain.forward_passes == blocks
    assert edited.forward_passes <= plain.forward_passes + 5 * blocks


@pytest.mark.parametrize("rule", ["at_once", "no_gap", "new_eos", "block"])
def test_when_an_eos_ends_its_row(model, rule):
    ids = prompts([6])[0][None]
    given = {"preset": "sdar_static", "block_size": 8, "attention_block_size": 8, "output_history": True}
    whole = model.generate(ids, **given, **RUN)
    steps = whole.commit_steps[0]
    position = int(steps[2:10].argmin()) + 2  # of the second block, the one that is committed first
    eos = int(whole.sequences[0, 6 + position])
    first = int((whole.sequences[0, 6:] == eos).long().argmax())
    ended = model.generate(ids, eos_token_id=eos, early_stop_rule=rule, **given, **RUN | {"early_stop": True})
    assert (ended.sequences[0, 6 + first :] == eos).all()
    assert not (ended.sequences == MASK).any()
    in_block = steps[2:10].max() if first >= 2 else steps[:2].max()
    before_eos = steps[: first + 1].max()
    expected = {"block": int(in_block), "no_gap": int(before_eos)}
    if rule in expected:
        assert ended.forward_passes.item() == expected[rule]
        assert torch.equal(ended.commit_steps[0, : first + 1], steps[: first + 1])
    elif rule == "new_eos":
        assert expected["no_gap"] <= ended.forward_passes.item() <= expected["block"]
