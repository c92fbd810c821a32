"""Runs that forward several states of each row, as rows of their own, and keep one of them.

A state is what a row may look like a few commits from now. It costs rows instead of forwards: `row_forwards` counts
them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .canvas import Booleans, Canvas, Integers, PerRow, Proposal, gather, join_rows
from .decoding_run import DecodingRun
from .selection import surest, surest_first
from .windows import WholeCanvas, Window


@dataclass
class Lane:
    """One state of each row: B rows.

    Attributes:
        canvas ([`~d3llm.generation.canvas.Canvas`]), policy ([`~d3llm.generation.windows.WholeCanvas`]): The state.
        window ([`~d3llm.generation.windows.Window`]): The window of its forward.
        exists (`Booleans` of shape `(B,)`): Rows that have such a state.
        parent (`Integers` of shape `(B,)`): The number of the lane that it follows from.
        committed (`Booleans` of shape `(B, L)`), tokens (`Integers` of shape `(B, L)`): What is committed once the
            proposals are written, and before an EOS or a stop ends the row.
    """

    canvas: Canvas
    policy: WholeCanvas
    window: Window
    exists: Booleans
    parent: Integers
    committed: Booleans
    tokens: Integers


class LaneRun(DecodingRun):
    """
    A run that forwards several states of each row. Between forwards its canvas is the state that was kept. Subclasses
    say which states (`draft`), and which is kept (`keep`).

    Attributes:
        lanes (`list[Lane]`): The states of a forward, first the one that was kept.
    """

    def draft(self) -> None:
        """Adds states to `lanes`, which has the present one."""
        raise NotImplementedError

    def keep(self, proposal: Proposal, accepted: Booleans) -> Integers:
        """Which lane to keep (B,), of `proposal` and `accepted` for the rows of the first lane, then of the second,
        and so on."""
        raise NotImplementedError

    def forward(self) -> torch.Tensor:
        canvas, batch = self.canvas, np.arange(len(self.canvas.tokens))
        everywhere, first = np.ones_like(canvas.ended), np.zeros_like(batch)
        self.lanes = [Lane(canvas, self.policy, self.window, everywhere, first, canvas.committed, canvas.tokens)]
        self.draft()
        if len(self.lanes) == 1:
            return super().forward()
        self.result.count_rows(canvas.row_ids, np.sum([lane.exists for lane in self.lanes], axis=0))
        self.canvas, self.policy, self.window = (
            join_rows([getattr(lane, name) for lane in self.lanes]) for name in ("canvas", "policy", "window")
        )
        exist = np.flatnonzero([lane.exists for lane in self.lanes])
        for state in (self.canvas, self.policy, self.window):
            state.select_rows(exist)
        self._select_on_device(np.tile(batch, len(self.lanes))[exist])
        return super().forward()

    def select(self, proposal: Proposal) -> Booleans:
        """Which proposals of the state that is kept to write; the others are dropped."""
        accepted = super().select(proposal)
        if len(self.lanes) == 1:
            self.keep(proposal, accepted)
            return accepted
        # every lane gets a row of each text again, for those that do not exist any one
        forwarded = np.concatenate([lane.exists for lane in self.lanes]).cumsum() - 1
        for state in (self.canvas, self.policy, self.window, proposal):
            state.select_rows(forwarded)
        self.positions, self.eligible = self.positions[forwarded], self.eligible[forwarded]
        accepted = accepted[forwarded]
        kept = self.keep(proposal, accepted)
        rows = kept * len(kept) + np.arange(len(kept))
        for state in (self.canvas, self.policy, self.window, proposal):
            state.select_rows(rows)
        self._select_on_device(forwarded[rows])
        if self.cache is not None:
            self.cache.record_tokens_at(self.window.positions, self.canvas.tokens, self.canvas.row_ids)
        self.positions, self.eligible = self.positions[rows], self.eligible[rows]
        return accepted[rows]

    def add_lane(self, parent: Integers, positions: Integers, proposal: Proposal, chosen: Booleans) -> None:
        """Adds the state after lane `parent` (B,) of each row and the `chosen` proposals (B, K), as the loop would
        bring it to its forward. Rows without any have no such state."""
        numbers, of_parents = np.unique(parent, return_inverse=True)
        rows = of_parents * len(parent) + np.arange(len(parent))
        kept = self.canvas, self.policy, self.window
        self.canvas, self.policy, before = (
            join_rows([getattr(self.lanes[number], name) for number in numbers])
            for name in ("canvas", "policy", "window")
        )
        for state in (self.canvas, self.policy, before):
            state.select_rows(rows)
        self.forwards += 1  # the forward that verifies it
        self.canvas.commit(positions, proposal, chosen, self.forwards)
        committed, tokens = self.canvas.committed, self.canvas.tokens
        self.end_rows()
        self.advance_blocks()
        self.choose_window()
        self.forwards -= 1
        # a state has the keys and values of those that it follows from computed in its own row
        self.window.positions = self.window.positions | before.positions
        exists = np.any(chosen, axis=1)
        self.lanes.append(Lane(self.canvas, self.policy, self.window, exists, parent, committed, tokens))
        self.canvas, self.policy, self.window = kept

    def _select_on_device(self, rows: Integers) -> None:
        self.visibility.select_rows(rows)
        if self.cache is not None:
            self.cache.select_rows(self.upload(rows))


@dataclass
class Known(PerRow):
    """What the forward before has shown: the candidates (B, K), which of them it left masked, and its proposal."""

    positions: Integers
    masked: Booleans
    proposal: Proposal

    def per_row(self) -> list[str]:
        return ["proposal", *super().per_row()]


class BranchingRun(LaneRun):
    """
    `branches`: the state itself, and beside it the same with one more token, for each of the surest candidates that
    the decoder leaves masked. The one that is surest of its remaining candidates is kept (LoPA, arXiv 2512.16229).
    """

    known: Known | None = None

    def draft(self) -> None:
        if self.known is None:
            return
        positions, proposal = self.known.positions, self.known.proposal
        still_masked = self.window.eligible & ~self.canvas.committed  # not the tail that an EOS has filled
        eligible = self.known.masked & gather(still_masked, positions)
        order = surest_first(np.where(eligible, proposal.score, np.float32(-np.inf)))
        for number in range(1, self.config.branches):
            quota = np.full(len(order), number)
            chosen = surest(order, eligible, quota) & ~surest(order, eligible, quota - 1)
            if not chosen.any():
                return
            self.add_lane(np.zeros(len(order), dtype=np.int64), positions, proposal, chosen)

    def keep(self, proposal: Proposal, accepted: Booleans) -> Integers:
        """The lane (B,) whose remaining candidates have the highest mean score; of equals the first one."""
        open_now = self.eligible.sum(axis=1).clip(min=1).astype(np.float32)
        means = np.where(self.eligible, proposal.score, 0).sum(axis=1) / open_now
        exists = np.stack([lane.exists for lane in self.lanes])
        means = np.where(self.eligible.any(axis=1), means, np.inf).reshape(exists.shape)
        return np.where(exists, means, -np.inf).argmax(axis=0)

    def select(self, proposal: Proposal) -> Booleans:
        accepted = super().select(proposal)
        self.known = Known(self.positions, self.eligible & ~accepted, proposal)
        return accepted

    def states(self) -> list[Any]:
        return [*super().states(), *([] if self.known is None else [self.known])]
