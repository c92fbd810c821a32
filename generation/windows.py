"""Cache policies. Each answers one question: which positions does this forward recompute?

Attention always sees the whole canvas: positions that a forward does not recompute are read from the cache. The first
forward of a row recomputes everything.

What holds for every cache, and the quirks of published decoders, are policies around a policy. `POLICIES` names them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .canvas import Booleans, Canvas, Integers, PerRow, Proposal, gather
from .configuration_diffusion import DiffusionGenerationConfig


@dataclass
class Window(PerRow):
    """What a forward recomputes, and for which positions it proposes tokens.

    Attributes:
        positions (`Booleans` of shape `(B, L)`): The positions to recompute.
        candidates (`Booleans` of shape `(B, L)`): The positions that the forward proposes tokens for.
        eligible (`Booleans` of shape `(B, L)`): The masked ones of them, which the selection chooses from. The others
            are committed: a policy asks for them to revise them.
    """

    positions: Booleans
    candidates: Booleans
    eligible: Booleans


def indices_of(window: Booleans, width: int, first_real: Integers) -> Integers:
    """The positions of windows (R, L) as (R, `width`), in order at the right end of each row.

    The left end is filled: in a row with padding by position 0, which nothing sees, in any other by its first
    recomputed position, whose slot is then written twice. The flash path of transformers takes the last `width` slots
    of the canvas for the queries of a row and drops those on padding: so it drops only fillings.

    Args:
        first_real (`Integers` of shape `(R,)`): First position that is not padding.
    """
    order = window.argsort(axis=1, kind="stable")[:, -width:]
    filling = np.where(first_real == 0, window.argmax(axis=1), 0)
    real = np.arange(width) >= width - window.sum(axis=1, keepdims=True)
    return np.where(real, order, filling[:, None])


class WholeCanvas(PerRow):
    """`cache="none"`: every forward recomputes the whole canvas. The base of all policies. Their arrays have one entry
    per row."""

    def must_stay(self, canvas: Canvas) -> Booleans:
        """Rows (B,) that must not leave their current block yet."""
        return np.zeros_like(canvas.ended)

    def recomputed(self, canvas: Canvas, forward: int) -> Booleans:
        """The positions (B, L) that forward number `forward`, counted from 1, recomputes."""
        return np.ones_like(canvas.committed)

    def window(self, canvas: Canvas, open_positions: Booleans, forward: int) -> Window:
        """
        The window of a forward.

        Args:
            canvas ([`~d3llm.generation.canvas.Canvas`]): The state before it.
            open_positions (`Booleans` of shape `(B, L)`): Masked positions of opened blocks.
            forward (`int`): Its number, counted from 1. For a row it is `forward - canvas.began`.
        """
        positions = self.recomputed(canvas, forward)
        candidates = open_positions & positions
        return Window(positions, candidates, candidates)

    def accept(self, accepted: Booleans, eligible: Booleans) -> Booleans:
        """What is committed of the `eligible` candidates (B, K), of which the selection `accepted` some."""
        return accepted

    def revise(self, canvas: Canvas, positions: Integers, proposal: Proposal, accepted: Booleans) -> Booleans:
        """
        What is written of the candidates: those that are committed now, and those that are revised. To mask decoded
        positions again, a policy calls `canvas.remask`.

        Args:
            canvas ([`~d3llm.generation.canvas.Canvas`]): The state before the forward.
            positions (`Integers` of shape `(B, K)`): The candidates.
            proposal ([`~d3llm.generation.canvas.Proposal`]): What the forward proposes for them.
            accepted (`Booleans` of shape `(B, K)`): Which of them are committed now.
        """
        return accepted


class CurrentBlock(WholeCanvas):
    """`cache="prefix"` and `"dual"` (Fast-dLLM, arXiv 2505.22618, section 3.2).

    The first forward of a block rebuilds the cache; the others recompute from the block on (prefix) or only the block
    (dual). A block takes at least one of these, as in the published loop, even if its first forward completed it,
    unless `leave_completed`.
    """

    def __init__(self, dual: bool, leave_completed: bool):
        self.dual = dual
        self.leave_completed = leave_completed

    def must_stay(self, canvas: Canvas) -> Booleans:
        if self.leave_completed:
            return super().must_stay(canvas)
        completed = canvas.masks_left_in(canvas.current.clip(min=0)) == 0
        return (canvas.current >= 0) & completed & (canvas.forwards_in_block == 0)

    def recomputed(self, canvas: Canvas, forward: int) -> Booleans:
        current = canvas.current[:, None]
        window = canvas.block_of == current if self.dual else canvas.block_of >= current
        return window | (canvas.forwards_in_block == 0)[:, None]


class PublishedEdge(CurrentBlock):
    """`window_edge="published"` on a model with shifted logits (Fast-dLLM's code for Dream).

    The row that predicts the first position of a block is before the block. Later windows do not have it and cannot
    propose that position, so the published loop commits it, and nothing else, in the forward that rebuilds.
    """

    def window(self, canvas: Canvas, open_positions: Booleans, forward: int) -> Window:
        window = super().window(canvas, open_positions, forward)
        self.rebuilds = canvas.forwards_in_block == 0
        first = gather(canvas.block_starts, canvas.current[:, None])
        first = np.maximum(first, canvas.first_real[:, None]) == canvas.positions
        candidates = window.candidates & (first | ~self.rebuilds[:, None])
        return Window(window.positions, candidates, candidates)

    def accept(self, accepted: Booleans, eligible: Booleans) -> Booleans:
        return accepted | (eligible & self.rebuilds[:, None])


class DelayedTokens(WholeCanvas):
    """`cache="delayed"` (dKV-Cache-Decode, arXiv 2505.15781, section 3): a token is read from the cache from `delay`
    forwards after the one that committed it.

    Until then it is recomputed, as are all masked positions. The first `delay + 1` forwards of a block, and every
    `refresh_interval`-th, recompute the whole canvas.
    """

    def __init__(self, delay: int, refresh_interval: int | None):
        self.delay = delay
        self.refresh_interval = refresh_interval

    def recomputed(self, canvas: Canvas, forward: int) -> Booleans:
        recent = (canvas.commit_steps > 0) & (canvas.commit_steps >= forward - self.delay)
        refresh = canvas.forwards_in_block <= self.delay
        if self.refresh_interval is not None:
            refresh = refresh | (canvas.forwards_in_block % self.refresh_interval == 0)
        return ~canvas.committed | recent | refresh[:, None]


class SettledBlocks(WholeCanvas):
    """`cache="block"` (d3LLM, arXiv 2601.07568): everything after the last settled block is recomputed.

    A completed block settles, in order, `delay` forwards after it was first seen complete; the forward in which it
    settles still recomputes it. While one waits, and every `refresh_interval` forwards, the whole canvas is
    recomputed.
    """

    def __init__(self, canvas: Canvas, delay: int, refresh_interval: int | None):
        self.delay = delay
        self.refresh_interval = refresh_interval
        self.settled = np.zeros_like(canvas.opened)
        # forward at which a block was first seen complete; those of the prompt are complete before the first one
        given = (canvas.masks_left == 0) & (np.arange(canvas.masks_left.shape[1]) < canvas.opened[:, None])
        self.completed_at = np.where(given, canvas.began[:, None], -1)
        # blocks settle together with the others of their attention block, which see them
        starts = canvas.block_starts.clip(max=canvas.length - 1)
        before, after = (gather(canvas.attention_block_of, at) for at in ((starts - 1).clip(min=0), starts))
        self.may_end_here = (before < after) | (canvas.block_starts == canvas.length) | (starts == 0)

    def settle(self, canvas: Canvas, forward: int) -> Booleans:
        """Settles blocks, as forward number `forward` sees them; returns which blocks (B, M) wait to settle."""
        blocks = np.arange(canvas.masks_left.shape[1])
        complete = canvas.completed_blocks() & (blocks < canvas.opened[:, None])
        waited = (self.completed_at >= 0) & (forward - self.completed_at >= self.delay)
        ready = (complete & waited) if self.delay else complete
        settled = (ready | (blocks < self.settled[:, None])).cumprod(axis=1).sum(axis=1)

        stabilising = complete & (blocks == settled[:, None])
        self.completed_at = np.where(stabilising & (self.completed_at < 0), forward, self.completed_at)
        ends = self.may_end_here & (np.arange(self.may_end_here.shape[1]) <= settled[:, None])
        self.settled = ends.shape[1] - 1 - ends[:, ::-1].argmax(axis=1)
        return stabilising

    def is_refresh(self, canvas: Canvas, forward: int) -> Booleans:
        """Rows (B,) of which every position is recomputed by the interval."""
        if self.refresh_interval is None:
            return np.zeros_like(canvas.ended)
        return (forward - canvas.began) % self.refresh_interval == 0

    def recomputed(self, canvas: Canvas, forward: int) -> Booleans:
        first, stabilising = self.settled, self.settle(canvas, forward)
        reuse = (first > 0) & ~stabilising.any(axis=1) & ~self.is_refresh(canvas, forward)
        reuse = (reuse | (self.settled > first)) & (self.refresh_interval != 1)
        return (canvas.block_of >= first[:, None]) | ~reuse[:, None]


class OpenedBlocks(SettledBlocks):
    """`cache="opened"`: only the opened blocks that have not settled are recomputed, and a few times the whole canvas.

    In d3LLM's cache a window reaches to the end of the canvas, and a completed block that waits to settle makes it the
    whole canvas. Here masks of later blocks are read from the cache as the first forward, or the last refresh every
    `refresh_interval` forwards, computed them: that leaves a window of the two or three blocks that are being decoded,
    however long the canvas is.
    """

    def recomputed(self, canvas: Canvas, forward: int) -> Booleans:
        first = self.settled
        self.settle(canvas, forward)
        whole = (forward - canvas.began == 1) | self.is_refresh(canvas, forward)
        return whole[:, None] | ((canvas.block_of >= first[:, None]) & canvas.in_opened_blocks())


class Vicinity(CurrentBlock):
    """`cache="vicinity"` (dInfer, arXiv 2510.08666): the current block and `margin` positions on either side of it.

    The first `warmup` forwards of a run, and the first one of a block, recompute the whole canvas.
    """

    def __init__(self, margin: int, warmup: int):
        super().__init__(dual=True, leave_completed=True)
        self.margin, self.warmup = margin, warmup

    def recomputed(self, canvas: Canvas, forward: int) -> Booleans:
        start, end = (gather(canvas.block_starts, canvas.current[:, None] + edge) for edge in (0, 1))
        near = (canvas.positions >= start - self.margin) & (canvas.positions < end + self.margin)
        return near | ((forward - canvas.began <= self.warmup) | (canvas.forwards_in_block == 0))[:, None]


class AroundPolicy(WholeCanvas):
    """A policy that changes the answers of another one.

    Args:
        policy ([`WholeCanvas`]): The other one.
    """

    def __init__(self, policy: WholeCanvas):
        self.policy = policy

    def per_row(self) -> list[str]:
        return ["policy", *super().per_row()]

    def must_stay(self, canvas: Canvas) -> Booleans:
        return self.policy.must_stay(canvas)

    def recomputed(self, canvas: Canvas, forward: int) -> Booleans:
        return self.policy.recomputed(canvas, forward)

    def window(self, canvas: Canvas, open_positions: Booleans, forward: int) -> Window:
        return self.policy.window(canvas, open_positions, forward)

    def accept(self, accepted: Booleans, eligible: Booleans) -> Booleans:
        return self.policy.accept(accepted, eligible)

    def revise(self, canvas: Canvas, positions: Integers, proposal: Proposal, accepted: Booleans) -> Booleans:
        return self.policy.revise(canvas, positions, proposal, accepted)


class Editing(AroundPolicy):
    """Revises decoded tokens of the current block (LLaDA2.1, arXiv 2602.08676): one gives way to another proposal
    whose probability is above `threshold`. A complete block is left after a forward that edits nothing, or after
    `most`; or, if the probability is given, after one whose proposals for the block all reach `until` (DMax, arXiv
    2604.08302).
    """

    def __init__(self, policy: WholeCanvas, threshold: float, most: int, until: float | None, canvas: Canvas):
        super().__init__(policy)
        self.threshold, self.most, self.until = threshold, most, until
        self.decoded = np.zeros_like(canvas.given)  # what the forward may edit
        self.proposed = np.zeros_like(canvas.given)  # what it proposes for in the block
        self.may_edit = np.ones_like(canvas.ended)  # the last forward edited, or the block had a mask before it
        self.forwards = np.zeros_like(canvas.opened)  # since the last mask of the block

    def must_stay(self, canvas: Canvas) -> Booleans:
        complete = (canvas.current >= 0) & (canvas.masks_left_in(canvas.current.clip(min=0)) == 0)
        return super().must_stay(canvas) | (complete & self.may_edit & (self.forwards < self.most))

    def window(self, canvas: Canvas, open_positions: Booleans, forward: int) -> Window:
        window = super().window(canvas, open_positions, forward)
        self.forwards = np.where(canvas.held, self.forwards + 1, 0)
        in_block = canvas.block_of == canvas.current[:, None]
        revisable = canvas.positions < canvas.end[:, None] - canvas.ended[:, None]  # what has ended a row stays
        self.decoded = in_block & window.positions & canvas.committed & ~canvas.given & revisable
        self.proposed = in_block & (window.candidates | self.decoded)
        return Window(window.positions, window.candidates | self.decoded, window.eligible)

    def revise(self, canvas: Canvas, positions: Integers, proposal: Proposal, accepted: Booleans) -> Booleans:
        accepted = super().revise(canvas, positions, proposal, accepted)
        differs = proposal.tokens != gather(canvas.tokens, positions)
        edits = gather(self.decoded, positions) & differs & (proposal.score > self.threshold)
        self.may_edit = edits.any(axis=1) | ~canvas.held
        if self.until is not None:
            self.may_edit &= (gather(self.proposed, positions) & (proposal.score < self.until)).any(axis=1)
        return accepted | edits


class Restricted(AroundPolicy):
    """Skips what an earlier run computed, the first `kept` positions, and, with block-causal attention, the blocks
    that nothing sees yet. A forward that is the first to see a block computes all of it."""

    def __init__(self, policy: WholeCanvas, kept: int, opened_only: bool, canvas: Canvas):
        super().__init__(policy)
        self.kept, self.opened_only = kept, opened_only
        self.last_seen = np.full_like(canvas.opened, -1)  # block of the attention

    def window(self, canvas: Canvas, open_positions: Booleans, forward: int) -> Window:
        window = super().window(canvas, open_positions, forward)
        needed, positions = canvas.positions >= self.kept, window.positions
        if self.opened_only:
            visible = canvas.in_visible_blocks()
            positions = positions | (canvas.attention_block_of > self.last_seen[:, None])
            needed = needed & visible
            self.last_seen = np.where(visible, canvas.attention_block_of, -1).max(axis=1)
        return Window(positions & needed, window.candidates & needed, window.eligible & needed)


class Completed(AroundPolicy):
    """Adds the rows that predict the candidates, and skips the padding, which nothing sees.

    Args:
        logit_rows (`Integers` of shape `(L,)`, *optional*): The row that predicts each position. Without it, no row
            before a window is added (`window_edge="published"`).
    """

    def __init__(self, policy: WholeCanvas, logit_rows: Integers | None):
        super().__init__(policy)
        self.logit_rows = logit_rows

    def per_row(self) -> list[str]:
        return ["policy"]  # the rows of logits are of a position, not of a row

    def window(self, canvas: Canvas, open_positions: Booleans, forward: int) -> Window:
        window = super().window(canvas, open_positions, forward)
        if self.logit_rows is not None:
            rows, candidates = window.candidates.nonzero()
            window.positions = window.positions.copy()
            window.positions[rows, self.logit_rows[candidates]] = True
        if canvas.attention_mask is not None:
            window.positions = window.positions & (canvas.attention_mask > 0)
        return window


def current_block(canvas: Canvas, config: DiffusionGenerationConfig, logits_shift: int) -> WholeCanvas:
    published = config.window_edge == "published" and logits_shift
    return (PublishedEdge if published else CurrentBlock)(config.cache == "dual", config.leave_completed_blocks)


def delayed_tokens(canvas: Canvas, config: DiffusionGenerationConfig, logits_shift: int) -> WholeCanvas:
    return DelayedTokens(config.cache_delay, config.cache_refresh_interval)


def settled_blocks(canvas: Canvas, config: DiffusionGenerationConfig, logits_shift: int) -> WholeCanvas:
    policy = OpenedBlocks if config.cache == "opened" else SettledBlocks
    return policy(canvas, config.cache_delay, config.cache_refresh_interval)


def vicinity(canvas: Canvas, config: DiffusionGenerationConfig, logits_shift: int) -> WholeCanvas:
    return Vicinity(config.cache_margin, config.cache_delay)


# By the name of the cache: the policy for a canvas, a config and the model's `logits_shift`.
POLICIES: dict[str, Callable[[Canvas, DiffusionGenerationConfig, int], WholeCanvas]] = {
    "none": lambda canvas, config, logits_shift: WholeCanvas(),
    "prefix": current_block,
    "dual": current_block,
    "delayed": delayed_tokens,
    "block": settled_blocks,
    "opened": settled_blocks,
    "vicinity": vicinity,
}


def make_policy(
    canvas: Canvas,
    config: DiffusionGenerationConfig,
    logits_shift: int,
    logit_rows: Integers,
    kept: int = 0,
) -> WholeCanvas:
    """
    The cache policy of a run.

    Args:
        canvas, config: Of the run.
        logits_shift (`int`), logit_rows (`Integers` of shape `(L,)`): Of the model: which row of its logits predicts a
            position.
        kept (`int`, *optional*, defaults to 0): Positions from the start that an earlier run computed.
    """
    policy = POLICIES[config.cache](canvas, config, logits_shift)
    if config.edit_threshold is not None:
        policy = Editing(policy, config.edit_threshold, config.edit_forwards, config.edit_until, canvas)
    if config.cache == "none":  # the whole canvas has every row that predicts a candidate
        return policy
    if kept or config.attention == "block_causal":
        policy = Restricted(policy, kept, config.attention == "block_causal", canvas)
    return Completed(policy, None if config.window_edge == "published" else logit_rows)
