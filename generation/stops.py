"""Where a row ends before its canvas is full: at its first EOS, at a stop string, or by a criterion."""

import torch
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import StopStringCriteria

from .canvas import Canvas


class Stops:
    """Ends rows at their first EOS, wherever it is committed, and by stop strings and criteria, which read what is
    committed from the start of the generated region up to the first gap.

    A stop string counts only if its last token was decoded: given text does not end a row.

    Args:
        eos_token_ids (`torch.LongTensor`): The tokens that end a row; empty with `early_stop=False`.
        fill_token_id (`int`): Fills a row after its end.
        criteria (`StoppingCriteriaList`): Called with the canvases (rows, L) and no scores.
        stop_strings (`StopStringCriteria`, *optional*): Applied to every position, since a forward commits many.
        mask_token_id (`int`): Pads the canvas on the left, where a stop string reaches further back.
    """

    def __init__(
        self,
        eos_token_ids: torch.LongTensor,
        fill_token_id: int,
        criteria: StoppingCriteriaList,
        stop_strings: StopStringCriteria | None,
        mask_token_id: int,
    ):
        self.eos_token_ids = eos_token_ids
        self.fill_token_id = fill_token_id
        self.criteria = criteria
        self.stop_strings = stop_strings
        self.mask_token_id = mask_token_id

    def end_rows(self, canvas: Canvas, forwards: int) -> None:
        """Ends rows and fills the rest of them; `forwards` have been made."""
        if len(self.eos_token_ids):
            canvas.end_after(canvas.first_of(self.eos_token_ids), self.fill_token_id, forwards)
        if forwards and (self.criteria or self.stop_strings is not None):
            canvas.end_after(self.last_kept(canvas), self.fill_token_id, forwards)

    def last_kept(self, canvas: Canvas) -> torch.LongTensor:
        """The last position (B, 1) that a row keeps; L for a row that continues."""
        positions = torch.arange(canvas.length, device=canvas.tokens.device)
        generated = positions >= canvas.region_starts[:, None]
        gapless = (canvas.committed | ~generated).long().cumprod(dim=1) > 0
        last = torch.full_like(canvas.tokens[:, :1], canvas.length)
        if self.stop_strings is not None:
            back = self.stop_strings.maximum_token_len
            padded = torch.nn.functional.pad(canvas.tokens, (back - 1, 0), value=self.mask_token_id)
            endings = padded.unfold(1, back, 1)
            hits = self.stop_strings(endings.reshape(-1, back), None).view_as(canvas.tokens)
            hits = hits & gapless & generated & ~canvas.given
            last = torch.where(hits, positions, canvas.length).amin(dim=1, keepdim=True)
        if self.criteria:
            stopped = self.criteria(canvas.tokens, None)[:, None]
            last = torch.where(stopped, last.minimum(gapless.sum(dim=1, keepdim=True) - 1), last)
        return last
