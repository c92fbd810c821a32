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
    """What a forward recomputes.

    Attributes:
        positions (`torch.BoolTensor` of shape `(B, L)`): The positions to recompute.
        single (`torch.BoolTensor` of shape `(B,)`, *optional*): Rows that commit the first position of their current
            block in this forward, and nothing else.
    """

    positions: torch.BoolTensor
    single: torch.BoolTensor | None = None

    def extent(self) -> list[torch.Tensor]:
        """Positions of the widest row; start and end of the first row; whether every row is this one span."""
        widths, first_row = self.positions.sum(dim=1), self.positions[0]
        start = first_row.long().argmax()
        end = (first_row * torch.arange(len(first_row), device=first_row.device)).amax() + 1
        shared = (self.positions == first_row).all() & (end - start == widths[0])
        return [widths.amax(), start, end, shared.long()]

    def indices(self, width: int, first_real: torch.LongTensor) -> torch.LongTensor:
        """The positions as (B, `width`), in order at the right end of each row.

        The left is filled: in a row with padding with position 0, which nothing sees, in another with its first
        recomputed position, which writes its slot again. The flash path of transformers takes the last `width` slots
        of the canvas for the queries of a row, and drops those on padding: so it drops none but fillings.

        Args:
            first_real (`torch.LongTensor` of shape `(B,)`): First position that is not padding.
        """
        columns = torch.arange(width, device=first_real.device)
        order = self.positions.long().argsort(dim=1, stable=True)[:, -width:]
        widths = self.positions.sum(dim=1, keepdim=True)
        filling = self.positions.long().argmax(dim=1).where(first_real == 0, 0)
        return order.where(columns >= width - widths, filling[:, None])

    def select_rows(self, rows: torch.LongTensor):
        self.positions = self.positions[rows]
        self.single = None if self.single is None else self.single[rows]


class WholeCanvas:
    """`cache="none"`: every forward recomputes the whole canvas."""

    def held(self, canvas: Canvas) -> torch.BoolTensor:
        """Rows (B,) that must not leave their current block yet."""
        return torch.zeros_like(canvas.ended)

    def window(self, canvas: Canvas, forward: int) -> Window:
        """The window of forward number `forward`, counted from 1."""
        return Window(torch.ones_like(canvas.committed))

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
        rebuild = canvas.forwards_in_block == 0
        current = canvas.current[:, None]
        recomputed = canvas.block_of == current if self.dual else canvas.block_of >= current
        return Window(recomputed | rebuild[:, None], rebuild if self.loses_edge else None)


class DelayedTokens(WholeCanvas):
    """`cache="delayed"` (dKV-Cache-Decode, arXiv 2505.15781, section 3): a token is read from the cache from `delay`
    forwards after the one that committed it.

    Until then it is recomputed, as are all masked positions. The first `delay + 1` forwards of a block, and every
    `refresh_interval`-th, recompute the whole canvas.
    """

    def __init__(self, delay: int, refresh_interval: int | None):
        self.delay = delay
        self.refresh_interval = refresh_interval

    def window(self, canvas: Canvas, forward: int) -> Window:
        recent = (canvas.commit_steps > 0) & (canvas.commit_steps >= forward - self.delay)
        refresh = canvas.forwards_in_block <= self.delay
        if self.refresh_interval is not None:
            refresh = refresh | (canvas.forwards_in_block % self.refresh_interval == 0)
        return Window(~canvas.committed | recent | refresh[:, None])


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
        reuse = (self.settled > 0) & ~stabilising.any(dim=1) & (not due)
        reuse = (reuse | (settled > self.settled)) & (self.refresh_interval != 1)
        recomputed = (canvas.block_of >= self.settled[:, None]) | ~reuse[:, None]
        self.settled = settled
        return Window(recomputed)

    def select_rows(self, rows: torch.LongTensor):
        self.settled, self.completed_at = self.settled[rows], self.completed_at[rows]


def make_policy(canvas: Canvas, config: DiffusionGenerationConfig, logits_shift: int) -> WholeCanvas:
    if config.cache == "none":
        return WholeCanvas()
    if config.cache == "block":
        return SettledBlocks(canvas, config.cache_delay, config.cache_refresh_interval)
    if config.cache == "delayed":
        return DelayedTokens(config.cache_delay, config.cache_refresh_interval)
    loses_edge = bool(logits_shift) and config.window_edge == "published"
    return CurrentBlock(dual=config.cache == "dual", loses_edge=loses_edge)
