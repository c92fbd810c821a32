"""What the decoder promises whatever the method: batches, caches, ends of rows, streaming, host reads, errors."""

import copy
from itertools import product

import pytest
import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    InfNanRemoveLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from benchmarks.host_reads import count_host_reads
from d3llm.generation import PRESETS, CanvasCache, DiffusionGenerationConfig
from d3llm.modeling import DreamModel, LLaDAModelLM
from tests.helpers.decoding import FAMILIES, MASK, METHODS, RecordingStreamer, families_in_turn, left_pad, prompts
from tests.helpers.models import tiny_model


@pytest.mark.parametrize(("model", "method"), families_in_turn(METHODS), indirect=["model"])
def test_ragged_batch_gives_each_row_what_it_gives_alone(model, method):
    arguments = METHODS[method] | {"max_new_tokens": 32, "block_size": 8, "eos_token_id": [7, 21]}
    arguments["return_dict_in_generate"] = True
    rows = prompts([3, 20, 1])
    ids, mask = left_pad(rows)
    batch = model.generate(ids, attention_mask=mask, **arguments)
    for index, row in enumerate(rows):
        alone = model.generate(row[None], **arguments)
        assert torch.equal(batch.sequences[index, ids.shape[1] :], alone.sequences[0, len(row) :])
        assert torch.equal(batch.commit_steps[index], alone.commit_steps[0])
        assert batch.forward_passes[index] == alone.forward_passes[0]
        assert torch.equal(batch.tokens_per_forward[index], alone.tokens_per_forward[0])
    assert len(set(batch.forward_passes.tolist())) > 1 or method in (
        "llada",
        "dream",
        "origin",
        "guided",
        "dkv_cache",
        "wedlm",
    )


def test_cache_refreshed_every_forward_equals_no_cache(model):
    ids, mask = left_pad(prompts([4, 9, 13]))
    arguments = {"preset": "d3llm", "threshold": 1.5, "max_new_tokens": 32, "block_size": 8, "attention_mask": mask}
    arguments["return_dict_in_generate"] = True
    plain = model.generate(ids, **arguments)
    for cache, delay in product(["block", "delayed", "opened"], [0, 1, 3]):
        cached = model.generate(ids, cache=cache, cache_delay=delay, cache_refresh_interval=1, **arguments)
        stale = model.generate(ids, cache=cache, cache_delay=delay, cache_refresh_interval=1000, **arguments)
        assert torch.equal(plain.sequences, cached.sequences), (cache, delay)
        assert torch.equal(plain.commit_steps, cached.commit_steps), (cache, delay)
        assert not torch.equal(plain.commit_steps, stale.commit_steps), (cache, delay)


def test_block_causal_cache_equals_no_cache(model):
    ids, mask = left_pad(prompts([4, 9, 13]))
    arguments = METHODS["d2f"] | {"max_new_tokens": 28, "block_size": 8, "attention_mask": mask}
    arguments["return_dict_in_generate"] = True
    cached = model.generate(ids, **arguments)
    plain = model.generate(ids, cache="none", **arguments)
    bidirectional = model.generate(ids, attention="bidirectional", cache="none", **arguments)
    assert torch.equal(plain.sequences, cached.sequences)
    assert torch.equal(plain.commit_steps, cached.commit_steps)
    assert not torch.equal(plain.sequences, bidirectional.sequences)


@pytest.mark.parametrize("new_tokens", [1, 4, 13])
@pytest.mark.parametrize(("model", "method"), families_in_turn(METHODS), indirect=["model"])
def test_any_length_is_filled(model, method, new_tokens):
    output = model.generate(
        prompts([5])[0][None],
        **METHODS[method] | {"max_new_tokens": new_tokens, "block_size": 4, "steps": None, "early_stop": False},
        return_dict_in_generate=True,
    )
    assert output.sequences.shape == (1, 5 + new_tokens)
    assert not (output.sequences == MASK).any()
    assert output.commit_steps.min() >= 1
    # a cached block may take one forward more than it has positions
    blocks = -(-new_tokens // 4)
    assert output.commit_steps.max() <= output.forward_passes[0] <= new_tokens + blocks


@pytest.mark.parametrize(("model", "method"), families_in_turn(METHODS), indirect=["model"])
def test_nothing_but_eos_after_the_first_eos(model, method):
    ids, mask = left_pad(prompts([6, 2, 9, 4]))
    arguments = {"max_new_tokens": 24, "block_size": 16, **METHODS[method]}
    free = model.generate(ids[:1], attention_mask=mask[:1], early_stop=False, **arguments)
    eos = int(free[0, ids.shape[1] + 12])  # a token that this row produces half-way
    output = model.generate(ids, attention_mask=mask, eos_token_id=eos, return_dict_in_generate=True, **arguments)
    generated = output.sequences[:, ids.shape[1] :]
    after = (generated == eos).long().cumsum(dim=1) > 0
    assert (generated[after] == eos).all()
    assert after.any()
    lengths = ((~after).sum(dim=1) + 1).clamp(max=24)
    torch.testing.assert_close(output.tokens_per_forward, lengths / output.forward_passes)


def test_eos_in_the_first_position_ends_the_row_at_once(model):
    ids = prompts([6])[0][None]
    arguments = {"preset": "llada", "max_new_tokens": 30, "block_size": 1}
    first = int(model.generate(ids, **arguments)[0, 6])
    output = model.generate(ids, eos_token_id=first, return_dict_in_generate=True, **arguments)
    assert output.sequences[0, 6:].tolist() == [first] * 30
    assert output.forward_passes.tolist() == [1]
    assert output.tokens_per_forward.tolist() == [1.0]
    assert output.commit_steps.tolist() == [[1] * 30]


def test_masks_in_the_prompt_are_filled_in(model):
    ids = prompts([12])[0]
    ids[[3, 4, 8]] = MASK
    rows = [ids, prompts([5], seed=2)[0]]
    padded, mask = left_pad(rows)
    for method in ("llada", "d3llm", "fast_dllm-dual", "d3llm-block", "dream"):
        output = model.generate(padded, attention_mask=mask, max_new_tokens=16, block_size=8, **METHODS[method])
        assert not (output == MASK).any(), method
        kept = ids != MASK
        assert torch.equal(output[0, :12][kept], ids[kept])


def test_one_block_at_a_time_is_the_sequential_decoder(model):
    ids, mask = left_pad(prompts([4, 9]))
    arguments = {"max_new_tokens": 24, "block_size": 8, "threshold": 1.0, "attention_mask": mask}
    whole = {"block_add_threshold": 1.0, "block_activate_threshold": 1.0, "forced_progress": "best"}
    several = model.generate(ids, preset="d3llm", **whole, **arguments)
    assert torch.equal(several, model.generate(ids, preset="dparallel", **arguments))
    assert not torch.equal(several, model.generate(ids, preset="d3llm", **arguments))


def test_a_threshold_that_nothing_reaches_is_one_token_per_forward(model):
    ids = prompts([6])[0][None]
    arguments = {"max_new_tokens": 24, "block_size": 8, "return_dict_in_generate": True, "early_stop": False}
    counted = model.generate(ids, preset="llada", **arguments)
    forced = model.generate(ids, preset="fast_dllm", cache="none", threshold=1.0, **arguments)
    assert counted.forward_passes.tolist() == [24]
    assert torch.equal(counted.sequences, forced.sequences)
    assert torch.equal(counted.commit_steps, forced.commit_steps)


@pytest.mark.parametrize(
    "cautious",
    [
        {"preset": "fast_dllm_factor", "factor": 0.0},
        {"preset": "frechet", "frechet_margin": 1.0},
        {"selection": "entropy_bound", "entropy_bound": 0.0},
    ],
)
def test_the_most_cautious_quota_is_one_token_per_forward(model, cautious):
    ids = prompts([6])[0][None]
    arguments = {"max_new_tokens": 24, "block_size": 8, "cache": "none", "early_stop": False}
    output = model.generate(ids, return_dict_in_generate=True, **arguments, **cautious)
    assert output.commit_steps.sort().values.tolist() == [list(range(1, 25))]


def test_an_unbounded_entropy_commits_a_block_per_forward(model):
    output = model.generate(
        prompts([6])[0][None],
        selection="entropy_bound",
        entropy_bound=1e9,
        max_new_tokens=24,
        block_size=8,
        early_stop=False,
        return_dict_in_generate=True,
    )
    assert output.commit_steps.tolist() == [[1] * 8 + [2] * 8 + [3] * 8]


def test_forcing_every_activated_block_costs_no_more_forwards(model):
    ids = prompts([6])[0][None]
    arguments = {"preset": "d3llm", "threshold": 0.0, "max_new_tokens": 24, "block_size": 8}
    arguments |= {"block_activate_threshold": 0.5, "early_stop": False, "return_dict_in_generate": True}
    first, every = (
        model.generate(ids, forced_progress=forced, **arguments).forward_passes[0]
        for forced in ("first_block", "every_block")
    )
    assert every < first == 24


def test_origin_commits_each_mask_with_the_probability_of_the_grid(model):
    ids = prompts([6])[0][None]
    arguments = {"max_new_tokens": 200, "steps": 4, "eps": 0.2, "early_stop": False, "return_dict_in_generate": True}
    output = model.generate(ids, preset="dream_origin", seed=0, num_return_sequences=20, **arguments)
    assert output.forward_passes.eq(4).all()
    # the grid 1, .8, .6, .4 and the rest in the last forward: a fifth of all masks in each of the first three
    shares = torch.stack([(output.commit_steps == forward).float().mean() for forward in (1, 2, 3, 4)])
    assert (shares - torch.tensor([0.2, 0.2, 0.2, 0.4])).abs().max() < 4 * (0.25 / 4000) ** 0.5
    assert (output.commit_steps == 1).sum(dim=1).unique().numel() > 3


def test_a_cache_is_taken_over_to_the_next_turn(model):
    first = prompts([12])[0][None]
    arguments = {"preset": "d3llm", "cache": "block", "threshold": 1.0, "max_new_tokens": 16, "block_size": 8}
    arguments |= {"early_stop": False, "return_dict_in_generate": True}
    output = model.generate(first, **arguments)
    second = torch.cat([output.sequences, prompts([5], seed=2)[0][None]], dim=1)
    known = (output.cache.tokens[0] == output.sequences[0].numpy()).cumprod().sum()
    assert 12 <= known < 28  # what the last forward committed was computed as a mask

    widths, forward = [], model.forward

    def count(**inputs):
        widths.append(inputs["input_ids"].shape[1])
        return forward(**inputs)

    model.forward = count
    try:
        resumed = model.generate(second, **arguments | {"cache": output.cache})
    finally:
        del model.forward
    assert max(widths) == second.shape[1] + 16 - known
    assert (resumed.sequences[:, second.shape[1] :] != MASK).all()
    assert torch.equal(resumed.sequences[:, : second.shape[1]], second)


def test_a_cache_of_the_same_canvas_changes_nothing(model):
    """With block-causal attention the prompt does not depend on what follows: its keys and values may be kept."""
    ids = prompts([12])[0][None]
    arguments = {"preset": "d2f", "attention": "block_causal", "threshold": 0.6, "max_new_tokens": 24, "block_size": 8}
    arguments |= {"return_dict_in_generate": True}
    fresh = model.generate(ids, **arguments)
    again = model.generate(ids, cache=fresh.cache, **arguments)
    assert torch.equal(fresh.sequences, again.sequences)
    assert torch.equal(fresh.commit_steps, again.commit_steps)


def test_a_cache_has_the_name_that_transformers_gave_it_before(model):
    ids, arguments = prompts([12])[0][None], {"max_new_tokens": 8, "return_dict_in_generate": True}
    output = model.generate(ids, preset="fast_dllm", **arguments)
    assert output.past_key_values is output["cache"] is output.cache
    by_either_name = [
        model.generate(ids, preset="fast_dllm", cache=copy.deepcopy(output.cache), **arguments),
        model.generate(ids, preset="fast_dllm", past_key_values=copy.deepcopy(output.cache), **arguments),
    ]
    assert torch.equal(*[run.sequences for run in by_either_name])
    assert all(run.cache.tokens.shape == (1, 20) for run in by_either_name)


def test_a_cache_brings_its_policy_unless_the_preset_has_one(model):
    ids, arguments = prompts([12])[0][None], {"max_new_tokens": 8, "return_dict_in_generate": True}
    block = model.generate(ids, preset="d3llm", cache="block", **arguments).cache
    for name in ("cache", "past_key_values"):
        run = model.generate(ids, preset="d3llm", **{name: copy.deepcopy(block)}, **arguments)
        assert run.cache.policy == "block"
    with pytest.raises(ValueError, match="two names of one argument"):
        model.generate(ids, preset="d3llm", cache=block, past_key_values=block, **arguments)


def test_a_preset_for_another_attention_is_refused():
    built = tiny_model(LLaDAModelLM)
    ids = prompts([6])[0][None]
    built.config.attention = "bidirectional"
    with pytest.raises(ValueError, match="'d2f' decodes with block_causal attention and this model was trained with"):
        built.generate(ids, preset="d2f", max_new_tokens=8)
    built.generate(ids, preset="d2f", attention="block_causal", max_new_tokens=8)
    built.config.attention = "block_causal"
    # a preset that asks for no attention takes the model's
    assert built.diffusion_config(kwargs={"preset": "llada"}).attention == "block_causal"
    plain = built.generate(ids, max_new_tokens=8, early_stop=False)
    same = built.generate(ids, max_new_tokens=8, early_stop=False, attention="block_causal")
    assert torch.equal(plain, same)


@pytest.mark.parametrize(("model", "method"), families_in_turn(METHODS), indirect=["model"])
def test_one_host_read_a_forward(model, method):
    padded = model.logits_shift == 0  # of one family, since padding has nothing to do with the shift
    ids, mask = left_pad(prompts([4, 9, 9]) if padded else prompts([9, 9, 9]))
    arguments = METHODS[method] | {"block_size": 4, "return_dict_in_generate": True, "attention_mask": mask}
    arguments |= {"early_stop": False, "steps": None}
    reads, forwards = [], []
    for new_tokens in (4, 12):
        with count_host_reads() as counted:
            output = model.generate(ids, max_new_tokens=new_tokens, **arguments)
        reads.append(len(counted))
        forwards.append(int(output.forward_passes.max()))
    assert forwards[1] > forwards[0]
    # what a run reads once, before and after its forwards, falls out of the difference
    assert reads[1] - reads[0] == forwards[1] - forwards[0], counted


def test_the_counter_of_host_reads_counts():
    with count_host_reads() as reads:
        tensor = torch.arange(4)
        tensor.tolist()
        bool((tensor > 2).any())
        tensor[tensor > 1]
        int(tensor.sum())
    assert len(reads) == 4


def test_sampling_follows_the_seed_and_the_temperature(model):
    ids = prompts([6])[0][None].expand(4, -1)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(model.generate(ids, preset="llada", temperature=1.5, max_new_tokens=12))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert len({tuple(row) for row in draws[0].tolist()}) == 4
    greedy = model.generate(ids, preset="llada", max_new_tokens=12)
    assert torch.equal(greedy, model.generate(ids, preset="llada", temperature=2.0, top_k=1, max_new_tokens=12))
    assert torch.equal(greedy, model.generate(ids, preset="llada", temperature=2.0, top_p=1e-6, max_new_tokens=12))


def test_a_temperature_of_the_call_samples_whatever_the_file_says(model):
    ids, run = prompts([6])[0][None], {"preset": "llada", "max_new_tokens": 12, "seed": 0}
    greedy, drawn = model.generate(ids, **run), model.generate(ids, temperature=1.5, **run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.generation_config, "do_sample", False)
        assert torch.equal(model.generate(ids, temperature=1.5, **run), drawn)
        assert torch.equal(model.generate(ids, temperature=1.5, do_sample=False, **run), greedy)
        patch.setattr(model.generation_config, "temperature", 1.5)
        assert torch.equal(model.generate(ids, **run), greedy)


def test_streamer_gets_prompt_drafts_blocks_and_end(model):
    ids = prompts([6])[0][None]
    streamer = RecordingStreamer()
    output = model.generate(
        ids,
        preset="d3llm",
        threshold=1.0,
        max_new_tokens=40,
        block_size=8,
        streamer=streamer,
        early_stop=False,
        return_dict_in_generate=True,
    )
    kinds = [kind for kind, _ in streamer.events]
    assert streamer.events[0] == ("put", ids[0].tolist())
    assert kinds[-1] == "end"
    assert kinds.count("end") == 1
    final = [token for kind, tokens in streamer.events[1:] if kind == "put" for token in tokens]
    assert final == output.sequences[0, 6:].tolist()
    assert MASK not in final
    drafts = [tokens for kind, tokens in streamer.events if kind == "draft"]
    assert any(MASK in tokens for tokens in drafts)
    # after each forward but the last, which leaves nothing open
    assert len(drafts) == output.forward_passes[0] - 1


def test_streamed_text_ends_with_the_first_eos(model):
    ids = prompts([6])[0][None]
    eos = int(model.generate(ids, preset="d3llm", max_new_tokens=40, early_stop=False)[0, 6 + 10])
    streamer = RecordingStreamer()
    output = model.generate(ids, preset="d3llm", max_new_tokens=40, block_size=8, eos_token_id=eos, streamer=streamer)
    final = [token for kind, tokens in streamer.events[1:] if kind == "put" for token in tokens]
    assert final == output[0, 6 : 6 + len(final)].tolist()
    assert final.count(eos) == 1
    assert final[-1] == eos


def test_generate_returns_ids_unless_asked(model):
    ids = prompts([6])[0][None]
    # the default length, as far as the model goes; every token is sure enough
    assert model.generate(ids, threshold=9.0).shape == (1, 256)
    assert isinstance(model.generate(ids, max_new_tokens=4), torch.Tensor)
    assert torch.equal(model.generate(input_ids=ids, max_new_tokens=4), model.generate(ids, max_new_tokens=4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"past_key_values": CanvasCache(2, 8), "cache": "dual"}, "must come from an earlier generate"),
        ({"past_key_values": CanvasCache(2, 8)}, "needs a run with a cache"),
        ({"past_key_values": CanvasCache(2, 8), "cache": "dual", "cfg_scale": 1.0}, "one sequence without padding"),
        ({"past_key_values": (), "cache": "dual"}, "must be a CanvasCache or the name of a policy, not a tuple"),
        ({"preset": "d3lm"}, "`preset`='d3lm' is unknown.*did you mean `d3llm`"),
        ({"treshold": 0.5}, "unknown generation field `treshold`.*did you mean `threshold`"),
        ({"num_beams": 4}, "unknown generation field `num_beams`"),
        ({"preset": "fast_dllm", "threshold": 1.5}, "`threshold`=1.5 is out of its range"),
        ({"preset": "d3llm", "threshold": -0.1}, "`threshold`=-0.1 is out of its range"),
        ({"preset": "llada", "threshold": "high"}, "`threshold`='high' is out of its range"),
        ({"block_add_threshold": 1.2}, "`block_add_threshold`=1.2 is out of its range"),
        ({"max_new_tokens": 0}, "`max_new_tokens`=0 must be a whole number of at least 1"),
        ({"block_size": 0}, "`block_size`=0"),
        ({"cache_refresh_interval": 0}, "`cache_refresh_interval`=0"),
        ({"temperature": -1.0}, "`temperature`=-1.0"),
        ({"top_p": 1.5}, "`top_p`=1.5"),
        ({"score": "random"}, "'random' has no threshold"),
        ({"selection": "factor", "score": "probability"}, "`selection`='factor' needs a value for `factor`"),
        ({"preset": "fast_dllm_factor", "score": "margin"}, "rule on `score`='probability'"),
        ({"preset": "frechet", "score": "margin"}, "`selection`='frechet' is a rule on `score`='probability'"),
        ({"preset": "frechet", "frechet_margin": 1.1}, "`frechet_margin`=1.1 is out of its range"),
        ({"position_penalty": -0.1}, "`position_penalty`=-0.1 is out of its range"),
        ({"preset": "dream_origin", "position_penalty": 0.1}, "does not fit `selection`='bernoulli'"),
        ({"max_active_blocks": 0}, "`max_active_blocks`=0 must be a whole number of at least 1"),
        ({"cache": "paged"}, "`cache`='paged' is unknown"),
        ({"preset": "llada", "steps": 3, "max_new_tokens": 64, "block_size": 8}, "`steps`=3 is less than one forward"),
        ({"preset": "d3llm", "steps": 8}, "`steps`=8 contradicts `selection`='threshold'"),
        ({"max_new_tokens": 300}, "exceed the 256 positions of the model"),
        ({"attention_mask": torch.ones(1, 5)}, r"`attention_mask` of shape \(1, 5\) does not fit"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]])}, "padding_side = 'left'"),
        ({"attention_mask": torch.zeros(1, 6)}, "no row of zeros only"),
        ({"input_ids": torch.ones(1, 3)}, "pass the prompts once"),
        ({"inputs": None, "inputs_embeds": torch.ones(1, 3, 8)}, "there is no prompt: pass at least one token"),
        ({"generation_config": {"max_new_tokens": 8}}, "`generation_config` is a dict"),
        ({"stopping_criteria": EosTokenCriteria(0)}, "`stopping_criteria`=.* must be a list"),
        ({"logits_processor": InfNanRemoveLogitsProcessor()}, "`logits_processor`=.* must be a list"),
        ({"logits_processor": [SuppressTokensLogitsProcessor(range(64))]}, "`logits_processor` forbids every token"),
    ],
)
def test_bad_arguments_name_the_field_and_the_fix(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**{"inputs": prompts([6])[0][None], "max_new_tokens": 16} | arguments)


@pytest.mark.parametrize("prompt", [torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 4, dtype=torch.long)])
def test_empty_prompt_is_refused(model, prompt):
    with pytest.raises(ValueError, match="empty prompt"):
        model.generate(prompt)


@pytest.mark.parametrize("prompt", [None, torch.arange(4), torch.rand(1, 4)])
def test_prompt_that_is_no_batch_of_ids_is_refused(model, prompt):
    with pytest.raises(ValueError, match="input_ids"):
        model.generate(prompt)


def test_model_without_a_mask_token_is_refused():
    model = tiny_model(LLaDAModelLM)
    model.config.mask_token_id = None
    with pytest.raises(ValueError, match="the 'llada' model has no mask token"):
        model.generate(torch.ones(1, 3, dtype=torch.long), max_new_tokens=2)
    model.generate(torch.ones(1, 3, dtype=torch.long), mask_token_id=MASK, max_new_tokens=2)


def test_streamer_takes_one_row(model):
    with pytest.raises(ValueError, match="batch of one"):
        model.generate(torch.ones(2, 3, dtype=torch.long), max_new_tokens=2, streamer=RecordingStreamer())


def test_config_round_trip(model, tmp_path):
    model.generation_config = DiffusionGenerationConfig(
        preset="d3llm", threshold=0.3, max_new_tokens=12, eos_token_id=0
    )
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert isinstance(loaded.generation_config, DiffusionGenerationConfig)
    assert loaded.generation_config == model.generation_config
    assert loaded.generate(torch.ones(1, 3, dtype=torch.long)).shape == (1, 15)


def test_explicit_fields_override_the_preset_and_a_preset_in_the_call_overrides_the_model():
    config = DiffusionGenerationConfig(preset="d3llm", threshold=0.3).resolve(LLaDAModelLM.preset_values)
    assert (config.threshold, config.block_add_threshold) == (0.3, 0.1)
    assert DiffusionGenerationConfig(preset="d3llm").resolve(DreamModel.preset_values).threshold == 0.4
    assert DiffusionGenerationConfig(preset="d3llm").resolve(LLaDAModelLM.preset_values).threshold == 0.5
    assert DiffusionGenerationConfig(preset="dream").resolve(DreamModel.preset_values).block_size is None

    model = tiny_model(LLaDAModelLM)
    model.generation_config = DiffusionGenerationConfig(preset="d3llm", threshold=0.3, max_new_tokens=12)
    prepared = model.diffusion_config(None, {"preset": "fast_dllm"}, 4)
    assert (prepared.threshold, prepared.max_new_tokens, prepared.cache) == (0.9, 12, "dual")
    prepared = model.diffusion_config(None, {"max_new_tokens": 5}, 4)
    assert (prepared.preset, prepared.threshold, prepared.max_new_tokens) == ("d3llm", 0.3, 5)
    prepared = model.diffusion_config(GenerationConfig(max_length=20, eos_token_id=9), {}, 4)
    assert (prepared.preset, prepared.max_new_tokens, prepared.eos_token_id) == ("d3llm", 12, 9)


def test_use_cache_false_means_no_cache():
    model = tiny_model(LLaDAModelLM)
    assert model.diffusion_config(None, {"preset": "fast_dllm", "use_cache": True}, 4).cache == "dual"
    assert model.diffusion_config(None, {"preset": "fast_dllm", "use_cache": False}, 4).cache == "none"


def test_unknown_field_of_a_config_is_an_error():
    with pytest.raises(ValueError, match="unknown generation field `treshold`"):
        DiffusionGenerationConfig(treshold=0.5)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_are_valid_for_each_family(preset):
    for family in FAMILIES:
        DiffusionGenerationConfig(preset=preset.name).resolve(family.preset_values)
    assert preset.source
    assert preset.summary
