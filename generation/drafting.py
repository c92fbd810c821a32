"""`draft_states`: the text of a deterministic decoder in fewer forwards, exactly.

Each forward takes several states of a row: the present one, and those that the decoder will most likely pass through
next. At each of them the decoder's own decision says which state comes next. As long as that one was forwarded too,
the row moves on to it: so every state that is kept is one that the decoder without drafts passes through (FreeDave,
arXiv 2510.00294, whose states are one chain; here they are a graph, guessed from what the forward before proposed at
all of its states).
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from .canvas import Booleans, Floats, Integers, PerRow, Proposal
from .foresight import Outlook, Seen, names_of_states
from .lanes import Lane, LaneRun
from .selection import select


# What of a canvas the next decision depends on, besides its tokens.
PLACE = ("opened", "activated", "current", "forwards_in_block", "ended", "ending", "held")
PRIOR = np.float32(4)  # drafts that a row is taken to have had, all of which came true


@dataclass
class Record(PerRow):
    """How well a row's drafts did: how many were expected to come true, the sum of their chances, and how many did
    (B,)."""

    expected: Floats
    reached: Floats


class DraftingRun(LaneRun):
    """
    A run that keeps the last state of each row that the decoder is known to pass through.

    Attributes:
        seen ([`~d3llm.generation.foresight.Seen`], *optional*): What the last forward has shown.
        foreseen ([`DiffusionGenerationConfig`]): By which the states are guessed: with the scores of `draft_order`.
        record ([`Record`]): The drafts so far.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seen: Seen | None = None
        self.foreseen = self.config
        if self.config.draft_order == "left_to_right":
            self.foreseen = copy.copy(self.config)
            self.foreseen.score = "position"
        rows = len(self.canvas.tokens)
        self.record = Record(np.full(rows, PRIOR), np.full(rows, PRIOR))

    def states(self) -> list[Any]:
        return [*super().states(), self.record, *([] if self.seen is None else [self.seen])]

    def draft(self) -> None:
        """Adds the likeliest states, as many as are worth a row."""
        batch, length = self.canvas.tokens.shape
        # Positions are scores that no forward changes.
        outlook = Outlook(batch, length, is_certain=self.config.score == "position")
        positions = np.tile(np.arange(length), (batch, 1))
        chance: Floats = np.ones(batch, dtype=np.float32)
        name = names_of_states(self.canvas)
        trust, config = self.record.reached / self.record.expected, self.foreseen
        for _ in range(1, self.config.draft_states):
            lane = self.lanes[-1]
            foreseen = self.foresee(lane)
            if foreseen is None:
                return
            proposal, shown = foreseen
            if config.draft_order == "left_to_right":
                proposal.score = -positions.astype(np.float32)
            eligible = lane.window.eligible & shown & lane.exists[:, None]
            accepted = select(proposal, positions, eligible, lane.canvas, config)
            eligible = eligible & ~lane.canvas.committed  # not the tail that an EOS has filled
            accepted = eligible & lane.policy.accept(accepted, eligible)
            outlook.add(lane.canvas, name, chance, proposal, accepted, eligible, config)
            parent, chosen, proposal, name, chance = outlook.likeliest()
            worth = (chance > 0) & (chance * trust >= config.draft_chance)
            chance, chosen = np.where(worth, chance, np.float32(0)), chosen & worth[:, None]
            if not chosen.any():
                return
            self.record.expected = self.record.expected + chance
            self.add_lane(parent, positions, proposal, chosen)

    def foresee(self, lane: Lane) -> tuple[Proposal, Booleans] | None:
        """What stands in for a proposal at this state, for all positions (B, L), and which of them it has; `None` as
        long as nothing was seen."""
        return None if self.seen is None else self.seen.proposal_at(self.seen.nearest(lane.canvas))

    def keep(self, proposal: Proposal, accepted: Booleans) -> Integers:
        """The last lane (B,) that the decoder passes through."""
        batch = np.arange(len(self.lanes[0].exists))
        kept, moving = np.zeros_like(batch), np.ones_like(self.lanes[0].exists)
        for _ in self.lanes[1:]:
            rows = kept * len(batch) + batch
            committed, tokens, logprobs = self._after(proposal, accepted, rows)
            follows = np.stack([self.is_state(lane, committed, tokens, kept) for lane in self.lanes[1:]])
            moving = moving & follows.any(axis=0)
            if not moving.any():
                break
            kept = np.where(moving, follows.argmax(axis=0) + 1, kept)
            self.record.reached = self.record.reached + moving
            rows = (kept * len(batch) + batch)[moving]
            not_decoded = np.isnan(self.canvas.logprobs[rows])
            self.canvas.logprobs[rows] = np.where(not_decoded, np.float32(np.nan), logprobs[moving])
        self.seen = self._seen(proposal, kept)
        return kept

    def _after(self, proposal: Proposal, accepted: Booleans, rows: Integers) -> tuple[Booleans, Integers, Floats]:
        """What is committed (B, L), the tokens and their log-probabilities, after the decision at these lanes."""
        committed, tokens, logprobs = (
            getattr(self.canvas, name)[rows] for name in ("committed", "tokens", "logprobs")
        )
        at, columns = accepted[rows].nonzero()
        where = at, self.positions[rows][at, columns]
        committed[where] = True
        tokens[where] = proposal.tokens[rows][at, columns]
        if proposal.logprobs is not None:
            logprobs[where] = proposal.logprobs[rows][at, columns]
        return committed, tokens, logprobs

    def is_state(self, lane: Lane, committed: Booleans, tokens: Integers, before: Integers) -> Booleans:
        """Whether a lane (B,) is the state with this `committed` (B, L), which follows from the lanes `before` (B,).

        The same commits in another order are the same state if they began from the same place.
        """
        same = lane.exists & (committed == lane.committed).all(axis=1)
        same = same & ((tokens == lane.tokens) | ~committed).all(axis=1)
        batch = np.arange(len(before))
        ours, its = before * len(batch) + batch, lane.parent * len(batch) + batch
        for state, names in ((self.canvas, PLACE), *((policy, None) for policy in nested(self.policy))):
            for name in names or state.per_row():
                values = getattr(state, name)
                if isinstance(values, np.ndarray):
                    same = same & (values[ours] == values[its]).reshape(len(batch), -1).all(axis=1)
        return same

    def _seen(self, proposal: Proposal, kept: Integers) -> Seen:
        """What the forward has shown of all lanes."""
        lanes, batch, length = len(self.lanes), len(kept), self.canvas.length

        def by_row(values: np.ndarray) -> np.ndarray:
            return values.reshape(lanes, batch, length).swapaxes(0, 1)

        def on_canvas(values: np.ndarray) -> np.ndarray:
            spread = np.zeros((lanes * batch, length), dtype=values.dtype)
            rows, columns = self.eligible.nonzero()
            spread[rows, self.positions[rows, columns]] = values[rows, columns]
            return by_row(spread)

        return Seen(
            kept=kept,
            exists=np.stack([lane.exists for lane in self.lanes], axis=1),
            committed=by_row(self.canvas.committed),
            tokens=by_row(self.canvas.tokens),
            shown=on_canvas(self.eligible),
            proposed=on_canvas(proposal.tokens),
            score=on_canvas(proposal.score),
            forced_score=on_canvas(proposal.forced_score),
        )


def nested(policy: PerRow) -> list[PerRow]:
    """A policy and those that it is around."""
    inner = getattr(policy, "policy", None)
    return [policy] if inner is None else [policy, *nested(inner)]
