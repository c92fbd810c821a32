"""The state of a batch of canvases while they are decoded: tokens, what is committed and when, and the blocks.

It is a few numbers per position, and lives on the host, as numpy arrays: on a device each of its updates would be a
kernel, and a forward of a small window is no longer than the launch of a hundred of them. The device sees the window
of a forward, and the host what it proposes.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Floats = NDArray[np.float32]


def gather(values: NDArray, positions: Integers) -> NDArray:
    """Of each row of `values` (B, N), those at `positions` (B, K)."""
    return values[np.arange(len(values))[:, None], positions]


def join_rows(states: list[Any]) -> Any:
    """One state with the rows of all `states`, one after another. A state names what it has `per_row`."""
    joined = copy.copy(states[0])
    for name in joined.per_row():
        values = [getattr(state, name) for state in states]
        setattr(joined, name, join_rows(values) if hasattr(values[0], "per_row") else np.concatenate(values))
    return joined


class PerRow:
    """A state of which some attributes have one entry per row, or are such states themselves."""

    def per_row(self) -> list[str]:
        """Their names: by default every array of a dataclass."""
        return [name for name, value in vars(self).items() if isinstance(value, np.ndarray)]

    def select_rows(self, rows: Integers) -> None:
        """Keep only these rows, so that finished ones cost nothing more. A row may be kept more than once."""
        for name in self.per_row():
            value = getattr(self, name)
            if isinstance(value, PerRow):
                value.select_rows(rows)
            else:
                setattr(self, name, value[rows])


@dataclass
class Proposal(PerRow):
    """What a forward proposes for B rows of K candidates.

    Attributes:
        tokens (`Integers` of shape `(B, K)`): One token per candidate.
        score (`Floats` of shape `(B, K)`): How sure the model is of it; larger is surer.
        forced_score (`Floats` of shape `(B, K)`): The score that ranks candidates for forced progress.
        logprobs (`Floats` of shape `(B, K)`, *optional*): Log-probabilities of the tokens.
    """

    tokens: Integers
    score: Floats
    forced_score: Floats
    logprobs: Floats | None = None


@dataclass
class Canvas(PerRow):
    """Prompt and generated region of a batch, one row per sequence. All rows have the same length, each its own pace.

    A row is divided into blocks of `block_size` positions, the last of which may be short. They are counted from the
    end of the prompt, which is block 0, or, with an absolute grid, from the first position that is not padding: then
    the end of the prompt may share a block with the generated region. B rows, L positions, M blocks, of which a row
    with much padding may have fewer.

    Attributes:
        tokens (`Integers` of shape `(B, L)`): Token ids, the mask token where nothing is committed.
        given (`Booleans` of shape `(B, L)`): Committed from the start: the caller's tokens, and padding.
        committed (`Booleans` of shape `(B, L)`): Given or decoded. The token does not tell: a model may
            propose the mask token, or have none.
        commit_steps (`Integers` of shape `(B, L)`): Forward, counted from 1, that committed a position, or last
            revised it; 0 = given or masked.
        logprobs (`Floats` of shape `(B, L)`): Log-probability of a decoded token when it was committed, else
            NaN.
        seeds (`Integers` of shape `(B,)`): Seeds of the sampling.
        attention_mask (`Integers` of shape `(B, L)`, *optional*): 0 = padding; `None` without any.
        first_real (`Integers` of shape `(B,)`): First position that is not padding.
        row_ids (`Integers` of shape `(B,)`): Row of the caller's batch.
        began (`Integers` of shape `(B,)`): Forwards of the run that were made before the row joined it.
        masks_at_start, masks_left (`Integers` of shape `(B, M)`): Masked positions of a block at the start,
            and now.
        opened (`Integers` of shape `(B,)`): Blocks opened so far; positions of later blocks are not
            candidates.
        activated (`Booleans` of shape `(B, M)`): Blocks that are guaranteed progress.
        current (`Integers` of shape `(B,)`): The first unfinished block; -1 before the first forward.
        forwards_in_block (`Integers` of shape `(B,)`): Forwards made since `current` became the current block.
        ended (`Booleans` of shape `(B,)`): The row has ended, at an EOS or by a stop.
        end (`Integers` of shape `(B,)`): The position after the last one that an ended row keeps; L without an end.
        ending (`Booleans` of shape `(B,)`): An EOS is committed, and the row ends with the blocks that are open.
        held (`Booleans` of shape `(B,)`): The cache policy does not let the row leave its current block yet.
        block_of (`Integers` of shape `(B, L)`): Block of a position.
        block_starts (`Integers` of shape `(B, M + 1)`): First position of each block, then L.
        attention_block_of (`Integers` of shape `(B, L)`): Block of a position in block-causal attention, which may
            hold several of the decoder's blocks, or be a part of one.
        region_start (`int`): Where the generated region begins; 0 for an infilled text.
        first_block (`Integers` of shape `(B,)`): The block where the generated region begins.
    """

    tokens: Integers
    given: Booleans
    committed: Booleans
    commit_steps: Integers
    logprobs: Floats
    seeds: Integers
    attention_mask: Integers | None
    first_real: Integers
    row_ids: Integers
    began: Integers
    masks_at_start: Integers
    masks_left: Integers
    opened: Integers
    activated: Booleans
    current: Integers
    forwards_in_block: Integers
    ended: Booleans
    end: Integers
    ending: Booleans
    held: Booleans
    block_of: Integers
    block_starts: Integers
    attention_block_of: Integers
    region_start: int
    first_block: Integers

    @classmethod
    def from_prompt(
        cls,
        prompt: Integers,
        attention_mask: Integers | None,
        *,
        new_tokens: int,
        block_size: int,
        mask_token_id: int,
        seeds: Integers,
        attention_block_size: int | None = None,
        grid: str = "prompt",
    ) -> "Canvas":
        """A canvas of left-padded prompts (B, P) followed by `new_tokens` masked positions.

        Mask tokens in a prompt are positions to fill in; they are decoded before the generated region. Without new
        tokens the whole text is one block, and the generated region. The blocks of the attention are those of the
        decoder unless they have a size of their own. The `grid` is `"prompt"` or `"absolute"`.
        """
        batch, prompt_length = prompt.shape
        length = prompt_length + new_tokens
        tokens = np.pad(prompt, ((0, 0), (0, new_tokens)), constant_values=mask_token_id)
        committed = tokens != mask_token_id
        first_real = np.zeros(batch, dtype=np.int64)
        if attention_mask is not None:
            first_real = (attention_mask == 0).sum(axis=1)
            attention_mask = np.pad(attention_mask, ((0, 0), (0, new_tokens)), constant_values=1)
            committed = committed | (attention_mask == 0)
        absolute = grid == "absolute"
        attention_block_size = attention_block_size or block_size
        end_of_prompt = np.full(batch, prompt_length)
        block_starts = starts_of_blocks(
            first_real + block_size if absolute and new_tokens else end_of_prompt, block_size, length
        )
        attention_starts = starts_of_blocks(
            first_real + attention_block_size if absolute else end_of_prompt, attention_block_size, length
        )
        blocks = block_starts.shape[1] - 1
        canvas = cls(
            tokens=tokens,
            given=committed,
            committed=committed,
            commit_steps=np.zeros_like(tokens),
            logprobs=np.full(tokens.shape, np.nan, dtype=np.float32),
            seeds=seeds,
            attention_mask=attention_mask,
            first_real=first_real,
            row_ids=np.arange(batch),
            began=np.zeros(batch, dtype=np.int64),
            masks_at_start=np.zeros((batch, blocks), dtype=np.int64),
            masks_left=np.zeros((batch, blocks), dtype=np.int64),
            opened=np.ones(batch, dtype=np.int64),
            activated=np.zeros((batch, blocks), dtype=np.bool_),
            current=np.full(batch, -1),
            forwards_in_block=np.zeros(batch, dtype=np.int64),
            ended=np.zeros(batch, dtype=np.bool_),
            end=np.full(batch, length),
            ending=np.zeros(batch, dtype=np.bool_),
            held=np.zeros(batch, dtype=np.bool_),
            block_of=blocks_of_positions(block_starts),
            block_starts=block_starts,
            attention_block_of=blocks_of_positions(attention_starts),
            region_start=prompt_length if new_tokens else 0,
            first_block=np.zeros(batch, dtype=np.int64),
        )
        if new_tokens:
            canvas.first_block = canvas.block_of[:, prompt_length]
        canvas.count_masks()
        canvas.masks_at_start = canvas.masks_left
        canvas.opened += (canvas.masks_left > 0).argmax(axis=1)
        canvas.activated[:, 0] = True
        return canvas

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def positions(self) -> Integers:
        """All positions (L,)."""
        return np.arange(self.length)

    @property
    def region_starts(self) -> Integers:
        """Where the generated region of a row begins (B,): that of an infilled text begins after its padding."""
        return np.maximum(self.first_real, self.region_start)

    def shift(self, offset: int) -> None:
        """Move all rows to the right by so many positions, with padding before them; to the left, off their padding,
        if that is negative. The blocks must be counted from the end of the prompt."""

        def moved(values: NDArray, padding: Any) -> NDArray:
            return np.pad(values, ((0, 0), (max(offset, 0), 0)), constant_values=padding)[:, max(-offset, 0) :]

        mask = np.ones_like(self.tokens) if self.attention_mask is None else self.attention_mask
        self.attention_mask = moved(mask, 0)
        for name, padding in (("given", True), ("committed", True), ("logprobs", np.nan)):
            setattr(self, name, moved(getattr(self, name), padding))
        for name in ("tokens", "commit_steps", "block_of", "attention_block_of"):
            setattr(self, name, moved(getattr(self, name), 0))
        self.block_starts = self.block_starts + offset * (np.arange(self.block_starts.shape[1]) > 0)
        self.first_real, self.region_start = self.first_real + offset, self.region_start + offset
        self.end = self.end + offset
        if self.attention_mask.all():
            self.attention_mask = None

    def without_padding(self) -> Integers:
        """The tokens (B, L) with the first token of a row in place of its padding."""
        if self.attention_mask is None:
            return self.tokens
        return np.where(self.attention_mask > 0, self.tokens, gather(self.tokens, self.first_real[:, None]))

    def count_masks(self) -> None:
        before = np.zeros((len(self.tokens), self.length + 1), dtype=np.int64)
        np.cumsum(~self.committed, axis=1, out=before[:, 1:])
        self.masks_left = np.diff(gather(before, self.block_starts), axis=1)

    def completed_blocks(self) -> Booleans:
        """Blocks (B, M) without a masked position, whose tokens are final: not the current one of a row that is held
        in it."""
        held = self.held[:, None] & (np.arange(self.masks_left.shape[1]) == self.current[:, None])
        return (self.masks_left == 0) & ~held

    def masks_left_in(self, blocks: Integers) -> Integers:
        """Masked positions (B,) of one block (B,) of each row."""
        return gather(self.masks_left, blocks[:, None])[:, 0]

    def first_of(self, token_ids: list[int]) -> Integers:
        """The first position (B, 1) of the generated region with one of these tokens; L where there is none."""
        found = np.isin(self.tokens, token_ids) & self.committed & (self.positions >= self.region_start)
        return np.where(found, self.positions, self.length).min(axis=1, keepdims=True)

    def end_after(self, last: Integers, fill_token_id: int, forwards: int) -> None:
        """End rows after position `last` (B, 1), where that is less than L: all later positions are filled, except
        given ones.

        Positions filled while masked get `forwards`, the forwards made so far, as their commit step.
        """
        tail = (self.positions > last) & ~self.given
        self.ended = self.ended | (last[:, 0] < self.length)
        self.end = np.minimum(self.end, last[:, 0] + 1)
        self.commit_steps = np.where(tail & ~self.committed, forwards, self.commit_steps)
        self.logprobs = np.where(tail, np.float32(np.nan), self.logprobs)
        self.tokens = np.where(tail, fill_token_id, self.tokens)
        self.committed = self.committed | tail
        self.count_masks()

    def advance_blocks(self, add_threshold: float, activate_threshold: float, most_active: int | None = None) -> None:
        """Activate blocks, open at most one more, and move to the first unfinished block, by `masks_left`.

        d3LLM (arXiv 2601.07568): a block opens when the last opened one has reached `add_threshold`, and is activated
        when the one before it has reached `activate_threshold`. From the first unfinished block on, at most
        `most_active` are open (Multi-Block Diffusion, arXiv 2606.29215).
        """
        finished = self.masks_left == 0
        progress = 1 - self.masks_left.astype(np.float32) / self.masks_at_start.clip(min=1).astype(np.float32)
        blocks = np.arange(finished.shape[1])
        current = np.where(self.held, self.current, (~finished).argmax(axis=1))

        opened = np.maximum(self.opened, current)  # a prompt's blocks without masks need not be opened one by one
        last = opened[:, None] - 1
        may_open = gather(finished, last) | (gather(progress, last) >= add_threshold)
        closed = self.ended | self.ending | self.held | (opened == len(blocks))
        if most_active is not None:
            closed = closed | (opened - current >= most_active)
        self.opened = opened + (may_open[:, 0] & ~closed)
        reached = progress[:, :-1] >= activate_threshold
        self.activated[:, 1:] |= reached & (blocks[1:] < self.opened[:, None])

        self.forwards_in_block = np.where(current == self.current, self.forwards_in_block + 1, 0)
        self.current = current

    def in_opened_blocks(self) -> Booleans:
        return self.block_of < self.opened[:, None]

    def in_visible_blocks(self) -> Booleans:
        """Positions (B, L) that opened blocks see in block-causal attention."""
        last = gather(self.block_starts, self.opened[:, None]) - 1
        return self.attention_block_of <= gather(self.attention_block_of, last)

    def commit(self, positions: Integers, proposal: Proposal, accepted: Booleans, step: int) -> None:
        """Write the accepted proposals. A committed position is revised: it gets the new token and step.

        Args:
            positions (`Integers` of shape `(B, K)`): The candidates.
            proposal ([`Proposal`]): What was proposed for them.
            accepted (`Booleans` of shape `(B, K)`): Which to commit.
            step (`int`): The forward that proposed them, counted from 1.
        """
        rows, columns = accepted.nonzero()
        where = rows, positions[rows, columns]

        def write(target: NDArray, values: NDArray | int) -> NDArray:
            written = target.copy()
            written[where] = values
            return written

        self.tokens = write(self.tokens, proposal.tokens[rows, columns])
        self.commit_steps = write(self.commit_steps, step)
        self.committed = write(self.committed, True)
        if proposal.logprobs is not None:
            self.logprobs = write(self.logprobs, proposal.logprobs[rows, columns])

    def remask(self, positions: Booleans, mask_token_id: int) -> None:
        """Mask decoded positions (B, L) again, as if no forward had committed them."""
        positions = positions & ~self.given
        self.tokens = np.where(positions, mask_token_id, self.tokens)
        self.commit_steps = np.where(positions, 0, self.commit_steps)
        self.logprobs = np.where(positions, np.float32(np.nan), self.logprobs)
        self.committed = self.committed & ~positions


def starts_of_blocks(first: Integers, size: int, length: int) -> Integers:
    """Where the blocks of each row begin, then the end of the last one (B, M + 1): block 0 at position 0, block 1 at
    `first` (B,), each further one `size` positions after the one before. Blocks after the end are empty."""
    more = -(-(length - int(first.min())) // size)
    starts = first[:, None] + np.arange(-1, max(more, 0) + 1) * size
    starts[:, 0] = 0
    return starts.clip(max=length)


def blocks_of_positions(starts: Integers) -> Integers:
    """The block (B, L) of each position, from where blocks start (B, M + 1)."""
    length = starts[0, -1]
    begins = np.zeros((len(starts), length + 1), dtype=np.int64)
    np.add.at(begins, (np.arange(len(starts))[:, None], starts[:, 1:-1]), 1)
    return begins.cumsum(axis=1)[:, :length]
