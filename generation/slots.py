"""`selection="slots"` (ReFusion, arXiv 2512.13586): slots are planned in any order, and each is drafted at once and
verified from left to right, with causal attention over the slots in the order of their completion.

A slot is a run of at most `slot_size` masked positions of a block. A round of a row is a few forwards, each with one
of four tasks:

- `PLAN`: draft all slots of the current block. Slots whose first token is surer than `slot_threshold` are chosen, at
  least the best one.
- `VERIFY`: read the chosen drafts one after another. While every token is surer than `token_threshold` given what is
  before it, whole slots are committed; with at least one of them the round is over.
- `CHECK`: else, or if there is one chosen slot, read each draft by itself. Each slot commits its longest prefix.
- `DRAFT`: draft the rest of the chosen slots after that prefix, to be checked, until all of them are complete.

The token at the start of a draft has nothing before it that the forward of the draft did not see, and counts as
verified. Nothing is re-ordered in memory: tokens keep their positions, and a rank says who was there first. Since a
completed slot never sees a later one, its keys and values are final, and the cache is exact.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from .canvas import Booleans, Canvas, Floats, Integers, Proposal, gather
from .configuration_diffusion import DiffusionGenerationConfig
from .decoding_run import DecodingRun
from .visibility import Visibility
from .windows import WholeCanvas, Window


PLAN, VERIFY, CHECK, DRAFT = range(4)

HIDDEN = 2**31  # the rank of what nothing sees


class Slots(WholeCanvas):
    """
    The slots of a batch of B rows of L positions, and what a forward does with them: the policy of a [`SlotRun`].

    Args:
        canvas ([`~d3llm.generation.canvas.Canvas`]): The batch.
        config ([`DiffusionGenerationConfig`]): The decoding parameters.
        kept (`int`): Positions from the start that the cache has from an earlier run.

    Attributes:
        slot_of (`Integers` of shape `(B, L)`): Slot of a position, in their order; -1 where a token is given.
        rank (`Integers` of shape `(B, L)`): A position sees all of a lower rank, and of its own rank and slot those up
            to itself. Given tokens have rank 0, the others that of the forward that committed them.
        until (`Integers` of shape `(B, L)`): The last rank that sees a position. What an EOS has dropped is still seen
            by the round in which that happened, and by those before it, so that no key or value changes.
        rank_now (`Integers` of shape `(B, L)`): The same with what this forward drafts or verifies.
        task (`Integers` of shape `(B,)`): What the forward does for each row.
        rounds (`Integers` of shape `(B,)`): Rounds that are over.
        chosen (`Booleans` of shape `(B, L)`): Positions of the chosen slots that are not committed yet.
        shown (`Booleans` of shape `(B, L)`): The positions that this forward drafts or verifies.
        first (`Booleans` of shape `(B, L)`): The first of them in their slot.
        draft (`Integers` of shape `(B, L)`): The last draft of each position.
        draft_logprobs (`Floats` of shape `(B, L)`): Its log-probability, if asked for.
    """

    def __init__(self, canvas: Canvas, config: DiffusionGenerationConfig, kept: int):
        self.config, self.kept = config, kept
        starts = np.maximum(gather(canvas.block_starts, canvas.block_of), canvas.first_real[:, None])
        given_before = np.pad(canvas.given[:, :-1], ((0, 0), (1, 0)))
        begins = ~canvas.given & (given_before | ((canvas.positions - starts) % config.slot_size == 0))
        self.slot_of = np.where(canvas.given, -1, begins.cumsum(axis=1) - 1)
        self.slots = int(begins.sum(axis=1).max())
        self.first_of_slot = np.maximum.accumulate(np.where(begins, canvas.positions, 0), axis=1)
        ends = np.pad(begins[:, 1:] | canvas.given[:, 1:], ((0, 0), (0, 1)), constant_values=True)
        last = np.where(ends, canvas.positions, canvas.length - 1)
        self.last_of_slot = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
        real = canvas.given & (canvas.positions >= canvas.first_real[:, None])
        self.rank = self.rank_now = np.where(real, 0, HIDDEN)
        self.until = np.full_like(self.rank, HIDDEN)
        self.task, self.rounds = np.full_like(canvas.opened, PLAN), np.zeros_like(canvas.opened)
        self.chosen = self.shown = self.first = np.zeros_like(canvas.given)
        self.draft, self.draft_logprobs = np.full_like(canvas.tokens, -1), np.full_like(canvas.logprobs, np.nan)

    def select_rows(self, rows: Integers) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[rows])

    @property
    def verifies(self) -> Booleans:
        """Rows (B, 1) whose drafts this forward reads."""
        return np.isin(self.task, (VERIFY, CHECK))[:, None]

    def drop(self, positions: Booleans) -> None:
        """No later round sees these positions (B, L)."""
        rounds = self.rounds + (self.task != PLAN)
        self.until = np.where(positions, np.minimum(self.until, rounds[:, None] * (self.slots + 1)), self.until)

    def tokens_read(self, canvas: Canvas) -> Integers:
        """The tokens (B, L) that the next forward reads: drafts that it verifies, and what no EOS had dropped yet."""
        drafted = (self.shown & self.verifies) | ((self.rank > 0) & (self.rank < HIDDEN))
        return np.where(drafted, self.draft, canvas.tokens)

    def window(self, canvas: Canvas, open_positions: Booleans, forward: int) -> Window:
        """The window of a forward: what it drafts or verifies, and in the first one what is given."""
        masked = ~canvas.committed
        self.chosen = self.chosen & masked  # not the tail that an EOS has filled
        self.end_rounds((self.task != PLAN) & ~self.chosen.any(axis=1))
        in_block = masked & (canvas.block_of == canvas.current[:, None])
        self.shown = np.where(self.task[:, None] == PLAN, in_block, self.chosen)
        same_slot = self.shown[:, 1:] & self.shown[:, :-1] & (self.slot_of[:, 1:] == self.slot_of[:, :-1])
        self.first = self.shown & ~np.pad(same_slot, ((0, 0), (1, 0)))
        one_after_another = np.isin(self.task, (PLAN, VERIFY))[:, None]
        ranks = (1 + self.rounds * (self.slots + 1))[:, None] + np.where(one_after_another, self.slot_of, 0)
        self.rank_now = np.where(self.shown, ranks, self.rank)
        if self.config.cache == "none":
            positions = np.ones_like(self.shown)
        else:
            unread = (self.rank == 0) & (canvas.positions >= self.kept)
            positions = self.shown | unread if forward == 1 else self.shown
        return Window(positions, self.shown, self.shown)

    def select(self, positions: Integers, eligible: Booleans, proposal: Proposal) -> Booleans:
        """Which candidates (B, K) to commit; takes the proposals as drafts, and sets the next task of each row."""
        rows, columns = eligible.nonzero()
        where = rows, positions[rows, columns]
        score = np.full(self.shown.shape, -np.inf, dtype=np.float32)
        score[where], self.draft[where] = proposal.score[rows, columns], proposal.tokens[rows, columns]
        if proposal.logprobs is not None:
            self.draft_logprobs[where] = proposal.logprobs[rows, columns]
        task = self.task
        accepted = self.verified(score)
        self.rank = np.where(accepted, self.rank_now, self.rank)
        plans, chosen = (task == PLAN)[:, None], self.plan(score)
        self.chosen = np.where(plans, chosen, self.chosen & ~accepted)
        alone = (self.first & chosen).sum(axis=1) == 1
        self.task = np.where(task == CHECK, DRAFT, np.where((task == PLAN) & ~alone, VERIFY, CHECK))
        self.end_rounds((task == VERIFY) & accepted.any(axis=1))
        return eligible & gather(accepted, positions)

    def plan(self, score: Floats) -> Booleans:
        """The masked positions (B, L) of the slots that are sure enough at their first position, or of the best."""
        score = np.where(self.first, score, np.float32(-np.inf))
        best = np.arange(score.shape[1]) == score.argmax(axis=1, keepdims=True)
        rows, columns = (self.first & (best | (score > self.config.slot_threshold))).nonzero()
        chosen = np.zeros((len(score), self.slots + 1), dtype=np.bool_)
        chosen[rows, self.slot_of[rows, columns]] = True
        return self.shown & gather(chosen, self.slot_of)

    def verified(self, score: Floats) -> Booleans:
        """The drafted positions (B, L) that a verifying forward accepts: the prefixes of slots, or whole slots."""
        fails = self.shown & ~self.first & (score <= self.config.token_threshold)
        failed = fails.cumsum(axis=1)
        before_slot = gather(failed - fails, self.first_of_slot)
        whole_slots = gather(self.shown & (failed == 0), self.last_of_slot)
        accepted = np.where((self.task == VERIFY)[:, None], whole_slots, failed == before_slot)
        return self.shown & accepted & self.verifies

    def end_rounds(self, rows: Booleans) -> None:
        """These rows (B,) plan next."""
        self.task = np.where(rows, PLAN, self.task)
        self.rounds = self.rounds + rows
        self.chosen = self.chosen & ~rows[:, None]


class OrderOfSlots(Visibility):
    """
    Causal attention over the order in which slots are completed.

    Args:
        model, canvas, device: As of [`~d3llm.generation.visibility.Visibility`].
        slots ([`Slots`]): The ranks.
    """

    def __init__(self, model: Any, canvas: Canvas, slots: Slots, device: torch.device):
        super().__init__(model, canvas, False, device)
        self.slots, self.device = slots, device

    def mask(self, positions: torch.LongTensor, rows: torch.LongTensor | None) -> torch.Tensor:
        state = np.stack([self.slots.rank_now, self.slots.slot_of, self.slots.until])
        ranks, slots, until = torch.from_numpy(state).to(self.device)
        if rows is not None:
            ranks, slots, until = ranks[rows], slots[rows], until[rows]
        (rank, its_rank), (slot, its_slot) = (
            (of[:, None, None, :], of.gather(1, positions)[:, None, :, None]) for of in (ranks, slots)
        )
        earlier = (rank < its_rank) & (its_rank <= until[:, None, None, :])
        not_later = torch.arange(ranks.shape[1], device=self.device) <= positions[:, None, :, None]
        return self.as_mask(earlier | ((rank == its_rank) & (slot == its_slot) & not_later))


class SlotRun(DecodingRun):
    """A batch on its way from masks to text, slot by slot."""

    policy: Slots

    def make_policy(self, kept: int) -> Slots:
        return Slots(self.canvas, self.config, kept)

    def make_visibility(self) -> Visibility:
        return OrderOfSlots(self.model, self.canvas, self.policy, self.device)

    def choose_window(self) -> None:
        canvas = self.canvas
        after_eos = canvas.ended[:, None] & (canvas.positions > canvas.first_of(self.special.eos))
        self.policy.drop(after_eos & ~canvas.given)
        super().choose_window()

    def shown_tokens(self) -> Integers:
        return self.policy.tokens_read(self.canvas)

    def rows_that_predict(self, positions: Integers) -> Integers:
        # a clean row predicts the next token, a masked one its own
        slots = self.policy
        return positions - gather(slots.shown & ~slots.first & slots.verifies, positions)

    def propose(self, states: torch.Tensor) -> Proposal:
        slots = self.policy
        self.drafts = np.where(self.eligible & slots.verifies, gather(slots.draft, self.positions), -1)
        proposal = super().propose(states)
        if proposal.logprobs is None:
            return proposal
        drafted = gather(slots.first & slots.verifies, self.positions)
        logprobs = np.where(drafted, gather(slots.draft_logprobs, self.positions), proposal.logprobs)
        return dataclasses.replace(proposal, logprobs=logprobs)

    def select(self, proposal: Proposal) -> Booleans:
        return self.policy.select(self.positions, self.eligible, proposal)
