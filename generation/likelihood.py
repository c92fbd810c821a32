"""Likelihood of an answer under a masked-diffusion model, estimated by Monte Carlo."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .canvas import Booleans, Floats, Integers, blocks_of_positions, gather, starts_of_blocks
from .noise import Draw
from .preparation import find_mask_token, trained_attention
from .visibility import as_attention_mask


CHUNK_ELEMENTS = 2**24  # logits computed at a time, 64 MiB in float32


def mask_answers(
    blocks: Integers, lengths: Integers, sample: int, num_samples: int, seed: int
) -> tuple[Booleans, Floats]:
    """
    Mask k of the l positions of one block of each answer, uniformly. The samples are spread evenly over the blocks,
    and within a block over k in 1..l.

    Args:
        blocks (`Integers` of shape `(B, A)`): The block of each position of the answers, from 0, in rising order. An
            answer that is seen from both sides is one block.
        lengths (`Integers` of shape `(B,)`): Number of positions of each answer; those after it are fillers.
        sample (`int`): Number of the sample, from 0 to `num_samples` - 1.
        num_samples (`int`): Number of samples.
        seed (`int`): Seed of the draws. A row draws the same in any batch.

    Returns:
        `tuple[Booleans, Floats]`: The masked positions `(B, A)`, and the weight of the sum over them `(B,)`: the
        number of blocks times l / k.
    """
    rows, width = blocks.shape
    numbers = np.arange(width)
    real = numbers < lengths[:, None]
    # one stratum of (0, 1] for each sample (LLaDA's `forward_process` spreads a batch of k the same way)
    in_stratum = Draw(np.full(rows, seed), np.full(rows, -1), sample).uniform()
    count_blocks = np.where(real, blocks, 0).max(axis=1) + 1
    place = count_blocks.astype(np.float32) * ((sample + in_stratum) / np.float32(num_samples))
    block = np.minimum(place.astype(np.int64), count_blocks - 1)
    in_block = real & (blocks == block[:, None])
    size = in_block.sum(axis=1)
    within = place - block.astype(np.float32)
    masks = (within * size.astype(np.float32)).astype(np.int64).clip(0, size - 1) + 1
    noise = Draw(np.full(width, seed), numbers, sample).uniform()
    ranks = np.where(in_block, noise, np.inf).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return ranks < masks[:, None], (count_blocks * size).astype(np.float32) / masks.astype(np.float32)


def log_probabilities(
    head: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, tokens: torch.LongTensor, vocab_size: int
) -> torch.Tensor:
    """The log-probabilities (B, K) of tokens, from a chunk of logits at a time.

    Args:
        head (`Callable`): The LM head.
        states (`torch.Tensor` of shape `(B, K, hidden_size)`): Hidden states of the rows that predict them.
        tokens (`torch.LongTensor` of shape `(B, K)`): The tokens.
        vocab_size (`int`): Logits per row.
    """
    at_a_time = max(1, CHUNK_ELEMENTS // vocab_size)
    parts = zip(states.flatten(0, 1).split(at_a_time), tokens.flatten().split(at_a_time), strict=True)
    found = []
    for part, its_tokens in parts:
        logits = head(part).float()
        found.append(logits.gather(-1, its_tokens[:, None])[:, 0] - logits.logsumexp(dim=-1))
    return torch.cat(found).view_as(tokens)


def attention_blocks(model: Any, answer: torch.BoolTensor, attention_mask: torch.Tensor | None) -> Integers | None:
    """The blocks of the attention of a block-causal model.

    Args:
        model (`PreTrainedModel`): The model, which states the size of its blocks and where they are counted from.
        answer (`torch.BoolTensor` of shape `(B, L)`): Positions of the answer.
        attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 = padding.

    Returns:
        `Integers` of shape `(B, L)`; `None` for a model that sees both sides.
    """
    if trained_attention(model) != "block_causal":
        return None
    if model.attention_block_size is None:
        raise ValueError("the model states no size of its attention blocks: set `attention_block_size` in config.json")
    size, length = model.attention_block_size, answer.shape[1]
    real = torch.ones_like(answer) if attention_mask is None else attention_mask > 0
    first = real.long().argmax(dim=1) + size if model.attention_grid == "absolute" else answer.long().argmax(dim=1)
    return blocks_of_positions(starts_of_blocks(first.numpy(force=True), size, length))


def visible_blocks(model: Any, blocks: Integers, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The attention mask `(B, 1, L, L)` with which a block-causal model sees these `blocks` (B, L), one after another;
    `attention_mask` (B, L) is 0 at padding."""
    of_position = torch.from_numpy(blocks).to(model.device)
    visible = of_position[:, None, :] <= of_position[:, :, None]
    if attention_mask is not None:
        visible &= attention_mask[:, None, :] > 0
    visible = visible | torch.eye(blocks.shape[1], dtype=torch.bool, device=model.device)  # padding sees itself
    return as_attention_mask(visible[:, None], model.config._attn_implementation, model.dtype)


def blocks_of_answers(blocks: Integers | None, positions: Integers) -> Integers:
    """The blocks `(B, A)` of the answers' `positions` (B, A), numbered from 0 in each row; one block for all without
    `blocks` (B, L)."""
    if blocks is None:
        return np.zeros_like(positions)
    of_answer = gather(blocks, positions)
    return (np.diff(of_answer, axis=1, prepend=of_answer[:, :1]) != 0).cumsum(axis=1)


class LikelihoodMixin:
    """Adds `score()` to a model that has `logit_rows`."""

    config: Any
    generation_config: Any
    attention: str | None
    logit_rows: Callable[[torch.Tensor], torch.Tensor]
    get_output_embeddings: Callable[[], Any]
    __call__: Callable[..., Any]

    @torch.no_grad()
    def score(
        self,
        input_ids: torch.LongTensor,
        answer_mask: torch.Tensor,
        attention_mask: torch.LongTensor | None = None,
        *,
        num_samples: int = 128,
        seed: int = 0,
    ) -> torch.Tensor:
        r"""
        Estimate the log-likelihood of answers by Monte Carlo, as LLaDA evaluates multiple-choice tasks.

        A lower bound: for k uniform in 1..l and k of the l answer positions masked at random, the expectation of
        l / k times the sum of the masked tokens' log-probabilities (LLaDA, arXiv 2502.09992, equation 6, the form with
        fewer samples). Exact for answers of one token. With a block-causal model it is the sum of the bounds of the
        answer's blocks, each after the text before it, as in decoding (BD3-LM, arXiv 2503.09573, section 3.1). The
        estimate of a row is the same in any batch.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`): Prompt and answer, padded on either side.
            answer_mask (`torch.Tensor` of shape `(B, L)`): Non-zero at the positions of the answer.
            attention_mask (`torch.LongTensor` of shape `(B, L)`, *optional*): 0 = padding.
            num_samples (`int`, *optional*, defaults to 128): Forwards to average over.
            seed (`int`, *optional*, defaults to 0): Seed of the masks.

        Returns:
            `torch.FloatTensor` of shape `(B,)`: Log-likelihoods in nats.

        Raises:
            `ValueError`: For a mask of another shape, a row without an answer, an answer in the padding, and a model
                with causal attention, to which the bound does not apply.
        """
        if self.attention == "causal":
            raise ValueError(
                f"{type(self).__name__} has causal attention, and score() needs a model that sees both sides of a "
                "mask: compare generated answers"
            )
        answer = torch.as_tensor(answer_mask, device=input_ids.device) != 0
        if answer.shape != input_ids.shape or not answer.any(dim=1).all():
            raise ValueError(
                f"`answer_mask` must have the shape of `input_ids`, {tuple(input_ids.shape)}, "
                "and an answer in every row"
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(f"`attention_mask` has the shape {tuple(attention_mask.shape)}, not that of `input_ids`")
        if attention_mask is not None and (answer & (attention_mask == 0)).any():
            raise ValueError("`answer_mask` marks positions that `attention_mask` calls padding")
        if num_samples < 1:
            raise ValueError(f"`num_samples`={num_samples} must be at least 1")
        mask_token_id = find_mask_token(self.config, self.generation_config)
        blocks = attention_blocks(self, answer, attention_mask)
        visible = attention_mask if blocks is None else visible_blocks(self, blocks, attention_mask)
        lengths = answer.sum(dim=1).numpy(force=True)
        positions = answer.long().argsort(dim=1, descending=True, stable=True)[:, : lengths.max()]
        tokens, rows = input_ids.gather(1, positions), self.logit_rows(positions)
        if attention_mask is not None:  # the row before the first token would be one of the padding
            rows = rows.maximum((attention_mask > 0).long().argmax(dim=1, keepdim=True))
        block_of = blocks_of_answers(blocks, positions.numpy(force=True))
        total = torch.zeros(len(input_ids), device=input_ids.device)
        for sample in range(num_samples):
            drawn = mask_answers(block_of, lengths, sample, num_samples, seed)
            masked, weight = (torch.from_numpy(values).to(input_ids.device) for values in drawn)
            noisy = input_ids.scatter(1, positions, tokens.masked_fill(masked, mask_token_id))
            inputs = {"input_ids": noisy, "attention_mask": visible, "logits_to_keep": rows}
            states = self(**inputs, run_head=False, return_dict=True).hidden_states[0]
            found = log_probabilities(self.get_output_embeddings(), states, tokens, self.config.vocab_size)
            total += found.masked_fill(~masked, 0.0).sum(dim=1) * weight
        return total / num_samples
