"""What a streamer gets to see of a canvas: what is final, and nothing else."""

import numpy as np

from d3llm.generation.canvas import Canvas
from d3llm.generation.streaming import StreamFeed
from tests.helpers.decoding import EOS, MASK, RecordingStreamer, prompts


def test_an_eos_that_ends_nothing_does_not_end_the_stream(model):
    ids = prompts([6])[0][None]
    arguments = {"preset": "d3llm", "max_new_tokens": 40, "block_size": 8, "early_stop": False}
    eos = int(model.generate(ids, **arguments)[0, 6 + 10])
    streamer = RecordingStreamer()
    output = model.generate(ids, eos_token_id=eos, streamer=streamer, **arguments)
    final = [token for kind, tokens in streamer.events[1:] if kind == "put" for token in tokens]
    assert final == output[0, 6:].tolist()


def test_a_block_after_a_gap_is_not_final():
    streamer, prompt = RecordingStreamer(), np.array([[5, 6]])
    canvas = Canvas.from_prompt(
        prompt, None, new_tokens=6, block_size=2, mask_token_id=MASK, seeds=np.zeros(1, dtype=np.int64)
    )
    stream, no_eos = StreamFeed(streamer), [EOS]
    stream.update(canvas, no_eos)
    for position in (4, 5, 2, 3):  # the second block before the first
        canvas.tokens[0, position], canvas.committed[0, position] = 10 + position, True
        canvas.count_masks()
        stream.update(canvas, no_eos)
    assert [event for event in streamer.events if event[0] == "put"] == [("put", [5, 6]), ("put", [12, 13, 14, 15])]
    assert streamer.events[-1] == ("draft", [MASK, MASK])
