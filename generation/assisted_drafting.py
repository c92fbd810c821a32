"""`draft_states` with an assistant: a second model says how the scores of the first one will change."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .canvas import Booleans, Floats, Integers, PerRow, Proposal
from .drafting import DraftingRun
from .foresight import Seen, moved
from .lanes import Lane


@dataclass
class Views(PerRow):
    """What the assistant proposes at states of each row: B rows, N states, L positions.

    Attributes:
        shown (`Booleans` of shape `(B, N, L)`): Positions for which tokens were proposed.
        tokens (`Integers` of shape `(B, N, L)`), score (`Floats` of shape `(B, N, L)`): The proposals.
    """

    shown: Booleans
    tokens: Integers
    score: Floats


class AssistedRun(DraftingRun):
    """
    A run whose assistant looks at every state that is drafted.

    The model proposed something at a state near by; the assistant proposes something at both. As its scores change
    from one to the other, so will the model's, and its token, where that changes. At the first forward, before which
    the model has shown nothing, the assistant's proposals stand in for it.

    Attributes:
        views ([`Views`], *optional*): What the assistant proposes at the states of `seen`.
        looked ([`list[Views]`]): What it proposes at the lanes of this forward.
    """

    views: Views | None = None

    def states(self) -> list[Any]:
        return [*super().states(), *([] if self.views is None else [self.views])]

    def draft(self) -> None:
        self.looked: list[Views] = []
        super().draft()
        for lane in self.lanes[len(self.looked) :]:
            self.look(lane)

    def look(self, lane: Lane) -> Views:
        """Runs the assistant at a state."""
        canvas, rows = lane.canvas, lane.exists
        run = self.proposer.run_on(canvas, lane.window.eligible & rows[:, None], self.forwards)
        proposal = run.propose(run.forward())
        self.result.count_assistant(canvas.row_ids[rows])
        at, columns = run.eligible.nonzero()
        where = at, np.zeros_like(at), run.positions[at, columns]
        shape = len(rows), 1, canvas.length
        view = Views(np.zeros(shape, np.bool_), np.zeros(shape, np.int64), np.zeros(shape, np.float32))
        view.shown[where] = True
        view.tokens[where], view.score[where] = proposal.tokens[at, columns], proposal.score[at, columns]
        self.looked.append(view)
        return view

    def foresee(self, lane: Lane) -> tuple[Proposal, Booleans] | None:
        view = self.look(lane)
        shown, tokens, score = view.shown[:, 0], view.tokens[:, 0], view.score[:, 0]
        if self.seen is None or self.views is None:
            return Proposal(tokens, score, score), shown
        nearest = self.seen.nearest(lane.canvas)
        proposal, known = self.seen.proposal_at(nearest)
        near = np.arange(len(nearest)), nearest
        both = known & shown & self.views.shown[near]
        proposal.score = np.where(
            both, moved(proposal.score, self.views.score[near], score, self.config), proposal.score
        )
        proposal.tokens = np.where(both & (tokens != self.views.tokens[near]), tokens, proposal.tokens)
        return proposal, known

    def _seen(self, proposal: Proposal, kept: Integers) -> Seen:
        self.views = Views(*(np.concatenate(parts, axis=1) for parts in zip(*map(fields, self.looked), strict=True)))
        return super()._seen(proposal, kept)


def fields(view: Views) -> tuple[Any, ...]:
    return view.shown, view.tokens, view.score
