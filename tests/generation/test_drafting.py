"""Drafts: the text of the decoder without them, in fewer forwards; branches; what does not go with them."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from d3llm.generation.drafting import PLACE, DraftingRun
from d3llm.generation.lanes import Lane
from d3llm.generation.presets import PRESETS
from d3llm.generation.windows import WholeCanvas
from d3llm.modeling import DreamModel, LLaDAModelLM, SDARForCausalLM
from tests.helpers.decoding import MASK, left_pad, prompts
from tests.helpers.models import tiny_model


RUN = {"max_new_tokens": 24, "return_dict_in_generate": True, "eos_token_id": 7, "block_size": 8}
SDAR = {"preset": "sdar", "threshold": 0.5, "attention_block_size": 8, "cache": "block"}
BASES = {
    "llada": {"preset": "llada"},
    "left to right": {"preset": "llada", "score": "position"},
    "llada in steps": {"preset": "llada", "steps": 9},
    "dream": {"preset": "dream"},
    "dparallel": {"preset": "dparallel", "threshold": 1.0},
    "d3llm": {"preset": "d3llm", "threshold": 1.0},
    "d3llm in small blocks": {"preset": "d3llm", "threshold": 1.0, "block_size": 2},
    "fast_dllm": {"preset": "fast_dllm", "threshold": 0.4, "cache": "none"},
    "factor": {"preset": "fast_dllm_factor", "cache": "none"},
    "frechet": {"preset": "frechet", "frechet_margin": 0.05, "cache": "none"},
    "wedlm": {"preset": "wedlm", "threshold": 1.0, "position_penalty": 0.1},
    "multi_bd": {"preset": "multi_bd", "threshold": 0.5, "attention_block_size": 8, "max_active_blocks": 2},
    "sdar": SDAR,
    "sdar in parts": SDAR | {"block_size": 4},
    "d2f": {"preset": "d2f", "threshold": 0.4},
}


@pytest.fixture(scope="module", params=[LLaDAModelLM, DreamModel, SDARForCausalLM], ids=lambda family: family.__name__)
def models(request):
    """Random models in float64, so that no tie of scores is broken by the order of a sum."""
    built = [tiny_model(request.param, seed=seed).double() for seed in range(2)]
    for model in built:
        with torch.no_grad():
            model.get_output_embeddings().weight[MASK] = 0.0
            model.get_output_embeddings().weight.mul_(3)
    return built


def draws(seed):
    """Random batches and fields for each base."""
    rng = random.Random(seed)
    for base in BASES:
        caches = ["none", "block"] if "attention_block_size" in BASES[base] else ["none"]
        drafts = {
            "draft_states": rng.choice([2, 3, 5, 8, 16, 64]),
            "draft_order": rng.choice(["score", "score", "left_to_right"]),
            "draft_chance": rng.choice([0.0, 0.02, 0.2]),
        }
        run = {"cache": rng.choice(caches), "early_stop_rule": rng.choice(["at_once", "no_gap"])}
        run |= {"max_new_tokens": rng.choice([11, 24]), "early_stop": rng.random() < 0.8, "output_logprobs": True}
        yield base, [rng.randint(2, 9) for _ in range(rng.randint(1, 4))], RUN | BASES[base] | run, drafts


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_the_text_is_that_of_the_decoder_without_drafts(models, seed):
    """Every text, and what is documented of the forwards, in 45 random runs, and 135 more that are slow."""
    for index, (base, lengths, given, drafts) in enumerate(draws(f"{seed} {type(models[0]).__name__}")):
        model, (ids, mask) = models[index % 2], left_pad(prompts(lengths, seed=index))
        plain = model.generate(ids, attention_mask=mask, **given)
        drafted = model.generate(ids, attention_mask=mask, **given | drafts)
        run = f"{base}, {lengths}, {given}, {drafts}"
        assert torch.equal(plain.row_forwards, plain.forward_passes), run
        assert torch.equal(drafted.sequences, plain.sequences), run
        torch.testing.assert_close(drafted.logprobs, plain.logprobs, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert (drafted.forward_passes <= plain.forward_passes).all(), run
        assert (drafted.row_forwards <= drafts["draft_states"] * drafted.forward_passes).all(), run
        assert (drafted.row_forwards >= drafted.forward_passes).all(), run
        # what the decoder commits in different forwards may be committed in one, never the other way round
        order = plain.commit_steps[:, :, None] < plain.commit_steps[:, None]
        assert not (order & (drafted.commit_steps[:, :, None] > drafted.commit_steps[:, None])).any(), run


@pytest.mark.parametrize("place", [*PLACE, "settled"])
def test_the_same_commits_from_another_place_are_another_state(place):
    """Two lanes of a row, of which the second follows from the first, and a third one that leads to the same set."""
    canvas = SimpleNamespace(**{name: np.zeros(3, dtype=np.int64) for name in PLACE})
    policy = WholeCanvas()
    policy.settled = np.zeros(3, dtype=np.int64)
    run = DraftingRun.__new__(DraftingRun)
    run.canvas, run.policy = canvas, policy
    committed, tokens, first = np.ones((1, 4), dtype=np.bool_), np.ones((1, 4), dtype=np.int64), np.array([0])
    lane = Lane(canvas, policy, None, np.ones(1, dtype=np.bool_), first, committed, tokens)
    assert run.is_state(lane, committed, tokens, np.array([2]))
    getattr(policy if place == "settled" else canvas, place)[2] = 1
    assert not run.is_state(lane, committed, tokens, np.array([2]))
    assert run.is_state(lane, committed, tokens, first)


@pytest.mark.parametrize(
    "given",
    [{"preset": "llada", "draft_states": 8}, {"preset": "lopa", "branches": 6, "attention": "block_causal"}],
    ids=["drafts", "branches"],
)
def test_what_an_eos_fills_has_the_step_of_the_fill(models, given):
    run = RUN | given | {"eos_token_id": [0, *range(2, 14)], "max_new_tokens": 16, "output_history": True}
    for seed, model in enumerate(models):
        ids, mask = left_pad(prompts(range(3, 9), seed=seed))
        output = model.generate(ids, attention_mask=mask, **run)
        for step, states in enumerate(output.history[:, :, ids.shape[1] :].unbind(1), start=1):
            assert torch.equal(output.commit_steps > step, states == MASK)


def test_one_token_per_forward_takes_fewer_forwards(models):
    for seed, model in enumerate(models):
        output = model.generate(prompts([6], seed=seed)[0][None], preset="self_speculative", early_stop=False, **RUN)
        assert output.forward_passes.item() < 24
        assert output.tokens_per_forward.item() > 1


def test_from_left_to_right_blocks_of_the_decoder_change_no_text(models):
    """So that drafts may go on into the next block of attention, in no more forwards."""
    ids, mask = left_pad(prompts([5, 9, 3]))
    run = RUN | {"score": "position", "attention": "block_causal", "attention_block_size": 8, "cache": "block"}
    run |= {"cache_delay": 0, "attention_mask": mask, "max_new_tokens": 16}
    plain = models[0].generate(ids, preset="llada", **run)
    outputs = [
        models[0].generate(ids, preset="llada", draft_states=8, **run | {"block_size": size}) for size in (8, 16)
    ]
    for output in outputs:
        assert torch.equal(output.sequences, plain.sequences)
    assert outputs[1].forward_passes.sum() <= outputs[0].forward_passes.sum() < plain.forward_passes.sum()


@pytest.mark.parametrize("base", [BASES["llada"], BASES["d3llm"], BASES["sdar"]], ids=["llada", "d3llm", "sdar"])
def test_rows_of_a_batch_are_those_of_the_row_alone(models, base):
    texts = prompts([5, 9, 3])
    ids, mask = left_pad(texts)
    given = RUN | base | {"max_new_tokens": 16, "draft_states": 4}
    together = models[0].generate(ids, attention_mask=mask, **given)
    for row, text in enumerate(texts):
        alone = models[0].generate(text[None], **given)
        assert torch.equal(together.commit_steps[row], alone.commit_steps[0])
        for field in ("forward_passes", "row_forwards"):
            assert getattr(together, field)[row] == getattr(alone, field)[0]


def test_the_next_turn_reuses_the_cache_exactly():
    model = tiny_model(SDARForCausalLM).double()
    given = RUN | BASES["sdar"] | {"early_stop": False}
    first = model.generate(prompts([8])[0][None], draft_states=4, **given)
    second = torch.cat([first.sequences, prompts([5], seed=2)[0][None]], dim=1)
    resumed = model.generate(second, draft_states=4, **given | {"cache": first.cache})
    assert torch.equal(resumed.sequences, model.generate(second, **given).sequences)


def test_a_single_branch_changes_nothing_and_more_are_counted(models):
    model = models[0]
    ids, mask = left_pad(prompts([5, 9, 3]))
    given = RUN | {"threshold": 0.5, "attention_mask": mask, "early_stop": False}
    given |= {"attention_block_size": 8, "cache_refresh_interval": None}
    d2f = model.generate(ids, preset="d2f", **given)
    assert torch.equal(model.generate(ids, preset="lopa", branches=1, **given).sequences, d2f.sequences)
    lopa = model.generate(ids, preset="lopa", **given)
    assert (lopa.row_forwards > lopa.forward_passes).all() and not (lopa.sequences == MASK).any()
    assert (lopa.row_forwards <= PRESETS["lopa"].values["branches"] * lopa.forward_passes).all()
    for row, text in enumerate(prompts([5, 9, 3])):
        alone = model.generate(text[None], preset="lopa", **given | {"attention_mask": None})
        assert np.array_equal(lopa.commit_steps[row], alone.commit_steps[0])


def test_guidance_takes_two_rows_a_forward(models):
    ids, mask = left_pad(prompts([5, 9, 3]))
    guided = models[0].generate(ids, attention_mask=mask, **RUN | BASES["d3llm"] | {"cfg_scale": 0.5})
    assert torch.equal(guided.row_forwards, 2 * guided.forward_passes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.5}, "`temperature`=0.5, which samples"),
        ({"preset": "dream_origin"}, "`score`='random', which is drawn at random"),
        ({"cfg_scale": 1.0}, "`cfg_scale`=1.0"),
        ({"preset": "fast_dllm"}, "`cache`='dual', which is not exact"),
        ({"preset": "d3llm", "cache": "block"}, "`cache`='block', which is not exact"),
        ({"score": "probability", "edit_threshold": 0.5}, "`edit_threshold`=0.5"),
        ({"branches": 2}, "`branches`=2 too: choose one of them"),
    ],
)
def test_what_does_not_go_with_drafts(fields, message):
    with pytest.raises(ValueError, match=f"`draft_states`=2 does not go with {message}"):
        tiny_model(LLaDAModelLM).generate(prompts([4])[0][None], draft_states=2, max_new_tokens=4, **fields)
