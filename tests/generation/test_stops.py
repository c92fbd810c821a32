"""What ends a row, and what it is filled with then."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import d3llm.modeling  # noqa: F401
from tests.helpers.decoding import EOS, MASK, RecordingStreamer, left_pad, prompts
from tests.helpers.models import WORDS


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    """A model, and a tokenizer with a token of many letters: transformers spells one to see what a token adds."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.add_tokens(["abcdef"])
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint), tokenizer


def test_the_first_of_several_stop_strings_ends_a_row(checkpoint):
    tiny, tokenizer = checkpoint
    ids = tokenizer("one two three", return_tensors="pt")["input_ids"]
    # all positions in one forward, which then finds all of the stop strings
    arguments = {"threshold": 99.0, "max_new_tokens": 24, "block_size": 24, "early_stop": False}
    arguments |= {"temperature": 2.0, "seed": 0}
    full = tiny.generate(ids, **arguments)[0, 3:].tolist()
    firsts = sorted(full.index(token) for token in set(full) if token != tokenizer.eos_token_id)
    first, second, *_ = firsts[1:]
    stops = [tokenizer.decode(full[position]) for position in (second, first)]
    stopped = tiny.generate(ids, stop_strings=stops, tokenizer=tokenizer, **arguments)[0, 3:].tolist()
    assert stopped == full[: first + 1] + [tokenizer.eos_token_id] * (23 - first)


def test_a_stop_string_in_the_prompt_ends_nothing(checkpoint):
    tiny, tokenizer = checkpoint
    arguments = {"preset": "d3llm", "max_new_tokens": 8, "block_size": 8, "early_stop": False}
    texts = {word: tokenizer(f"{word} {word} three", return_tensors="pt")["input_ids"] for word in WORDS}
    full = {word: tiny.generate(ids, **arguments) for word, ids in texts.items()}
    word = next(word for word in WORDS if tokenizer.vocab[word] not in full[word][0, 3:])
    stopped = tiny.generate(texts[word], stop_strings=word, tokenizer=tokenizer, **arguments)
    assert torch.equal(stopped, full[word])


def test_a_row_is_filled_with_the_stop_token_that_also_pads(model):
    """Models with several stop tokens were trained on answers padded with one of them."""
    ids = prompts([6])[0][None]
    arguments = {"preset": "d3llm", "max_new_tokens": 40, "block_size": 8}
    stop = int(model.generate(ids, early_stop=False, **arguments)[0, 6 + 10])
    for pad, fill in ((EOS, EOS), (stop, stop), (62, stop)):
        found = model.generate(ids, eos_token_id=[stop, EOS], pad_token_id=pad, **arguments)[0, 6:].tolist()
        end = found.index(stop)
        assert end <= 10 and found[end + 1 :] == [fill] * (39 - end)


def test_a_stop_in_a_gap_keeps_the_given_text(checkpoint):
    """Texts of two gaps, padded and not; what is given has the stop string and an EOS too."""
    tiny, tokenizer = checkpoint
    given, gap = tokenizer(f"{' '.join(WORDS)} <eos>")["input_ids"], [tokenizer.mask_token_id] * 6
    texts = [torch.tensor([*given, *gap, *given, *gap, given[0]]), torch.tensor([*gap, *given, *gap])]
    ids, mask = left_pad(texts)
    # all positions in one forward, which then finds the stop string
    arguments = {"threshold": 99.0, "temperature": 2.0, "seed": [0, 3], "tokenizer": tokenizer}
    full = tiny.infill(ids, attention_mask=mask, **arguments)
    gaps = (ids == tokenizer.mask_token_id) & (mask > 0)
    word = int(full[0, len(given) + 2])
    assert word != tokenizer.eos_token_id
    stopped = tiny.infill(ids, attention_mask=mask, stop_strings=tokenizer.decode(word), **arguments)
    after = ((full == word) & gaps).long().cumsum(dim=1).roll(1, dims=1) > 0
    assert torch.equal(stopped, full.masked_fill(after & gaps, tokenizer.eos_token_id))
    assert (after & gaps).sum() >= 9 and (after & ~gaps).any()


def test_a_criterion_keeps_the_given_text(model):
    ids = prompts([12])[0][None]
    ids[0, [2, 3, 7, 8, 9]] = MASK
    streamer = RecordingStreamer()
    found = model.infill(
        ids, preset="llada", max_time=0.0, eos_token_id=[EOS, int(ids[0, 10])], pad_token_id=EOS, streamer=streamer
    )
    assert torch.equal(found[ids != MASK], ids[ids != MASK])
    filled = found[ids == MASK]
    assert (filled != MASK).all() and (filled == EOS).sum() >= 4
    assert [tokens for kind, tokens in streamer.events if kind == "put"][-1] == found[0].tolist()
