"""Drafts: several states of a row in one forward, as rows of their own, of which one is kept.

A state is what a row may look like a few commits from now, guessed from what the forward before proposed. All states
are forwarded together.

- `draft_states`: states one after another. At each of them the decoder's own decision tells whether the next one is
  right, and the longest chain of right ones is kept: the text is exactly that of the decoder without drafts (FreeDave,
  arXiv 2510.00294, for decoders that commit one token per forward).
- `branches`: the state itself, and beside it the same with one more token, for each of the surest candidates that the
  decoder leaves masked. The one that is surest of its remaining candidates is kept (LoPA, arXiv 2512.16229).

A draft costs rows instead of forwards: `row_forwards` counts them.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .canvas import Booleans, Canvas, Integers, Proposal, gather, join_rows
from .decoding_run import DecodingRun
from .selection import select, surest, surest_first
from .windows import WholeCanvas, Window


@dataclass
class Lane:
    """One state of each row: B rows.

    Attributes:
        canvas ([`~d3llm.generation.canvas.Canvas`]), policy ([`~d3llm.generation.windows.WholeCanvas`]): The state.
        window ([`~d3llm.generation.windows.Window`]): Of its forward.
        drafted (`Booleans` of shape `(B, L)`): What it has committed, and the lane before it has not.
        exists (`Booleans` of shape `(B,)`): Rows that have such a state.
    """

    canvas: Canvas
    policy: WholeCanvas
    window: Window
    drafted: Booleans
    exists: Booleans


class DraftingRun(DecodingRun):
    """
    A run that forwards several states of each row. Between forwards its canvas is the state that was kept.

    Attributes:
        lanes (`list[Lane]`): The states of a forward, first the one that was kept.
        known (`tuple[Integers, Booleans, Proposal]`, *optional*): The candidates (B, K) of the forward before, which
            of them it left masked, and what it proposed for them.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.known: tuple[Integers, Booleans, Proposal] | None = None

    def forward(self) -> torch.Tensor:
        """Forwards all states: B rows of the first lane, then those of the second, and so on."""
        nothing = np.zeros_like(self.canvas.committed)
        self.lanes = [Lane(self.canvas, self.policy, self.window, nothing, np.ones_like(self.canvas.ended))]
        if self.known is not None:
            self._draft(*self.known)
        self.result.count_rows(self.canvas.row_ids, np.sum([lane.exists for lane in self.lanes], axis=0))
        # a state has the keys and values of the lanes before it computed in its own row
        windows = np.logical_or.accumulate([lane.window.positions for lane in self.lanes])
        self.canvas, self.policy, self.window = (
            join_rows([getattr(lane, name) for lane in self.lanes]) for name in ("canvas", "policy", "window")
        )
        self.window.positions = np.concatenate(windows)
        if len(self.lanes) > 1:
            self._select_on_device(np.tile(np.arange(len(nothing)), len(self.lanes)))
        return super().forward()

    def select(self, proposal: Proposal) -> Booleans:
        """Which proposals of the state that is kept to write; the others are dropped."""
        accepted = super().select(proposal)
        if len(self.lanes) == 1:
            self.known = self.positions, self.eligible & ~accepted, proposal
            return accepted
        rows = self._surest_lane(proposal) if self.config.branches > 1 else self._last_right_lane(proposal, accepted)
        rows = rows * len(self.lanes[0].exists) + np.arange(len(rows))
        for state in (self.canvas, self.policy, self.window, proposal):
            state.select_rows(rows)
        self._select_on_device(rows)
        if self.cache is not None:
            self.cache.record_tokens_at(self.window.positions, self.canvas.tokens, self.canvas.row_ids)
        self.positions, self.eligible = self.positions[rows], self.eligible[rows]
        accepted = accepted[rows]
        self.known = self.positions, self.eligible & ~accepted, proposal
        return accepted

    def keep_unfinished_rows(self) -> bool:
        finished = self.finished
        if not super().keep_unfinished_rows():
            return False
        if self.known is not None and finished.any():
            positions, eligible, proposal = self.known
            rows = np.flatnonzero(~finished)
            proposal.select_rows(rows)
            self.known = positions[rows], eligible[rows], proposal
        return True

    def _select_on_device(self, rows: Integers) -> None:
        self.visibility.select_rows(rows)
        if self.cache is not None:
            self.cache.select_rows(self.upload(rows))

    def _draft(self, positions: Integers, eligible: Booleans, proposal: Proposal) -> None:
        """Adds the lanes of what the forward before proposed."""
        drafts = max(self.config.draft_states, self.config.branches) - 1
        for draft in range(1, drafts + 1):
            before = self.lanes[0] if self.config.branches > 1 else self.lanes[-1]
            open_now = eligible & gather(before.window.eligible, positions)
            if self.config.branches > 1:
                chosen = self._branch(proposal, open_now, draft)
            else:
                chosen = select(proposal, positions, open_now, before.canvas, self.config)
                chosen = before.policy.accept(chosen, open_now)
            exists = before.exists & chosen.any(axis=1)
            if not exists.any():
                return
            self.lanes.append(self._lane(before, positions, proposal, chosen & exists[:, None], exists))

    def _branch(self, proposal: Proposal, eligible: Booleans, number: int) -> Booleans:
        """Of the candidates (B, K) the one that is surer than all but `number` - 1."""
        order = surest_first(np.where(eligible, proposal.score, np.float32(-np.inf)))
        quota = np.full(len(order), number)
        return surest(order, eligible, quota) & ~surest(order, eligible, quota - 1)

    def _lane(self, before: Lane, positions: Integers, proposal: Proposal, chosen: Booleans, exists: Booleans) -> Lane:
        """The state after `before` and the `chosen` candidates (B, K), as the loop would bring it to its forward."""
        kept = self.canvas, self.policy, self.window
        self.canvas, self.policy = copy.deepcopy((before.canvas, before.policy))
        self.forwards += 1  # the forward that verifies it
        self.canvas.commit(positions, proposal, chosen, self.forwards)
        drafted = self.canvas.committed & ~before.canvas.committed
        self.end_rows()
        self.advance_blocks()
        self.choose_window()
        self.forwards -= 1
        lane = Lane(self.canvas, self.policy, self.window, drafted, exists)
        self.canvas, self.policy, self.window = kept
        return lane

    def _last_right_lane(self, proposal: Proposal, accepted: Booleans) -> Integers:
        """The last lane (B,) whose state and all states before it are what the decoder makes of the one before."""
        committed = np.zeros_like(self.canvas.committed)
        tokens = self.canvas.tokens.copy()
        rows, columns = accepted.nonzero()
        committed[rows, self.positions[rows, columns]] = True
        tokens[rows, self.positions[rows, columns]] = proposal.tokens[rows, columns]
        batch = len(self.lanes[0].exists)
        right, last = self.lanes[0].exists, np.zeros(batch, dtype=np.int64)
        for number, lane in enumerate(self.lanes[1:]):
            rows_before = slice(number * batch, (number + 1) * batch)
            differs = committed[rows_before] != lane.drafted
            differs = differs | (lane.drafted & (tokens[rows_before] != lane.canvas.tokens))
            right = right & lane.exists & ~differs.any(axis=1)
            last = last + right
        return last

    def _surest_lane(self, proposal: Proposal) -> Integers:
        """The lane (B,) whose remaining candidates have the highest mean score; of equals the first one."""
        open_now = self.eligible.sum(axis=1).clip(min=1).astype(np.float32)
        means = np.where(self.eligible, proposal.score, 0).sum(axis=1) / open_now
        exists = np.stack([lane.exists for lane in self.lanes])
        means = np.where(self.eligible.any(axis=1), means, np.inf).reshape(exists.shape)
        return np.where(exists, means, -np.inf).argmax(axis=0)
