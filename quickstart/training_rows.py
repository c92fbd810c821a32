"""Masked rows of the teacher's training: which tokens are hidden by which rule, and how much each one weighs."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass
class TokenIds:
    """Ids of the tokens that masking treats specially."""

    mask: int
    eos: int
    equals: int
    numbers: Tensor  # (vocab_size,) bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "TokenIds":
        numbers = torch.zeros(len(tokenizer), dtype=torch.bool)
        for token, index in tokenizer.get_vocab().items():
            numbers[index] = token.isdecimal()
        return cls(tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("="), numbers)


@dataclass
class Layout:
    """
    Rows [clean ; noisy]: the clean canvas, then the noisy answer, whose blocks see themselves and the clean blocks
    before them (BD3-LM, [arXiv 2503.09573](https://huggingface.co/papers/2503.09573), section 3.1). Every token of an
    answer is predicted in one pass, each from a clean prefix. Prompts, and tokens that are not predicted, have
    no noisy copy, as they have in [`~d3llm.trainers.block_causal.block_causal_mask`].

    Attributes:
        positions (`Tensor` of shape `(B, L)`): Position of each token in its canvas.
        blocks (`Tensor` of shape `(B, L)`): Block of each token; the prompt is block 0.
        noisy (`Tensor` of shape `(B, L)`): True in the noisy answer.
    """

    positions: Tensor
    blocks: Tensor
    noisy: Tensor

    @classmethod
    def of_canvases(cls, blocks: Tensor) -> "Layout":
        """Canvases alone, whose blocks `(B, L)` see those up to themselves."""
        positions = torch.arange(blocks.shape[1]).expand(blocks.shape)
        return cls(positions, blocks, torch.zeros_like(blocks, dtype=torch.bool))

    def visible(self) -> Tensor:
        """Which position (dimension 1) sees which (dimension 2), bool `(B, L, L)`."""
        query, key = self.blocks[:, :, None], self.blocks[:, None, :]
        noisy_query, noisy_key = self.noisy[:, :, None], self.noisy[:, None, :]
        return torch.where(noisy_key, noisy_query & (query == key), key + noisy_query.long() <= query)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Layout":
        """The layout with each tensor changed alike."""
        return Layout(change(self.positions), change(self.blocks), change(self.noisy))


@dataclass
class Batch:
    """
    Masked training rows.

    Attributes:
        labels (`Tensor` of shape `(B, L)`): The clean tokens, prompts left-padded, answers padded with EOS.
        input_ids (`Tensor` of shape `(B, L)`): The same with masks.
        valid (`Tensor` of shape `(B, L)`): False on padding outside the row's own canvas.
        weights (`Tensor` of shape `(B, L)`): Loss weight of each position, zero where nothing is masked.
        kind (`str`): The kind of batch, as named in the recipe.
        layout (`Layout`, *optional*): Order and visibility of the positions; by default each sees the whole row.
    """

    labels: Tensor
    input_ids: Tensor
    valid: Tensor
    weights: Tensor
    kind: str
    layout: Layout | None = None

    def split(self, parts: int) -> list[tuple["Batch", float]]:
        """
        Splits the rows into `parts` shares, each with the total weight of the batch. A share has no columns that are
        padding in all of its rows, so rows sorted by length need little of it.
        """
        total = self.weights.sum().item()
        shares = []
        for rows in torch.arange(len(self.labels)).chunk(parts):
            shares.append((self._select(rows, self.valid[rows].any(0)), total))
        return shares

    def _select(self, rows: Tensor, columns: Tensor) -> "Batch":
        def part(tensor: Tensor) -> Tensor:
            return tensor[rows][:, columns]

        tensors = (self.labels, self.input_ids, self.valid, self.weights)
        labels, input_ids, valid, weights = (part(tensor) for tensor in tensors)
        return Batch(labels, input_ids, valid, weights, self.kind, self.layout and self.layout.map(part))


def phase_at(phases: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """The phase of a step: the first one whose `until` is after the step."""
    return next(phase for phase in phases if phase["until"] is None or step < phase["until"])


def draw_kind(curriculum: list[dict[str, Any]], step: int, rng: random.Random) -> str:
    """Draws the kind of batch for a step from the shares of its phase."""
    phase = phase_at(curriculum, step)
    shares = {kind: share for kind, share in phase.items() if kind != "until"}
    return rng.choices(list(shares), list(shares.values()))[0]


def mask_answers(
    answers: Tensor, ids: TokenIds, masking: dict[str, Any], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """
    Draws masks and loss weights for answer regions, each row by one of three rules.

    - `llada`: the objective of LLaDA ([arXiv 2502.09992](https://huggingface.co/papers/2502.09992), Algorithms 1 and
      2): every position is masked with probability t ~ U(min_ratio, 1) and has the weight 1/t.
    - `window`: as in block-wise decoding. Everything before a start s is clean; `window_size` positions from s are
      masked with probability r ~ U(0.1, 1) and have the weight 1/r; everything after them is masked and has the weight
      `after_weight`, 0 by default.
    - `frontier`: a window that starts right after an equals sign. All its numbers are masked, and its other tokens
      with probability r ~ U(0, 1), so that the result can only be found by calculating it.
    - `ending` (a share taken from all three): a block as in decoding, its tokens masked with probability r ~ U(0.5, 1)
      and some of the padding at its end known. In a share `filled` of them, all padding after the block is known too,
      as with early stopping. The model must infer from the prompt where the solution ends.

    Args:
        answers (`Tensor` of shape `(B, A)`): Clean answers padded with EOS.
        ids (`TokenIds`): The ids that masking treats specially.
        masking (`dict`): A phase of the recipe's section `masking`.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        `tuple[Tensor, Tensor]`: Masked positions `(B, A)` bool and loss weights `(B, A)`.
    """
    size, length = answers.shape
    draw = torch.rand(size, 1, generator=generator)
    is_window = (draw >= masking["llada"]) & (draw < masking["llada"] + masking["window"])
    is_frontier = draw >= masking["llada"] + masking["window"]
    noise = torch.rand(size, length, generator=generator)
    position = torch.arange(length)
    is_number = ids.numbers[answers]
    content = (answers != ids.eos).sum(1, keepdim=True) + 1  # up to and including the first EOS

    # One ratio per row, spread evenly over the batch.
    spread = (torch.rand(1, generator=generator) + torch.randperm(size, generator=generator) / size) % 1
    ratio = spread[:, None] * (1 - masking["min_ratio"]) + masking["min_ratio"]
    masked, weights = noise < ratio, (1 / ratio).expand(size, length)

    equals = (answers == ids.equals).float()
    result = torch.multinomial(equals + 1e-9, 1, generator=generator) + 1
    start = (torch.rand(size, 1, generator=generator) * content).long()
    start = torch.where(is_frontier, result, start)
    inside = (position >= start) & (position < start + masking["window_size"])
    after = position >= start + masking["window_size"]
    window_ratio = torch.where(is_frontier, spread[:, None], spread[:, None] * 0.9 + 0.1)
    window_masked = after | (inside & ((noise < window_ratio) | (is_frontier & is_number)))
    window_weights = inside * torch.where(is_frontier, torch.ones(()), 1 / window_ratio)
    window_weights = window_weights + after * masking.get("after_weight", 0.0)

    if masking.get("ending"):
        # Blocks as in decoding; a random part of the padding at the end of the block is already known.
        is_ending = torch.rand(size, 1, generator=generator) < masking["ending"]
        last_block = (content - 1) // masking["window_size"]
        block_start = (torch.rand(size, 1, generator=generator) * (last_block + 1)).long() * masking["window_size"]
        block_end = (block_start + masking["window_size"]).clamp(max=length)
        room = (block_end - content + 1).clamp(min=0)
        known_from = block_end - (torch.rand(size, 1, generator=generator) * (room + 1)).long()
        # Early stopping fills everything after a known end of sequence, also after the block.
        is_filled = (torch.rand(size, 1, generator=generator) < masking.get("filled", 0.0)) & (known_from < block_end)
        ending_inside = (position >= block_start) & (position < known_from) & (noise < 0.5 + 0.5 * spread[:, None])
        after_block = (position >= block_end) & ~is_filled
        window_masked = torch.where(is_ending, ending_inside | after_block, window_masked)
        window_weights = torch.where(is_ending, ending_inside.float(), window_weights)
        is_frontier = is_frontier & ~is_ending
        is_window = is_window | is_ending

    semi = is_window | is_frontier
    masked = torch.where(semi, window_masked, masked)
    weights = torch.where(semi, window_weights, weights)
    number_weight = torch.where(is_frontier, 1.0, masking["number_weight"])
    weights = weights * torch.where(is_number, number_weight, torch.ones(()))
    weights = weights * torch.where(is_frontier & (position == start), masking["result_weight"], 1.0)
    weights = weights * torch.where(position < content, 1.0, masking["tail_weight"])
    return masked, weights * masked


def mask_blocks(
    labels: Tensor,
    valid: Tensor,
    start: int,
    ids: TokenIds,
    block_sizes: list[int],
    kind: str,
    generator: torch.Generator,
    predicted: Tensor | None = None,
) -> Batch:
    """
    Rows [clean ; noisy] of canvases; see [`Layout`]. The blocks of a row have one size, drawn from `block_sizes`. By
    one of three rules, equally likely for a row, all tokens of its blocks are masked, each one with a probability
    r ~ U(0, 1), or those from a place drawn for the block, as if it were filled from left to right. Blocks of one
    token are always masked.

    Args:
        labels (`Tensor` of shape `(B, L)`): Clean tokens.
        valid (`Tensor` of shape `(B, L)`): False on padding.
        start (`int`): Length of the prompt region.
        ids (`TokenIds`): The ids that masking treats specially.
        block_sizes (`list[int]`): Sizes that are equally likely; one may be named several times.
        kind (`str`): The kind of batch.
        generator (`torch.Generator`): Source of randomness.
        predicted (`Tensor` of shape `(B, L - start)`, *optional*):
            Positions to predict; the noisy answers have no others. By default all are.

    Returns:
        `Batch`: Rows of `2 L - start` tokens, or fewer with `predicted`; every masked one has the weight 1.
    """
    answers = labels[:, start:]
    size, length = answers.shape
    sizes = torch.tensor(block_sizes)
    block_size = sizes[torch.randint(len(sizes), (size, 1), generator=generator)]
    column = torch.arange(length)
    block, offset = column // block_size + 1, column % block_size
    rule, ratio = torch.rand(2, size, 1, generator=generator)
    draw = torch.rand(size, length, generator=generator)
    cut = (draw.gather(1, block - 1) * block_size).long()
    masked = torch.where(rule < 1 / 3, draw < ratio, (rule < 2 / 3) | (offset >= cut)) | (block_size == 1)
    masked &= valid[:, start:]
    prompt = torch.zeros(size, start, dtype=torch.long)
    position = torch.arange(start + length).expand(size, -1)
    is_noisy = torch.zeros(size, start + 2 * length, dtype=torch.bool)
    is_noisy[:, start + length :] = True
    layout = Layout(torch.cat((position, position[:, start:]), 1), torch.cat((prompt, block, block), 1), is_noisy)
    batch = Batch(
        labels=torch.cat((labels, answers), 1),
        input_ids=torch.cat((labels, answers.masked_fill(masked, ids.mask)), 1),
        valid=torch.cat((valid, valid[:, start:]), 1),
        weights=torch.cat((torch.zeros(size, start + length), masked.float()), 1),
        kind=kind,
        layout=layout,
    )
    return batch if predicted is None else keep_noisy(batch, predicted)


def keep_noisy(batch: Batch, predicted: Tensor) -> Batch:
    """The batch without noisy positions that are not predicted; `predicted` is as for [`mask_blocks`]."""
    length = batch.labels.shape[1]
    kept = torch.cat((torch.ones(len(predicted), length - predicted.shape[1], dtype=torch.bool), predicted), 1)
    columns = kept.long().argsort(dim=1, descending=True, stable=True)[:, : int(kept.sum(1).max())]
    labels, input_ids, weights = (x.gather(1, columns) for x in (batch.labels, batch.input_ids, batch.weights))
    valid = (batch.valid & kept).gather(1, columns)
    layout = batch.layout and batch.layout.map(lambda x: x.gather(1, columns))
    return Batch(labels, input_ids, valid, weights * valid, batch.kind, layout)
