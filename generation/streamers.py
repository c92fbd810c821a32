"""A streamer that tells what of a canvas is committed and what is still a draft."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from queue import Queue

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class CanvasSpan:
    """
    Neighbouring positions of the generated region in the same state.

    Attributes:
        text (`str`): Their text; that of the mask tokens for a draft.
        positions (`int`): How many they are.
        committed (`bool`): Whether they are committed, else they are masked.
    """

    text: str
    positions: int
    committed: bool


class CanvasSpanStreamer(BaseStreamer):
    """
    Iterates over the states of the generated region while `generate()` runs in another thread: one list of
    [`CanvasSpan`] for each forward, and a last one without drafts.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Decodes the spans.
        mask_token_id (`int`, *optional*): The model's mask token; the tokenizer's own when not given.
        timeout (`float`, *optional*): Seconds to wait for the next state, after which `queue.Empty` is raised.
        decode_kwargs: Arguments of `tokenizer.decode` for committed spans, such as `skip_special_tokens`.

    Raises:
        `ValueError`: If neither says what the mask token is.

    Example:

    ```python
    >>> streamer = CanvasSpanStreamer(tokenizer, skip_special_tokens=True)
    >>> Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, "preset": "d3llm"}).start()
    >>> for spans in streamer:
    ...     print("".join(span.text if span.committed else "·" * span.positions for span in spans))
    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mask_token_id: int | None = None,
        timeout: float | None = None,
        **decode_kwargs,
    ):
        self.mask_token_id = tokenizer.mask_token_id if mask_token_id is None else mask_token_id
        if self.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token: pass the model's `mask_token_id`")
        self.tokenizer = tokenizer
        self.timeout = timeout
        self.decode_kwargs = decode_kwargs
        self.final: list[int] | None = None
        self.states: Queue[list[CanvasSpan] | None] = Queue()

    def put(self, value: torch.LongTensor):
        """The prompt, which is left out, then positions that are final."""
        self.final = [] if self.final is None else self.final + value.tolist()

    def put_draft(self, value: torch.LongTensor):
        """What follows the final positions after a forward."""
        self.states.put(self._spans((self.final or []) + value.tolist()))

    def end(self):
        self.states.put(self._spans(self.final or []))
        self.states.put(None)

    def __iter__(self) -> Iterator[list[CanvasSpan]]:
        while (spans := self.states.get(timeout=self.timeout)) is not None:
            yield spans

    def _spans(self, tokens: list[int]) -> list[CanvasSpan]:
        spans = []
        for committed, run in groupby(tokens, key=lambda token: token != self.mask_token_id):
            ids = list(run)
            text = self.tokenizer.decode(ids, **(self.decode_kwargs if committed else {}))
            spans.append(CanvasSpan(text, len(ids), committed))
        return spans
