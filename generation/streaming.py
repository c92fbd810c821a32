"""Streaming: what a streamer sees of a canvas while it is decoded, and streamers that know what is committed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from queue import Queue
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from .canvas import Canvas


class StreamFeed:
    """
    Feeds a streamer: final blocks by `put`, the rest of the canvas by `put_draft`. With a draft, a streamer that sets
    `takes_committed` also gets which of its positions are committed.

    Args:
        streamer (`BaseStreamer`): The streamer.
    """

    def __init__(self, streamer: BaseStreamer):
        self.streamer = streamer
        self.takes_draft = hasattr(streamer, "put_draft")
        self.takes_committed = getattr(streamer, "takes_committed", False)
        self.sent: int | None = None  # positions; none before the prompt, which may be empty

    def update(self, canvas: Canvas, eos_token_ids: list[int], early_stop: bool = False) -> None:
        """Called before every forward, with the state that the previous forward left. With `early_stop`, final blocks
        may have tokens after an EOS that are filled before the run ends."""
        tokens = torch.from_numpy(canvas.tokens[0])
        if self.sent is None:
            self.streamer.put(tokens[: canvas.region_start])
            self.sent = canvas.region_start
            return
        finished = canvas.completed_blocks()[0].cumprod().sum()
        final = int(canvas.block_starts[0, finished])
        eos = np.isin(canvas.tokens[0, canvas.region_start :], eos_token_ids).nonzero()[0]
        ended = canvas.region_start and (early_stop or canvas.ended[0])  # an infilled text continues after its gaps
        shown = canvas.region_start + int(eos[0]) + 1 if len(eos) and ended else canvas.length
        if final > self.sent:
            if shown > self.sent:
                self.streamer.put(tokens[self.sent : min(final, shown)])
            self.sent = final
        if self.takes_draft and self.sent < canvas.length:
            committed = torch.from_numpy(canvas.committed[0, self.sent :])
            self.streamer.put_draft(tokens[self.sent :], **({"committed": committed} if self.takes_committed else {}))

    def end(self) -> None:
        self.streamer.end()


class CanvasStreamer(BaseStreamer):
    """
    The base of streamers that show the whole generated region after each forward: a subclass defines `show`.
    """

    takes_committed = True

    def __init__(self) -> None:
        self.final: list[int] | None = None  # tokens of final blocks; none before the prompt

    def put(self, value: torch.LongTensor) -> None:
        """Receives the prompt, which is skipped, then the tokens of final blocks."""
        self.final = [] if self.final is None else self.final + value.tolist()

    def put_draft(self, value: torch.LongTensor, committed: torch.BoolTensor) -> None:
        """Receives the tokens after the final blocks, and which of them are committed."""
        final = self.final or []
        self.show(final + value.tolist(), [True] * len(final) + committed.tolist())

    def end(self) -> None:
        """Receives the end of the run. The forward that completed the last block had no draft."""
        final = self.final or []
        self.show(final, [True] * len(final))

    def show(self, tokens: list[int], committed: list[bool]) -> None:
        """
        Called after each forward.

        Args:
            tokens (`list[int]`): The generated region; after the last forward only up to its EOS.
            committed (`list[bool]`): Which of them are committed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class CanvasSpan:
    """
    Neighbouring positions of the generated region in the same state.

    Attributes:
        text (`str`): Their text; that of the mask tokens for a draft.
        positions (`int`): How many there are.
        committed (`bool`): Whether they are committed; the others are masked.
    """

    text: str
    positions: int
    committed: bool


class CanvasSpanStreamer(CanvasStreamer):
    """
    Iterates over the states of the generated region while `generate()` runs in another thread: one list of
    [`CanvasSpan`] for each forward, and a last one without drafts.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Decodes the spans.
        timeout (`float`, *optional*): Seconds to wait for the next state, after which `queue.Empty` is raised.
        decode_kwargs: Arguments of `tokenizer.decode` for committed spans, such as `skip_special_tokens`.

    Example:

    ```python
    >>> streamer = CanvasSpanStreamer(tokenizer, skip_special_tokens=True)
    >>> Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, "preset": "d3llm"}).start()
    >>> for spans in streamer:
    ...     print("".join(span.text if span.committed else "·" * span.positions for span in spans))
    ```
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, timeout: float | None = None, **decode_kwargs: Any):
        super().__init__()
        self.tokenizer = tokenizer
        self.timeout = timeout
        self.decode_kwargs = decode_kwargs
        self.states: Queue[list[CanvasSpan] | None] = Queue()

    def show(self, tokens: list[int], committed: list[bool]) -> None:
        """Queues the spans of a state."""
        spans = []
        for is_committed, run in groupby(zip(tokens, committed, strict=True), key=lambda pair: pair[1]):
            ids = [token for token, _ in run]
            text = self.tokenizer.decode(ids, **(self.decode_kwargs if is_committed else {}))
            spans.append(CanvasSpan(text, len(ids), is_committed))
        self.states.put(spans)

    def end(self) -> None:
        super().end()
        self.states.put(None)

    def __iter__(self) -> Iterator[list[CanvasSpan]]:
        while (spans := self.states.get(timeout=self.timeout)) is not None:
            yield spans
