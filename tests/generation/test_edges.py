"""Edges of decoding: masks in prompts, rows that leave early, ends of streams, numbers at the end of a range."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.noise import Draw
from d3llm.modeling import LLaDA2MoeModelLM, LLaDAModelLM, SDARForCausalLM
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
