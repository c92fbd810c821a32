"""Edges of decoding: masks in prompts, rows that leave early, ends of streams, numbers at the end of a range."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.noise import Draw
from d3llm.generation.scheduler import Scheduler
from d3llm.modeling import DreamModel, LLaDA2MoeModelLM, LLaDAModelLM, SDARForCausalLM
from tests.helpers.decoding import left_pad
from tests.helpers.models import tiny_model


MASK = 63
RUN: dict[str, Any] = {"early_stop": False, "return_dict_in_generate": True}


def counts_up(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every random number the one of these 24 bits."""
    monkeypatch.setattr("d3llm.generation.noise.mix", lambda state: state * 0 + (bits << 40 if bits < 2**23 else -1))


def test_noise_of_the_largest_number_is_finite(monkeypatch):
    draw = Draw(np.zeros(1, np.int64), np.zeros(1, np.int64), 1)
    counts_up(2**24 - 1, monkeypatch)
    assert draw.uniform() < 1 and torch.isfinite(draw.gumbel(3, "cpu")).all()
    counts_up(0, monkeypatch)
    assert draw.uniform() > 0 and torch.isfinite(draw.gumbel(3, "cpu")).all()


@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "delayed", "block", "opened"])
def test_infilling_where_an_earlier_row_has_no_mask(cache):
    model = tiny_model(LLaDAModelLM)
    rows = torch.tensor([[5, 6, 7, 8], [5, MASK, 7, MASK]])
    filled = model.infill(rows, preset="fast_dllm", cache=cache)
    assert filled[0].tolist() == rows[0].tolist()
    assert torch.equal(filled[1:], model.infill(rows[1:], preset="fast_dllm", cache=cache))


@pytest.mark.parametrize("family", [SDARForCausalLM, LLaDA2MoeModelLM])
def test_a_mask_in_the_prompt_costs_no_forward_for_each_block_after_it(family):
    model = tiny_model(family)
    prompt = torch.randint(5, 60, (1, 128), generator=torch.Generator().manual_seed(1))
    plain = model.generate(prompt, preset="sdar_static", block_size=4, max_new_tokens=4, **RUN)
    prompt[0, 2] = MASK
    output = model.generate(prompt, preset="sdar_static", block_size=4, max_new_tokens=4, **RUN)
    assert output.forward_passes[0] == plain.forward_passes[0] + 1
    assert MASK not in output.sequences


@pytest.mark.parametrize("fields", [{"cache": "dual"}, {"cache": "prefix"}, {"preset": "frechet", "block_size": 4}])
def test_a_mask_in_one_prompt_of_a_ragged_batch(fields):
    model = tiny_model(SDARForCausalLM)
    prompts = torch.tensor(
        [[43, 14, MASK, 50, 25, 11, 53, 26, 42, 41, 32, 38], [0, 0, 0, 22, 30, 28, 11, 2, 57, 12, 33, 57]]
    )
    mask = (torch.arange(12)[None] >= torch.tensor([[0], [3]])).long()
    together = model.generate(prompts, attention_mask=mask, max_new_tokens=24, **RUN, **fields)
    for row, start in enumerate((0, 3)):
        alone = model.generate(prompts[row : row + 1, start:], max_new_tokens=24, **RUN, **fields)
        assert torch.equal(together.sequences[row, start:], alone.sequences[0])
        assert together.forward_passes[row] == alone.forward_passes[0]


class Spy:
    """Keeps what is streamed after the prompt."""

    def __init__(self):
        self.tokens: list[int] | None = None

    def put(self, value: torch.LongTensor) -> None:
        self.tokens = [] if self.tokens is None else self.tokens + value.tolist()

    def end(self) -> None:
        pass


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fields", [{"preset": "multi_bd", "attention_block_size": 4}, {"preset": "llada2"}])
def test_a_stream_ends_with_the_text(fields, seed):
    family = SDARForCausalLM if fields["preset"] == "multi_bd" else LLaDA2MoeModelLM
    prompt = torch.randint(1, 60, (1, 8), generator=torch.Generator().manual_seed(seed))
    spy, ends = Spy(), [5, 9, 11, 17, 33, 41]
    given = {"block_size": 4, "max_new_tokens": 32, "eos_token_id": ends, **fields}
    text = tiny_model(family).generate(prompt, streamer=spy, **given)[0, 8:].tolist()
    length = next((place + 1 for place, token in enumerate(text) if token in ends), len(text))
    assert spy.tokens == text[:length]


def test_steps_are_at_least_the_blocks_that_the_region_lies_in():
    model = tiny_model(SDARForCausalLM)
    given = {"preset": "sdar_static", "block_size": 4, "max_new_tokens": 8, **RUN}
    assert model.generate(torch.tensor([[5, 6, 7, 8]]), steps=2, **given).forward_passes == 2
    with pytest.raises(ValueError, match="`steps`=2 is less than one forward for each of the 3 blocks"):
        model.generate(torch.tensor([[5, 6, 7]]), steps=2, **given)


def test_a_schedule_does_not_depend_on_padding():
    model = tiny_model(LLaDA2MoeModelLM)
    given = {"preset": "llada2", "attention_block_size": 8, "block_size": 8, "threshold": 1.0, "steps": 6}
    given |= {"max_new_tokens": 16, **RUN}
    alone = model.generate(torch.tensor([[5, 6, 7]]), **given)
    padded = torch.tensor([[0] * 6 + [5, 6, 7], list(range(10, 19))])
    mask = torch.tensor([[0] * 6 + [1] * 3, [1] * 9])
    together = model.generate(padded, attention_mask=mask, **given)
    assert together.forward_passes[0] == alone.forward_passes[0]
    assert torch.equal(together.sequences[0, 6:], alone.sequences[0])


def test_credit_is_given_to_candidates_alone():
    model = tiny_model(LLaDAModelLM).double()
    given = {"preset": "dinfer_credit", "block_size": 16, "max_new_tokens": 48, **RUN}
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        short, long = torch.tensor([MASK, 6]), torch.randint(5, 60, (9,), generator=generator)
        batch = torch.stack([torch.cat([torch.zeros(7, dtype=torch.long), short]), long])
        mask = torch.stack([torch.cat([torch.zeros(7), torch.ones(2)]), torch.ones(9)]).long()
        together = model.generate(batch, attention_mask=mask, **given)
        alone = model.generate(short[None], **given)
        assert torch.equal(together.commit_steps[0], alone.commit_steps[0])
        assert torch.equal(together.sequences[0, 7:], alone.sequences[0])


def test_edits_of_tokens_that_the_cache_holds_are_refused():
    with pytest.raises(ValueError, match="`edit_threshold` does not go with `cache`='delayed'"):
        tiny_model(SDARForCausalLM).generate(torch.tensor([[5, 6, 7]]), preset="llada21_speed", cache="delayed")


def test_drafts_are_not_exact_with_an_earlier_cache_that_is_not():
    model, given = tiny_model(LLaDAModelLM), {"preset": "llada", "block_size": 8, "max_new_tokens": 16, **RUN}
    first = model.generate(torch.tensor([[5, 6, 7]]), cache="delayed", **given)
    with pytest.raises(ValueError, match="`draft_states`=8 does not go with `cache`='delayed', which is not exact"):
        model.generate(first.sequences, cache=first.cache, draft_states=8, **given)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_likelihood_of_an_answer_does_not_depend_on_blocks_after_it(attention):
    model = tiny_model(SDARForCausalLM)
    model.set_attn_implementation(attention)
    text = torch.arange(5, 21)[None]
    answer = torch.zeros_like(text)
    answer[:, 4:8] = 1
    later, within = text.clone(), text.clone()
    later[:, 12:], within[:, 1] = 40, 40
    scores = [model.score(ids, answer, num_samples=4) for ids in (text, later, within)]
    assert torch.equal(scores[0], scores[1]) and scores[0] != scores[2]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), text], dim=1)
    mask = (torch.arange(19) >= 3).long()[None]
    shifted = torch.cat([torch.zeros(1, 3, dtype=torch.long), answer], dim=1)
    one = model.score(text, answer, num_samples=1), model.score(padded, shifted, mask, num_samples=1)
    assert all(torch.isfinite(score) for score in one)


def test_fields_of_transformers_without_a_meaning_here_are_named(caplog):
    caplog.set_level("WARNING")
    DiffusionGenerationConfig.from_plain(GenerationConfig(repetition_penalty=5.0, num_beams=1, max_new_tokens=4))
    assert "repetition_penalty: no meaning for diffusion decoding, ignored" in caplog.text
    assert "num_beams" not in caplog.text


class CallsUpTo:
    """Stops all rows at its n-th call."""

    def __init__(self, calls: int):
        self.calls = calls

    def __call__(self, canvases: torch.Tensor, scores: None, **kwargs: Any) -> torch.Tensor:
        self.calls -= 1
        return torch.full((len(canvases),), self.calls <= 0)


PROMPT = torch.arange(5, 14)[None]


@pytest.mark.parametrize(("eos", "pad"), [(0, 0), (None, 7)])
def test_what_fills_a_stopped_row_is_not_counted(eos, pad):
    model = tiny_model(LLaDAModelLM)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = eos, pad
    stop: dict[str, Any] = {"stopping_criteria": [CallsUpTo(4)], "max_new_tokens": 64, "return_dict_in_generate": True}
    output = model.generate(PROMPT, preset="llada", score="position", **stop)
    assert (output.tokens.tolist(), output.tokens_per_forward.tolist()) == ([4], [1.0])


def test_a_stop_ends_a_row_with_masks_in_its_prompt():
    prompt = torch.full((1, 40), MASK)
    prompt[0, 0], prompt[0, -1] = 5, 9
    run = {"preset": "llada", "max_new_tokens": 32, "max_time": 0.0, "return_dict_in_generate": True}
    output = tiny_model(LLaDAModelLM).generate(prompt, **run)
    assert output.forward_passes.tolist() == [1] and output.tokens.tolist() == [0]
    assert output.sequences[0, [0, 39]].tolist() == [5, 9] and MASK not in output.sequences


def test_processors_and_criteria_may_be_lists():
    model = tiny_model(LLaDAModelLM)
    processors = [RepetitionPenaltyLogitsProcessor(1.3)]
    run = {"preset": "llada", "max_new_tokens": 8}
    given, wrapped = processors, LogitsProcessorList(processors)
    texts = [model.generate(PROMPT, logits_processor=form, **run) for form in (given, wrapped)]
    assert torch.equal(*texts)


@pytest.mark.parametrize("token", [64, -1])
def test_a_token_that_the_model_does_not_have(token):
    model = tiny_model(LLaDAModelLM)
    with pytest.raises(ValueError, match=f"holds the token {token}, and the model has embeddings for 0 to 63"):
        model.generate(torch.tensor([[5, token]]), max_new_tokens=4)
    scheduler = Scheduler(model, rows=4)
    with pytest.raises(ValueError, match="holds the token"):
        scheduler.add([5, token], max_new_tokens=4)


def test_the_policy_of_an_earlier_run_is_that_of_the_next():
    model = tiny_model(LLaDAModelLM)
    run: dict[str, Any] = {"max_new_tokens": 16, "return_dict_in_generate": True}
    first = model.generate(PROMPT, preset="d3llm", cache="block", **run)
    text = torch.cat([first.sequences, PROMPT], dim=1)
    second = model.generate(text, preset="d3llm", past_key_values=first.cache, **run)
    assert second.cache.policy == "block"
    third = model.generate(text, preset="dkv_cache", cache=second.cache, **run)
    assert third.cache.policy == "delayed"
    with pytest.raises(ValueError, match="an earlier run's cache needs a run with a cache"):
        model.generate(text, preset="d3llm", cache=third.cache, use_cache=False, **run)
    config = DiffusionGenerationConfig(preset="fast_dllm", use_cache=False, **run)
    assert model.generate(PROMPT, generation_config=config).cache is None
    with pytest.raises(ValueError, match="`cache` has 2 layers, and the model 3"):
        tiny_model(LLaDAModelLM, layers=3).generate(text, preset="fast_dllm", cache=second.cache, **run)


@pytest.mark.parametrize(
    "before",
    [
        {"cache": "dual"},
        {"cache": "prefix"},
        {"cache": "block", "attention_block_size": 8, "block_size": 8},
        {"cache": "block", "attention": "bidirectional"},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_on_an_absolute_grid_only_exact_keys_are_reused(before):
    model = tiny_model(SDARForCausalLM, std=0.6).double()
    run: dict[str, Any] = {"max_new_tokens": 16, "early_stop": False, "return_dict_in_generate": True}
    second = DiffusionGenerationConfig(preset="sdar_static", block_size=4, cache="block", **run)
    for seed in range(4):
        prompt = torch.randint(5, 60, (1, 9), generator=torch.Generator().manual_seed(seed))
        first = model.generate(prompt, preset="sdar_static", **{"block_size": 4, **before}, **run)
        text = torch.cat([first.sequences, prompt], dim=1)
        alone = model.generate(text, generation_config=second).sequences
        assert torch.equal(model.generate(text, generation_config=second, cache=first.cache).sequences, alone)


def test_a_call_that_failed_left_nothing_in_the_cache():
    model = tiny_model(SDARForCausalLM).double()
    run: dict[str, Any] = {
        "preset": "sdar",
        "max_new_tokens": 16,
        "early_stop": False,
        "return_dict_in_generate": True,
    }
    first = model.generate(PROMPT, **run)
    text = torch.cat([first.sequences, torch.arange(5, 35)[None]], dim=1)
    fresh = model.generate(text, **run).sequences

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    hook = model.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.generate(text, cache=first.cache, **run)
    hook.remove()
    assert torch.equal(model.generate(text, cache=first.cache, **run).sequences, fresh)


def test_the_published_edge_of_a_padded_row_is_that_of_the_row_alone():
    model = tiny_model(DreamModel, std=0.25).double()
    row, longer = torch.tensor([63, 63, 58, 17, 59]), torch.tensor([42, 1, 46, 46, 30, 28, 30, 11, 10])
    ids, mask = left_pad([row, longer])
    run = {"preset": "fast_dllm", "threshold": 0.1, "block_size": 8, "max_new_tokens": 8, "window_edge": "published"}
    together = model.generate(ids, attention_mask=mask, early_stop=False, **run)
    assert torch.equal(together[0, 4:], model.generate(row[None], early_stop=False, **run)[0])


def test_top_k_of_0_leaves_nothing_out():
    model = tiny_model(LLaDAModelLM)
    run = {"preset": "llada", "temperature": 1.0, "seed": 3, "max_new_tokens": 8}
    assert torch.equal(model.generate(PROMPT, top_k=0, **run), model.generate(PROMPT, **run))


def test_rows_that_go_on_after_an_eos_keep_their_place():
    model, widest = tiny_model(LLaDAModelLM), 0

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal widest
        widest = max(widest, len(kwargs["input_ids"]))

    model.register_forward_pre_hook(watch, with_kwargs=True)
    scheduler = Scheduler(model, rows=1)
    run: dict[str, Any] = {"score": "position", "early_stop": False, "eos_token_id": list(range(60))}
    for number in range(3):
        scheduler.add([3 + number, 4, 5], preset="llada", max_new_tokens=16, **run)
    while scheduler.is_busy():
        scheduler.step()
    assert widest == 1


def test_what_ended_a_row_is_not_revised():
    model = tiny_model(LLaDAModelLM, seed=2, std=0.3).double()
    run: dict[str, Any] = {"score": "probability", "threshold": 0.2, "block_size": 16, "max_new_tokens": 32}
    run |= {"edit_threshold": 0.1, "edit_forwards": 8, "eos_token_id": list(range(8)), "pad_token_id": 0}
    run |= {"output_logprobs": True, "return_dict_in_generate": True}
    for seed in range(8):
        prompt = torch.randint(5, 60, (1, 9), generator=torch.Generator().manual_seed(seed))
        output = model.generate(prompt, **run)
        (tokens,) = output.tokens.tolist()
        assert output.logprobs[0, :tokens].isfinite().all()


def test_the_likelihood_of_a_row_is_the_same_in_any_batch():
    model = tiny_model(LLaDAModelLM).double()
    text = torch.randint(5, 60, (1, 12), generator=torch.Generator().manual_seed(1))
    answer = (torch.arange(12)[None] >= 6).long()
    alone = model.score(text, answer, num_samples=4)
    assert torch.allclose(model.score(text.repeat(3, 1), answer.repeat(3, 1), num_samples=4), alone)
    ids, mask = torch.nn.functional.pad(text, (3, 0), value=7), torch.nn.functional.pad(torch.ones_like(text), (3, 0))
    padded = model.score(ids, torch.nn.functional.pad(answer, (3, 0)), mask, num_samples=4)
    assert torch.allclose(padded, alone)
    with pytest.raises(ValueError, match=r"`attention_mask` has the shape \(1, 3\)"):
        model.score(text, answer, torch.ones(1, 3))


def test_the_likelihood_of_a_first_token_is_the_same_after_padding():
    model = tiny_model(DreamModel, std=0.6).double()
    text = torch.randint(5, 60, (1, 6), generator=torch.Generator().manual_seed(1))
    answer = torch.ones_like(text)
    alone = model.score(text, answer, num_samples=4)
    ids, answer, mask = (torch.nn.functional.pad(values, (3, 0)) for values in (text, answer, answer))
    assert torch.allclose(model.score(ids, answer, mask, num_samples=4), alone)


def test_the_likelihood_of_blocks_is_after_the_text_before_them():
    model = tiny_model(SDARForCausalLM, std=0.6).double()
    text = torch.randint(5, 60, (1, 13), generator=torch.Generator().manual_seed(3))
    answer = (torch.arange(13)[None] >= 11).long()  # a token in each of two blocks of four

    def exact(position: int) -> float:
        one = torch.nn.functional.one_hot(torch.tensor([position]), position + 1)
        return model.score(text[:, : position + 1], one, num_samples=1).item()

    assert model.score(text, answer, num_samples=4).item() == pytest.approx(exact(11) + exact(12), abs=1e-6)
