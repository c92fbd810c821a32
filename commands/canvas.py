"""Draws the generated region of a canvas while it fills."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from ..generation.streaming import CanvasStreamer


if TYPE_CHECKING:
    from rich.console import RenderableType
    from transformers import PreTrainedTokenizerBase

MASKED = ("░░", "bright_black")
SPECIAL = ("·", "bright_black")
COMMITTED = ""
JUST_COMMITTED = "bold black on green"


class LiveCanvas(CanvasStreamer):
    """
    A streamer for `generate` (batch of 1) that records the canvas after each forward and notifies a listener.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        listener (`Callable[[LiveCanvas], None]`, *optional*): Called after each forward.

    Attributes:
        frames (`list[list[int]]`): Tokens of the whole generated region after each forward.
        committed (`list[list[bool]]`): Which of them are committed.
        drawing (`float`): Seconds spent in the listener and in pauses, which are not part of decoding.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        listener: Callable[[LiveCanvas], None] | None = None,
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.listener = listener
        self.pause = 0.0  # seconds to wait after each forward, so that it can be seen
        self.frames: list[list[int]] = []
        self.committed: list[list[bool]] = []
        self.drawing = 0.0

    def show(self, tokens: list[int], committed: list[bool]) -> None:
        """Records a frame. The last one is shorter when the answer ends early: an EOS fills the rest."""
        missing = len(self.frames[0]) - len(tokens) if self.frames else 0
        self.frames.append(tokens + tokens[-1:] * missing)
        self.committed.append(committed + [True] * missing)
        start = time.perf_counter()
        if self.listener is not None:
            self.listener(self)
        if self.pause:
            time.sleep(self.pause)
        self.drawing += time.perf_counter() - start

    def count_committed(self, forward: int) -> int:
        """Tokens committed after a forward, counted from 1, up to and including the first EOS."""
        tokens, committed = self.frames[forward - 1], self.committed[forward - 1]
        eos = self.tokenizer.eos_token_id
        ends = [i for i, token in enumerate(tokens) if token == eos and committed[i]]
        return sum(committed[: ends[0] + 1 if ends else None])

    def render(self, forward: int | None = None) -> Text:
        """
        The canvas after a forward: masked positions as `░░`, special tokens as `·`, newly committed tokens marked.

        Args:
            forward (`int`, *optional*): The forward, counted from 1; the last one by default.

        Returns:
            `rich.text.Text`: The canvas as text.
        """
        forward = len(self.frames) if forward is None else forward
        tokens, committed = self.frames[forward - 1], self.committed[forward - 1]
        before = self.committed[forward - 2] if forward > 1 else [False] * len(tokens)
        special = set(self.tokenizer.all_special_ids)

        def kind(index: int) -> str:
            if not committed[index]:
                return "masked"
            if tokens[index] in special:
                return "special"
            return "committed" if before[index] else "just committed"

        text, whole, start, drawn = Text(), self._decode(tokens), 0, 0
        for end in range(1, len(tokens) + 1):
            if end < len(tokens) and kind(end) == kind(start):
                continue
            # White space depends on the neighbouring tokens: a run is taken from the whole text, by the number of
            # visible characters up to its end.
            stop = _index_after(whole, visible=len("".join(self._decode(tokens[:end]).split())))
            piece = whole[drawn:stop]
            word = piece.lstrip()
            text.append(piece[: len(piece) - len(word)])
            if kind(start) in ("masked", "special"):
                mark, style = MASKED if kind(start) == "masked" else SPECIAL
                text.append(" ".join([mark] * (end - start)), style)
            else:
                text.append(word, COMMITTED if kind(start) == "committed" else JUST_COMMITTED)
            start, drawn = end, stop
        return text

    def with_caption(self) -> RenderableType:
        """The canvas after the last forward, and how far it is."""
        forward = len(self.frames)
        caption = f"forward {forward}, {self.count_committed(forward)} tokens committed"
        return Group(self.render(), Text(caption, "dim"))

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _index_after(text: str, visible: int) -> int:
    """The index that follows the first `visible` characters that are not white space."""
    for index, character in enumerate(text):
        if visible == 0:
            return index
        visible -= not character.isspace()
    return len(text)
