"""The state of a batch of canvases while they are decoded: tokens, what is committed and when, and the blocks."""

import dataclasses
from dataclasses import dataclass

import torch


@dataclass
class Proposal:
    """What a forward proposes for B rows of K candidates.

    Attributes:
        tokens (`torch.LongTensor` of shape `(B, K)`): One token per candidate.
        score (`torch.Tensor` of shape `(B, K)`): How sure the model is of it; larger is surer.
        forced_score (`torch.Tensor` of shape `(B, K)`): The score that ranks candidates for forced progress.
        logprobs (`torch.Tensor` of shape `(B, K)`, *optional*): Log-probabilities of the tokens.
    """

    tokens: torch.LongTensor
    score: torch.Tensor
    forced_score: torch.Tensor
    logprobs: torch.Tensor | None = None


@dataclass
class Canvas:
    """Prompt and generated region of a batch, one row per sequence. All rows have the same length, each its own pace.

    The canvas is divided into blocks: block 0 is the prompt, blocks 1.. are spans of `block_size` positions of the
    generated region, the last of which may be short. B rows, L positions, M blocks.

    Attributes:
        tokens (`torch.LongTensor` of shape `(B, L)`): Token ids, the mask token where nothing is committed.
        given (`torch.BoolTensor` of shape `(B, L)`): Committed from the start: the caller's tokens, and padding.
        committed (`torch.BoolTensor` of shape `(B, L)`): Given or decoded. The token does not tell: a model may
            propose the mask token, or have none.
        commit_steps (`torch.IntTensor` of shape `(B, L)`): Forward, counted from 1, that committed a position, or last
            revised it; 0 = given or masked.
        logprobs (`torch.Tensor` of shape `(B, L)`): Log-probability of a decoded token when it was committed, else
            NaN.
        seeds (`torch.LongTensor` of shape `(B,)`): Seeds of the sampling.
        attention_mask (`torch.LongTensor` of shape `(B, L)`, *optional*): 0 = padding; `None` without any.
        first_real (`torch.LongTensor` of shape `(B,)`): First position that is not padding.
        row_ids (`torch.LongTensor` of shape `(B,)`): Row of the caller's batch.
        masks_at_start, masks_left (`torch.LongTensor` of shape `(B, M)`): Masked positions of a block at the start,
            and now.
        opened (`torch.LongTensor` of shape `(B,)`): Blocks opened so far; positions of later blocks are not
            candidates.
        activated (`torch.BoolTensor` of shape `(B, M)`): Blocks that are guaranteed progress.
        current (`torch.LongTensor` of shape `(B,)`): The first unfinished block; -1 before the first forward.
        forwards_in_block (`torch.LongTensor` of shape `(B,)`): Forwards made since `current` became the current block.
        ended (`torch.BoolTensor` of shape `(B,)`): The row has ended, at an EOS or by a stop.
        block_of (`torch.LongTensor` of shape `(L,)`): Block of a position.
        block_starts (`torch.LongTensor` of shape `(M + 1,)`): First position of each block, then L.
        attention_block_of (`torch.LongTensor` of shape `(L,)`): Block of a position in block-causal attention, which
            may hold several of the decoder's blocks.
        region_start (`int`): Where the generated region begins; 0 for an infilled text.
        first_block (`int`): The block where the generated region begins: 1, the one after the prompt, or 0 for an
            infilled text.
    """

    tokens: torch.LongTensor
    given: torch.BoolTensor
    committed: torch.BoolTensor
    commit_steps: torch.IntTensor
    logprobs: torch.Tensor
    seeds: torch.LongTensor
    attention_mask: torch.LongTensor | None
    first_real: torch.LongTensor
    row_ids: torch.LongTensor
    masks_at_start: torch.LongTensor
    masks_left: torch.LongTensor
    opened: torch.LongTensor
    activated: torch.BoolTensor
    current: torch.LongTensor
    forwards_in_block: torch.LongTensor
    ended: torch.BoolTensor
    block_of: torch.LongTensor
    block_starts: torch.LongTensor
    attention_block_of: torch.LongTensor
    region_start: int
    first_block: int

    @classmethod
    def from_prompt(
        cls,
        prompt: torch.LongTensor,
        attention_mask: torch.LongTensor | None,
        *,
        new_tokens: int,
        block_size: int,
        mask_token_id: int,
        seeds: torch.LongTensor,
        attention_block_size: int | None = None,
    ) -> "Canvas":
        """A canvas of left-padded prompts (B, P) followed by `new_tokens` masked positions.

        Mask tokens in a prompt are positions to fill in; they are decoded with the prompt as their block. Without new
        tokens the whole text is that block, and the generated region. The blocks of the attention are those of the
        decoder unless they have a size of their own.
        """
        batch, prompt_length = prompt.shape
        device = prompt.device
        positions = torch.arange(prompt_length + new_tokens, device=device)

        def blocks_of(size: int) -> torch.LongTensor:
            return ((positions - prompt_length).div(size, rounding_mode="floor") + 1).clamp(min=0)

        blocks = 1 + -(-new_tokens // block_size)
        block_starts = prompt_length + (torch.arange(blocks + 1, device=device) - 1) * block_size
        block_starts = block_starts.clamp(max=prompt_length + new_tokens)
        block_starts[0] = 0
        tokens = torch.cat([prompt, prompt.new_full((batch, new_tokens), mask_token_id)], dim=1)
        committed = tokens != mask_token_id
        first_real = torch.zeros(batch, dtype=torch.long, device=device)
        if attention_mask is not None:
            first_real = (attention_mask == 0).sum(dim=1)
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(batch, new_tokens)], dim=1)
            committed = committed | (attention_mask == 0)
        canvas = cls(
            tokens=tokens,
            given=committed,
            committed=committed,
            commit_steps=torch.zeros_like(tokens, dtype=torch.int32),
            logprobs=torch.full_like(tokens, torch.nan, dtype=torch.float32),
            seeds=seeds,
            attention_mask=attention_mask,
            first_real=first_real,
            row_ids=torch.arange(batch, device=device),
            masks_at_start=torch.zeros(batch, blocks, dtype=torch.long, device=device),
            masks_left=torch.zeros(batch, blocks, dtype=torch.long, device=device),
            opened=torch.ones(batch, dtype=torch.long, device=device),
            activated=torch.zeros(batch, blocks, dtype=torch.bool, device=device),
            current=torch.full((batch,), -1, device=device),
            forwards_in_block=torch.zeros(batch, dtype=torch.long, device=device),
            ended=torch.zeros(batch, dtype=torch.bool, device=device),
            block_of=blocks_of(block_size),
            block_starts=block_starts,
            attention_block_of=blocks_of(attention_block_size or block_size),
            region_start=prompt_length if new_tokens else 0,
            first_block=1 if new_tokens else 0,
        )
        canvas.count_masks()
        canvas.masks_at_start = canvas.masks_left
        canvas.opened += (canvas.masks_left[:, 0] == 0).long()
        canvas.activated[:, 0] = True
        return canvas

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def region_starts(self) -> torch.LongTensor:
        """Where the generated region of a row begins (B,): that of an infilled text begins after its padding."""
        return self.first_real.clamp(min=self.region_start)

    def without_padding(self) -> torch.LongTensor:
        """The tokens (B, L) with the first token of a row in place of its padding."""
        if self.attention_mask is None:
            return self.tokens
        first = self.tokens.gather(1, self.first_real[:, None])
        return torch.where(self.attention_mask > 0, self.tokens, first)

    def count_masks(self) -> None:
        masked = (~self.committed).long()
        self.masks_left = torch.zeros_like(self.masks_at_start).scatter_add(1, self.block_of.expand_as(masked), masked)

    def first_of(self, token_ids: torch.LongTensor) -> torch.LongTensor:
        """The first position (B, 1) of the generated region with one of these tokens; L where there is none."""
        positions = torch.arange(self.length, device=self.tokens.device)
        found = torch.isin(self.tokens, token_ids) & self.committed & (positions >= self.region_start)
        return torch.where(found, positions, self.length).amin(dim=1, keepdim=True)

    def end_after(self, last: torch.LongTensor, fill_token_id: int, forwards: int) -> None:
        """End rows after position `last` (B, 1), where that is less than L: all later positions are filled, except
        given ones.

        Positions filled while masked get `forwards`, the forwards made so far, as their commit step.
        """
        tail = (torch.arange(self.length, device=self.tokens.device) > last) & ~self.given
        self.ended = self.ended | (last[:, 0] < self.length)
        self.commit_steps = torch.where(tail & ~self.committed, forwards, self.commit_steps)
        self.logprobs = self.logprobs.masked_fill(tail, torch.nan)
        self.tokens = torch.where(tail, fill_token_id, self.tokens)
        self.committed = self.committed | tail

    def advance_blocks(self, add_threshold: float, activate_threshold: float, must_stay: torch.BoolTensor) -> None:
        """Activate blocks, open at most one more, and move to the first unfinished block, by `masks_left`.

        d3LLM (arXiv 2601.07568): a block opens when the last opened one has reached `add_threshold`, and is activated
        when the one before it has reached `activate_threshold`.

        Args:
            must_stay (`torch.BoolTensor` of shape `(B,)`): Rows that must not leave their current block yet.
        """
        finished = self.masks_left == 0
        progress = 1 - self.masks_left / self.masks_at_start.clamp(min=1)
        blocks = torch.arange(finished.shape[1], device=finished.device)

        last = (self.opened - 1)[:, None]
        may_open = finished.gather(1, last) | (progress.gather(1, last) >= add_threshold)
        may_open = may_open[:, 0] & ~self.ended & ~must_stay & (self.opened < len(blocks))
        self.opened = self.opened + may_open.long()
        reached = progress[:, :-1] >= activate_threshold
        self.activated[:, 1:] |= reached & (blocks[1:] < self.opened[:, None])

        first_unfinished = (~finished).long().argmax(dim=1)
        current = torch.where(must_stay, self.current, first_unfinished)
        self.forwards_in_block = torch.where(current == self.current, self.forwards_in_block + 1, 0)
        self.current = current

    def in_opened_blocks(self) -> torch.BoolTensor:
        return self.block_of < self.opened[:, None]

    def in_visible_blocks(self) -> torch.BoolTensor:
        """Positions (B, L) that opened blocks see in block-causal attention."""
        last = self.block_starts[self.opened] - 1
        return self.attention_block_of <= self.attention_block_of[last][:, None]

    def commit(self, positions: torch.LongTensor, proposal: Proposal, accepted: torch.BoolTensor, step: int) -> None:
        """Write the accepted proposals. A committed position is revised: it gets the new token and step.

        Args:
            positions (`torch.LongTensor` of shape `(B, K)`): The candidates.
            proposal ([`Proposal`]): What was proposed for them.
            accepted (`torch.BoolTensor` of shape `(B, K)`): Which to commit.
            step (`int`): The forward that proposed them, counted from 1.
        """

        def write(target: torch.Tensor, values: torch.Tensor | int) -> torch.Tensor:
            return target.scatter(1, positions, torch.where(accepted, values, target.gather(1, positions)))

        self.tokens = write(self.tokens, proposal.tokens)
        self.commit_steps = write(self.commit_steps, step)
        self.committed = write(self.committed, True)
        if proposal.logprobs is not None:
            self.logprobs = write(self.logprobs, proposal.logprobs)

    def remask(self, positions: torch.BoolTensor, mask_token_id: int) -> None:
        """Mask decoded positions (B, L) again, as if no forward had committed them."""
        positions = positions & ~self.given
        self.tokens = self.tokens.masked_fill(positions, mask_token_id)
        self.commit_steps = self.commit_steps.masked_fill(positions, 0)
        self.logprobs = self.logprobs.masked_fill(positions, torch.nan)
        self.committed = self.committed & ~positions

    def select_rows(self, rows: torch.LongTensor) -> None:
        """Keep only these rows, so that finished ones cost nothing more."""
        per_row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for shared in ("block_of", "block_starts", "attention_block_of", "region_start", "first_block"):
            per_row.pop(shared)
        for name, value in per_row.items():
            if value is not None:
                setattr(self, name, value[rows])
