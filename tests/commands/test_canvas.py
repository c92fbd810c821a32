"""The canvas that the commands draw: what a frame holds, and how it is rendered."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import d3llm.modeling  # noqa: F401
from d3llm.commands.canvas import JUST_COMMITTED, MASKED, LiveCanvas


MASK, EOS = 1, 0


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


def ids(tokenizer, text: str) -> torch.Tensor:
    return torch.tensor(
        [MASK if word == "_" else EOS if word == "." else tokenizer.vocab[word] for word in text.split()]
    )


def draft(streamer: LiveCanvas, tokens: torch.Tensor, mask: int = MASK) -> None:
    streamer.put_draft(tokens, committed=tokens != mask)


def draw(streamer: LiveCanvas, forward: int | None = None) -> str:
    return streamer.render(forward).plain


def test_masks_special_tokens_and_words(tokenizer):
    streamer = LiveCanvas(tokenizer)
    streamer.put(ids(tokenizer, "one is"))
    draft(streamer, ids(tokenizer, "_ two _ _ three . ."))
    assert draw(streamer) == "░░ two ░░ ░░ three · ·"
    assert streamer.count_committed(1) == 3  # the second EOS is filling


def test_a_finished_block_stays_in_front_of_the_draft(tokenizer):
    streamer = LiveCanvas(tokenizer)
    streamer.put(ids(tokenizer, "one is"))
    draft(streamer, ids(tokenizer, "two _ _ _"))
    streamer.put(ids(tokenizer, "two three"))
    draft(streamer, ids(tokenizer, "_ four"))
    streamer.put(ids(tokenizer, "."))
    streamer.end()
    assert [draw(streamer, forward) for forward in (1, 2, 3)] == ["two ░░ ░░ ░░", "two three ░░ four", "two three · ·"]


def test_what_a_forward_commits_stands_out(tokenizer):
    streamer = LiveCanvas(tokenizer)
    streamer.put(ids(tokenizer, "one is"))
    draft(streamer, ids(tokenizer, "two _ _ six"))
    draft(streamer, ids(tokenizer, "two three _ six"))
    text = streamer.render()
    styles = {text.plain[span.start : span.end].strip(): span.style for span in text.spans}
    assert styles["three"] == JUST_COMMITTED and styles[MASKED[0]] == MASKED[1]
    assert "two" not in styles and "six" not in styles


def test_white_space_is_that_of_the_whole_text():
    from d3llm.quickstart.stories.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()  # its decoder takes away the space before the text
    text = "That makes <<3*4=12>>12 pens.\n#### 12"
    tokens = torch.tensor(tokenizer(text)["input_ids"])
    streamer = LiveCanvas(tokenizer)
    streamer.put(tokens[:1])
    for hidden in ([0, 3, -1], [0, -2], [3], []):
        masked = tokens.clone()
        masked[hidden] = tokenizer.mask_token_id
        draft(streamer, masked, tokenizer.mask_token_id)
    assert [draw(streamer, forward) for forward in (3, 4)] == [text.replace("3", "░░", 1), text]


@pytest.mark.parametrize("preset", ["llada", "d3llm"])
@pytest.mark.parametrize("early_stop", [True, False])
def test_a_frame_for_each_forward(tokenizer, tiny_checkpoint, preset, early_stop):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    prompt = ids(tokenizer, "one plus two is")[None]
    streamer, heard = LiveCanvas(tokenizer), []
    streamer.listener = lambda streamer: heard.append(len(streamer.frames))
    output = model.generate(
        prompt,
        preset=preset,
        max_new_tokens=14,
        block_size=4,
        early_stop=early_stop,
        streamer=streamer,
        return_dict_in_generate=True,
    )
    assert len(streamer.frames) == output.forward_passes[0] == heard[-1]
    assert {len(frame) for frame in streamer.frames} == {14}
    assert streamer.frames[-1] == output.sequences[0, 4:].tolist()
    for forward in range(1, len(streamer.frames) + 1):
        draw(streamer, forward)
