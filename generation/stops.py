"""Where a row ends before its canvas is full: at its first EOS, at a stop string, or by a criterion."""

import numpy as np
import torch
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import StopStringCriteria

from .canvas import Canvas, Integers


class Stops:
    """Ends rows at their first EOS, by a rule, and by stop strings and criteria, which read what is
    committed from the start of the generated region up to the first gap.

    A stop string counts only if its last token was decoded: given text does not end a row.

    Args:
        eos_token_ids (`list[int]`): The tokens that end a row; empty with `early_stop=False`.
        fill_token_id (`int`): Fills a row after its end.
        criteria (`StoppingCriteriaList`): Called with the canvases (rows, L), on the host, and no scores.
        stop_strings (`StopStringCriteria`, *optional*): Applied to every position, since a forward commits many.
        mask_token_id (`int`): Pads the canvas on the left, where a stop string reaches further back.
        rule (`str`): When an EOS ends its row, see `early_stop_rule` of the config.
    """

    def __init__(
        self,
        eos_token_ids: list[int],
        fill_token_id: int,
        criteria: StoppingCriteriaList,
        stop_strings: StopStringCriteria | None,
        mask_token_id: int,
        rule: str,
    ):
        self.eos_token_ids = eos_token_ids
        self.fill_token_id = fill_token_id
        self.criteria = criteria
        self.stop_strings = stop_strings
        self.mask_token_id = mask_token_id
        self.rule = rule

    def end_rows(self, canvas: Canvas, forwards: int) -> None:
        """Ends rows and fills the rest of them; `forwards` have been made."""
        if self.eos_token_ids:
            self._end_after(canvas, self.first_eos(canvas, forwards), forwards)
        if forwards and (self.criteria or self.stop_strings is not None):
            self._end_after(canvas, self.last_kept(canvas), forwards)

    def first_eos(self, canvas: Canvas, forwards: int) -> Integers:
        """The first EOS (B, 1) of a row that it ends; L for a row that continues."""
        first = canvas.first_of(self.eos_token_ids)
        if self.rule == "at_once":
            return first
        gaps = (~canvas.committed & (canvas.positions < first)).any(axis=1)
        open_gaps = ((~canvas.committed | canvas.held[:, None]) & canvas.in_opened_blocks()).any(axis=1)
        if self.rule == "block":
            canvas.ending = first[:, 0] < canvas.length
            continues = open_gaps
        elif self.rule == "new_eos":
            is_new = np.isin(canvas.tokens, self.eos_token_ids) & (canvas.commit_steps == forwards) & ~canvas.given
            continues = (gaps | ~is_new.any(axis=1)) & open_gaps
        else:
            continues = gaps
        return np.where(continues, canvas.length, first[:, 0])[:, None]

    def _end_after(self, canvas: Canvas, last: Integers, forwards: int) -> None:
        if (last < canvas.length).any():
            canvas.end_after(last, self.fill_token_id, forwards)

    def last_kept(self, canvas: Canvas) -> Integers:
        """The last position (B, 1) that a row keeps; L for a row that continues."""
        generated = canvas.positions >= canvas.region_starts[:, None]
        gapless = (canvas.committed | ~generated).cumprod(axis=1) > 0
        last = np.full_like(canvas.tokens[:, :1], canvas.length)
        if self.stop_strings is not None:
            back = self.stop_strings.maximum_token_len
            padded = np.pad(canvas.tokens, ((0, 0), (back - 1, 0)), constant_values=self.mask_token_id)
            endings = torch.from_numpy(padded).unfold(1, back, 1).reshape(-1, back)
            hits = self.stop_strings(endings, None).numpy().reshape(canvas.tokens.shape)
            hits = hits & gapless & generated & ~canvas.given
            last = np.where(hits, canvas.positions, canvas.length).min(axis=1, keepdims=True)
        if self.criteria:
            stopped = self.criteria(torch.from_numpy(canvas.tokens), None).numpy()[:, None]
            # also what is masked in the prompt
            first_gap = canvas.committed.cumprod(axis=1).sum(axis=1, keepdims=True)
            last = np.where(stopped, np.minimum(last, first_gap - 1), last)
        return last
