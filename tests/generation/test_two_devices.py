"""A model split over devices decodes as one that is not."""

import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from d3llm.modeling import LLaDAModelLM
from tests.helpers.decoding import FAMILIES, OPEN_PRESETS, left_pad, prompts
from tests.helpers.models import tiny_model
from tests.helpers.two_devices import FIRST, SECOND, split_over_two_devices


RAGGED = {"block_size": 4, "max_new_tokens": 6, "eos_token_id": [7, 21], "attention": "bidirectional", "seed": 3}
OUTPUT = {"return_dict_in_generate": True, "output_logprobs": True}


def layers_of(model):
    return model.model.transformer["blocks"] if isinstance(model, LLaDAModelLM) else model.model.layers


def assert_equal_on_two_devices(model, **fields):
    ids, mask = left_pad(prompts([3, 11, 7]))
    expected = model.generate(ids, attention_mask=mask, **RAGGED, **OUTPUT, **fields)
    with split_over_two_devices(model, layers_of(model)):
        output = model.generate(ids.to(FIRST), attention_mask=mask.to(FIRST), **RAGGED, **OUTPUT, **fields)
        assert output.sequences.device == FIRST
    for name in ("sequences", "commit_steps", "forward_passes"):
        assert torch.equal(output[name], expected[name])
    torch.testing.assert_close(output.logprobs, expected.logprobs, equal_nan=True)


def test_the_shim_refuses_what_two_devices_refuse():
    model = tiny_model(LLaDAModelLM)
    with split_over_two_devices(model, layers_of(model)):
        one, other = torch.ones(3, device=FIRST), torch.ones(3, device=SECOND)
        assert (one + one).device == FIRST and other.to(FIRST).device == FIRST and other.device == SECOND
        for mixed in (lambda: one + other, lambda: other[one.long()], lambda: torch.where(one > 0, other, 1)):
            with pytest.raises(RuntimeError, match="tensors on"):
                mixed()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "delayed", "block"])
def test_every_cache(family, cache):
    assert_equal_on_two_devices(tiny_model(family), preset="d3llm", cache=cache)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", OPEN_PRESETS)
def test_every_preset(family, preset):
    for cache in ("none", "dual", "block"):
        assert_equal_on_two_devices(tiny_model(family), preset=preset, cache=cache)


@pytest.mark.parametrize(
    "fields",
    [
        {"cfg_scale": 0.5},
        {"temperature": 1.0, "top_k": 20},
        {"num_return_sequences": 2, "temperature": 1.0},
        {"logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])},
        {"max_time": 60.0},
    ],
)
def test_what_else_a_run_can_have(fields):
    assert_equal_on_two_devices(tiny_model(LLaDAModelLM), preset="llada", cache="block", **fields)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_to_keep_follow_the_hidden_states(family):
    model, rows = tiny_model(family), torch.tensor([[0, 2], [1, 3]])
    ids = torch.randint(1, 60, (2, 5))
    expected = model(ids, logits_to_keep=rows).logits
    with split_over_two_devices(model, layers_of(model)):
        output = model(ids.to(FIRST), logits_to_keep=rows.to(FIRST)).logits
    assert torch.equal(output, expected)
