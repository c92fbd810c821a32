"""What a streamer gets to see of a canvas while it is decoded."""

import torch
from transformers.generation.streamers import BaseStreamer

from .canvas import Canvas


class CanvasStream:
    """Feeds a streamer of transformers: final blocks by `put`, what is still open by `put_draft`. Reads the canvas on
    the host after each forward: a run without a streamer does not come here."""

    def __init__(self, streamer: BaseStreamer):
        self.streamer = streamer
        self.sent: int | None = None  # positions; none before the prompt, which may be empty

    def update(self, canvas: Canvas, eos_token_ids: torch.LongTensor):
        """Called before every forward, with the state that the forward before left."""
        tokens, starts = canvas.tokens[0].cpu(), canvas.block_starts.tolist()
        if self.sent is None:
            self.streamer.put(tokens[: canvas.prompt_length])
            self.sent = canvas.prompt_length
            return
        finished = int((canvas.left[0] == 0).long().cumprod(dim=0).sum())
        final = starts[finished]
        eos = torch.isin(tokens[canvas.prompt_length :], eos_token_ids.cpu()).nonzero()[:, 0]
        ended = canvas.first_block and canvas.ended[0]  # a text that is filled in goes on after the fill
        shown = canvas.prompt_length + int(eos[0]) + 1 if len(eos) and ended else canvas.length
        if final > self.sent:
            if shown > self.sent:
                self.streamer.put(tokens[self.sent : min(final, shown)])
            self.sent = final
        if self.sent < canvas.length and hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(tokens[self.sent :])

    def end(self):
        self.streamer.end()
