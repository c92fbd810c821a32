"""Cache policies. Each answers one question: which positions does this forward recompute?

Attention always sees the whole canvas: what a forward does not recompute, it reads from the cache as it was last
computed. The first forward of a row recomputes everything.
"""

from dataclasses import dataclass

import torch

from .canvas import Canvas
from .configuration_diffusion import DiffusionGenerationConfig


@dataclass
class Window:
    """Positions [start, end) to recompute, a row.

    Attributes:
        start, end (`torch.LongTensor` of shape `(B,)`): Bounds on the canvas.
        single (`torch.BoolTensor` of shape `(B,)`, *optional*): Rows that commit the first position of their current
            block in this forward, and nothing else.
    """

    start: torch.LongTensor
    end: torch.LongTensor
    single: torch.BoolTensor | None = None

    def select_rows(self, rows: torch.LongTensor):
        self.start, self.end = self.start[rows], self.end[rows]
        self.single = None if self.single is None else self.single[rows]


class WholeCanvas:
    """`cache="none"`: every forward recomputes the whole canvas."""

    def held(self, canvas: Canvas) -> torch.BoolTensor:
        """Rows (B,) that must not leave their current block yet."""
        return torch.zeros_like(canvas.ended)

    def window(self, canvas: Canvas, forward: int) -> Window:
        """The window of forward number `forward`, counted from 1."""
        start = torch.zeros_like(canvas.opened)
        return Window(start, start + canvas.length)

    def select_rows(self, rows: torch.LongTensor):
        """Keep only these rows of the policy's state."""


class CurrentBlock(WholeCanvas):
    """`cache="prefix"` and `"dual"` (Fast-dLLM, arXiv 2505.22618, section 3.2).

    The first forward of a block rebuilds the cache; the others recompute from the block on (prefix) or the block alone
    (dual). A block takes at least one of those, as in the published loop, even if its first forward completed it.
    """

    def __init__(self, dual: bool, loses_edge: bool):
        self.dual = dual
        # The row that predicts the first position of a block lies before the block: without it the windows that
        # follow cannot propose that position, so the published loop commits it from the forward that rebuilds.
        self.loses_edge = loses_edge

    def held(self, canvas: Canvas) -> torch.BoolTensor:
        completed = canvas.left.gather(1, canvas.current.clamp(min=0)[:, None])[:, 0] == 0
        return (canvas.current >= 0) & completed & (canvas.forwards_in_block == 0) & ~canvas.ended

    def window(self, canvas: Canvas, forward: int) -> Window:
        refresh = canvas.forwards_in_block == 0
        start = canvas.block_starts[canvas.current]
        end = canvas.block_starts[canvas.current + 1] if self.dual else torch.full_like(start, canvas.length)
        single = refresh if self.loses_edge else None
        return Window(start.masked_fill(refresh, 0), end.masked_fill(refresh, canvas.length), single)


class SettledBlocks(WholeCanvas):
    """`cache="block"` (d3LLM, arXiv 2601.07568): everything after the last settled block is recomputed.

    A completed block settles, in order, `delay` forwards after it was first seen complete; the forward in which it
    settles still recomputes it. While one waits, and every `refresh_interval` forwards, the whole canvas is
    recomputed.
    """

    def __init__(self, canvas: Canvas, delay: int, refresh_interval: int | None):
        self.delay = delay
        self.refresh_interval = refresh_interval
        self.settled = torch.zeros_like(canvas.opened)
        # forward at which a block was first seen complete; the prompt is complete before the first one
        self.completed_at = torch.full_like(canvas.left, -1)
        self.completed_at[:, 0] = torch.where(canvas.left[:, 0] == 0, 0, -1)

    def window(self, canvas: Canvas, forward: int) -> Window:
        blocks = torch.arange(canvas.left.shape[1], device=canvas.left.device)
        complete = (canvas.left == 0) & (blocks < canvas.opened[:, None])
        waited = (self.completed_at >= 0) & (forward - self.completed_at >= self.delay)
        ready = (complete & waited) if self.delay else complete
        settled = (ready | (blocks < self.settled[:, None])).long().cumprod(dim=1).sum(dim=1)

        stabilising = complete & (blocks == settled[:, None])
        self.completed_at = torch.where(stabilising & (self.completed_at < 0), forward, self.completed_at)
        due = self.refresh_interval is not None and forward % self.refresh_interval == 0
        reuse = (self.settled > 0) & ~stabilising.any(dim=1)
        if due:
            reuse = torch.zeros_like(reuse)
        recompute_tail = reuse | (settled > self.settled)
        if self.refresh_interval == 1:
            recompute_tail = torch.zeros_like(reuse)
        start = torch.where(recompute_tail, canvas.block_starts[self.settled], 0)
        self.settled = settled
        return Window(start, torch.full_like(start, canvas.length))

    def select_rows(self, rows: torch.LongTensor):
        self.settled, self.completed_at = self.settled[rows], self.completed_at[rows]


def make_policy(canvas: Canvas, config: DiffusionGenerationConfig, logits_shift: int) -> WholeCanvas:
    if config.cache == "none":
        return WholeCanvas()
    if config.cache == "block":
        return SettledBlocks(canvas, config.cache_delay, config.cache_refresh_interval)
    loses_edge = bool(logits_shift) and config.window_edge == "published"
    return CurrentBlock(dual=config.cache == "dual", loses_edge=loses_edge)
