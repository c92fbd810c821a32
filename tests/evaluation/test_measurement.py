"""Accuracy, TPF and TPS over a list of prompts."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import d3llm.modeling  # noqa: F401
from d3llm.evaluation import encode_prompt, evaluate_decoding, wilson_interval


PROMPTS = ["one", "two plus three plus four is", "five is", "six plus one is", "seven"]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)


# Expected ends: the closed form worked out by hand for 0 and n, and R's prop.test(81, 263, correct = FALSE).
@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 1.959964**2 / (10 + 1.959964**2)), (3, 3, 3 / (3 + 1.959964**2), 1.0)],
)
def test_wilson_interval(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_of_nonsense(successes, total):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, total)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_records_are_those_of_single_rows(tiny, batch_size):
    model, tokenizer = tiny
    seen, done = {}, []

    def check(index: int, text: str) -> bool:
        seen[index] = text
        return index % 2 == 0

    options = {"preset": "d3llm", "max_new_tokens": 12, "block_size": 4, "threshold": 2.0}
    result = evaluate_decoding(
        model, tokenizer, PROMPTS, check, batch_size=batch_size, progress=done.append, **options
    )
    assert sum(done) == len(PROMPTS) and max(done) <= batch_size
    assert result.accuracy == 3 / 5 and result.accuracy_interval == wilson_interval(3, 5)
    tokens = forwards = 0
    for index, prompt in enumerate(PROMPTS):
        input_ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        output = model.generate(input_ids, return_dict_in_generate=True, **options)
        generated = output.sequences[0, input_ids.shape[1] :].tolist()
        generated = generated[: generated.index(0) + 1] if 0 in generated else generated
        record = result.records[index]
        assert record.text == seen[index] == tokenizer.decode(generated, skip_special_tokens=True)
        assert (record.tokens, record.forwards) == (len(generated), output.forward_passes[0])
        tokens, forwards = tokens + len(generated), forwards + int(output.forward_passes[0])
    assert (result.tokens, result.forwards) == (tokens, forwards)
    assert result.tokens_per_forward == tokens / forwards
    assert math.isclose(result.tokens_per_second * result.seconds, tokens)


def test_wrong_arguments(tiny):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match="prompts"):
        evaluate_decoding(model, tokenizer, [], lambda index, text: True)
    with pytest.raises(ValueError, match="batch_size"):
        evaluate_decoding(model, tokenizer, PROMPTS, lambda index, text: True, batch_size=0)
    with pytest.raises(ValueError, match="empty"):
        evaluate_decoding(model, tokenizer, ["one", " "], lambda index, text: True)
    with pytest.raises(ValueError, match="pressets"):
        evaluate_decoding(model, tokenizer, PROMPTS, lambda index, text: True, pressets="d3llm")


def test_prompts_with_and_without_the_chat_template(tiny):
    _, tokenizer = tiny
    plain = tokenizer("one is")["input_ids"]
    assert encode_prompt(tokenizer, "one is", chat=False) == plain
    assert encode_prompt(tokenizer, "one is") == [tokenizer.vocab["<user>"], *plain]


def test_a_missing_or_broken_chat_template(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = "{% for"
    with pytest.raises(ValueError, match="chat template"):
        encode_prompt(tokenizer, "one")
    tokenizer.chat_template = None
    assert encode_prompt(tokenizer, "one") == tokenizer("one")["input_ids"]
    with pytest.raises(ValueError, match="--no-chat"):
        encode_prompt(tokenizer, "one", chat=True)
