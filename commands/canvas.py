"""Draws the generated region of a canvas while it fills."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.text import Text


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

MASKED = ("░░", "bright_black")
SPECIAL = ("·", "bright_black")
COMMITTED = ""
JUST_COMMITTED = "bold black on green"


class CanvasStreamer:
    """
    A streamer for `generate` (batch of 1) that keeps the canvas after each forward and tells a listener of it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        mask_token_id (`int`): Id that stands for a masked position in a draft.
        listener (`Callable[[CanvasStreamer], None]`, *optional*): Called after each forward.
        pause (`float`, *optional*, defaults to 0): Seconds to wait after each forward, for the eye.

    Attributes:
        frames (`list[list[int]]`): Tokens of the whole generated region after each forward.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mask_token_id: int,
        listener: Callable[[CanvasStreamer], None] | None = None,
        pause: float = 0.0,
    ):
        self.tokenizer = tokenizer
        self.mask_token_id = mask_token_id
        self.listener = listener
        self.pause = pause
        self.frames: list[list[int]] = []
        self._final: list[int] | None = None  # tokens of finished blocks, None before the prompt
        self._drawn = 0  # how many of them the last frame has

    def put(self, value: torch.Tensor) -> None:
        """Receives the prompt, then the tokens of every finished block."""
        self._final = [] if self._final is None else self._final + value.tolist()

    def put_draft(self, value: torch.Tensor, **kwargs) -> None:
        """Receives what follows the finished blocks, after a forward."""
        self._add_frame((self._final or []) + value.tolist())

    def end(self) -> None:
        """Receives the end of the run; the forward that finished the last block had no draft."""
        final = self._final or []
        if len(final) > self._drawn:
            length = len(self.frames[0]) if self.frames else len(final)
            self._add_frame(final + final[-1:] * (length - len(final)))  # what follows an EOS is EOS

    def _add_frame(self, tokens: list[int]) -> None:
        self.frames.append(tokens)
        self._drawn = len(self._final or [])
        if self.listener is not None:
            self.listener(self)
        if self.pause:
            time.sleep(self.pause)

    def committed(self, forward: int) -> int:
        """Tokens committed after a forward, counted from 1, up to the first EOS and with it: the rest is filling."""
        tokens = self.frames[forward - 1]
        ends = [index for index, token in enumerate(tokens) if token == self.tokenizer.eos_token_id]
        return sum(token != self.mask_token_id for token in tokens[: ends[0] + 1 if ends else None])

    def render(self, forward: int | None = None) -> Text:
        """
        The canvas after a forward: masked positions as `░░`, special tokens as `·`, what the forward committed marked.

        Args:
            forward (`int`, *optional*): The forward, counted from 1; the last one by default.

        Returns:
            `rich.text.Text`: The canvas as text.
        """
        forward = len(self.frames) if forward is None else forward
        tokens = self.frames[forward - 1]
        before = self.frames[forward - 2] if forward > 1 else [self.mask_token_id] * len(tokens)
        special = set(self.tokenizer.all_special_ids)

        def kind(index: int) -> str:
            if tokens[index] == self.mask_token_id:
                return "masked"
            if tokens[index] in special:
                return "special"
            return "committed" if before[index] == tokens[index] else "just committed"

        text, whole, start, drawn = Text(), self._decode(tokens), 0, 0
        for end in range(1, len(tokens) + 1):
            if end < len(tokens) and kind(end) == kind(start):
                continue
            # White space depends on the tokens around it: a run is cut out of the whole text, by the number of visible
            # characters up to its end.
            cut = _index_after(whole, visible=len("".join(self._decode(tokens[:end]).split())))
            piece = whole[drawn:cut]
            word = piece.lstrip()
            text.append(piece[: len(piece) - len(word)])
            if kind(start) in ("masked", "special"):
                mark, style = MASKED if kind(start) == "masked" else SPECIAL
                text.append(" ".join([mark] * (end - start)), style)
            else:
                text.append(word, COMMITTED if kind(start) == "committed" else JUST_COMMITTED)
            start, drawn = end, cut
        return text

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _index_after(text: str, visible: int) -> int:
    """The index that follows the first `visible` characters that are not white space."""
    for index, character in enumerate(text):
        if visible == 0:
            return index
        visible -= not character.isspace()
    return len(text)
