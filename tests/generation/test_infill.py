"""`infill()`: texts with gaps keep their length, in ragged batches, with schedules, seeds and streamers."""

import pytest
import torch

from tests.helpers.decoding import MASK, METHODS, RecordingStreamer, left_pad, prompts


SCHEDULES = {
    "llada": {"preset": "llada"},
    "dream": {"preset": "dream"},
    "origin": {"preset": "dream_origin", "seed": 2},
    "dkv_cache": {"preset": "dkv_cache"},
    "scheduled": {"preset": "fast_dllm", "selection": "scheduled_threshold", "threshold": 0.4},
}


def ragged_texts() -> tuple[list[torch.LongTensor], torch.LongTensor, torch.LongTensor]:
    """Three texts with 3, 5 and 2 gaps, one of which starts with one, and their batch."""
    texts = prompts([12, 17, 7])
    for text, gaps in zip(texts, ([2, 3, 5], [1, 8, 9, 10, 16], [0, 4]), strict=True):
        text[gaps] = MASK
    return texts, *left_pad(texts)


def test_infill_keeps_the_text_and_its_length(model):
    texts = prompts([12, 7])
    for text in texts:
        text[[2, 3, 5]] = MASK
    texts[0][8] = 0  # an EOS inside a text is part of it
    ids, mask = left_pad(texts)
    for method in ("llada", "d3llm", "dream", "fast_dllm-dual"):
        arguments = {k: v for k, v in METHODS[method].items() if k != "steps"} | {"return_dict_in_generate": True}
        output = model.infill(ids, attention_mask=mask, **arguments)
        masked = (ids == MASK) & (mask > 0)
        assert torch.equal(output.sequences[~masked], ids[~masked])
        assert not (output.sequences == MASK).any()
        assert torch.equal(output.commit_steps > 0, masked)
        torch.testing.assert_close(output.tokens_per_forward, 3 / output.forward_passes)
        alone = model.infill(texts[1][None], **arguments)
        assert torch.equal(alone.sequences[0], output.sequences[1, 5:])


def test_infill_refuses_what_it_cannot_do(model):
    with pytest.raises(ValueError, match="no mask token"):
        model.infill(prompts([5])[0][None])
    with pytest.raises(ValueError, match="remove \\['max_new_tokens'\\]"):
        model.infill(torch.full((1, 5), MASK), max_new_tokens=4)
    with pytest.raises(ValueError, match="exceeds the 256 positions"):
        model.infill(torch.full((1, 300), MASK))
    with pytest.raises(ValueError, match="`window_edge`='published'"):
        model.infill(torch.full((1, 5), MASK), preset="fast_dllm", window_edge="published")


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("method", SCHEDULES)
def test_steps_are_shared_out_over_the_gaps(model, method, steps):
    texts, ids, mask = ragged_texts()
    arguments = SCHEDULES[method] | {"steps": steps, "return_dict_in_generate": True}
    batch = model.infill(ids, attention_mask=mask, **arguments)
    assert not (batch.sequences == MASK).any()
    gaps = ((ids == MASK) & (mask > 0)).sum(dim=1)
    if method in ("llada", "dkv_cache"):
        assert torch.equal(batch.forward_passes, gaps.clamp(max=steps))
    elif method == "dream":  # the time grid commits nothing in some forwards
        assert (batch.forward_passes == steps).all()
    if method == "scheduled":  # commits the scheduled number at most
        assert (batch.forward_passes >= gaps.clamp(max=steps)).all()
    else:
        assert (batch.forward_passes <= steps).all()
    for index, text in enumerate(texts):
        alone = model.infill(text[None], **arguments)
        assert torch.equal(batch.sequences[index, -len(text) :], alone.sequences[0])
        assert torch.equal(batch.commit_steps[index, -len(text) :], alone.commit_steps[0])
        assert batch.forward_passes[index] == alone.forward_passes[0]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "published-edge"])
def test_a_seed_fills_a_text_the_same_whatever_its_batch(model, method):
    texts, ids, mask = ragged_texts()
    arguments = METHODS[method] | {"steps": None, "seed": 5, "temperature": 1.3, "top_p": 0.95}
    arguments["return_dict_in_generate"] = True
    batch = model.infill(ids, attention_mask=mask, **arguments)
    for index, text in enumerate(texts):
        alone = model.infill(text[None], **arguments)
        assert torch.equal(batch.sequences[index, -len(text) :], alone.sequences[0])
        assert torch.equal(batch.commit_steps[index, -len(text) :], alone.commit_steps[0])
    assert not torch.equal(batch.sequences, model.infill(ids, mask, **arguments | {"seed": 6}).sequences)


def test_a_text_that_is_filled_in_is_streamed_once(model):
    text = ragged_texts()[0][1]
    streamer = RecordingStreamer()
    output = model.infill(text[None], preset="llada", streamer=streamer, return_dict_in_generate=True)
    assert [tokens for kind, tokens in streamer.events if kind == "put"] == [[], output.sequences[0].tolist()]
    assert sum(kind == "draft" for kind, _ in streamer.events) == output.forward_passes[0] - 1
