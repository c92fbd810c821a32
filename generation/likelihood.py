"""Likelihood of an answer under a masked-diffusion model, estimated by Monte Carlo."""

from collections.abc import Callable
from typing import Any

import torch

from .canvas import blocks_of_positions, starts_of_blocks
from .preparation import find_mask_token, trained_attention
from .visibility import as_attention_mask


CHUNK_ELEMENTS = 2**24  # logits computed at a time, 64 MiB in float32


def mask_answer(
    answer: torch.BoolTensor, sample: int, num_samples: int, generator: torch.Generator
) -> tuple[torch.BoolTensor, torch.LongTensor]:
    """Mask k of the l answer positions of each row, uniformly, with k spread evenly over 1..l by the samples.

    Args:
        answer (`torch.BoolTensor` of shape `(B, L)`): Positions of the answer.
        sample (`int`): Number of the sample, from 0 to `num_samples` - 1.

    Returns:
        `tuple[torch.BoolTensor, torch.LongTensor]`: The masked positions (B, L) and k (B,).
    """
    length = answer.sum(dim=1)
    # one stratum of (0, 1] for each sample (LLaDA's `forward_process` spreads a batch of k the same way)
    draw = (sample + torch.rand(len(answer), generator=generator)).to(answer.device) / num_samples
    count = (draw * length).long().clamp(max=length - 1) + 1
    order = torch.rand(answer.shape, generator=generator).to(answer.device).masked_fill(~answer, torch.inf)
    ranks = order.argsort(dim=1).argsort(dim=1)
    return ranks < count[:, None], count


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


def visible_blocks(model: Any, answer: torch.BoolTensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """The attention mask with which a block-causal model sees a prompt and its answer, block after block.

    Args:
        model (`PreTrainedModel`): The model, which states the size of its blocks and where they are counted from.
        answer (`torch.BoolTensor` of shape `(B, L)`): Positions of the answer.
        attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): 0 = padding.

    Returns:
        `torch.Tensor` of shape `(B, 1, L, L)`; `attention_mask` for a model that sees both sides.
    """
    if trained_attention(model) != "block_causal":
        return attention_mask
    if model.attention_block_size is None:
        raise ValueError("the model states no size of its attention blocks: set `attention_block_size` in config.json")
    size, length = model.attention_block_size, answer.shape[1]
    real = torch.ones_like(answer) if attention_mask is None else attention_mask > 0
    first = real.long().argmax(dim=1) + size if model.attention_grid == "absolute" else answer.long().argmax(dim=1)
    starts = starts_of_blocks(first.numpy(force=True), size, length)
    blocks = torch.from_numpy(blocks_of_positions(starts)).to(answer.device)
    visible = (blocks[:, None, :] <= blocks[:, :, None]) & real[:, None, :]
    visible = visible | torch.eye(length, dtype=torch.bool, device=answer.device)  # padding sees itself
    return as_attention_mask(visible[:, None], model.config._attn_implementation, model.dtype)


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
        fewer samples). Exact for answers of one token. A block-causal model sees the answer block by block, as in
        decoding.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, L)`): Prompt and answer, padded on either side.
            answer_mask (`torch.Tensor` of shape `(B, L)`): Non-zero at the positions of the answer.
            attention_mask (`torch.LongTensor` of shape `(B, L)`, *optional*): 0 = padding.
            num_samples (`int`, *optional*, defaults to 128): Forwards to average over.
            seed (`int`, *optional*, defaults to 0): Of the masks.

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
        answer = answer_mask != 0
        if answer.shape != input_ids.shape or not answer.any(dim=1).all():
            raise ValueError(
                f"`answer_mask` must have the shape of `input_ids`, {tuple(input_ids.shape)}, "
                "and an answer in every row"
            )
        if attention_mask is not None and (answer & (attention_mask == 0)).any():
            raise ValueError("`answer_mask` marks positions that `attention_mask` calls padding")
        if num_samples < 1:
            raise ValueError(f"`num_samples`={num_samples} must be at least 1")
        mask_token_id = find_mask_token(self.config, self.generation_config)
        visible = visible_blocks(self, answer, attention_mask)
        generator = torch.Generator().manual_seed(seed)
        length = answer.sum(dim=1)
        positions = answer.long().argsort(dim=1, descending=True, stable=True)[:, : int(length.max())]
        tokens, rows = input_ids.gather(1, positions), self.logit_rows(positions)
        total = torch.zeros(len(input_ids), device=input_ids.device)
        for sample in range(num_samples):
            masked, count = mask_answer(answer, sample, num_samples, generator)
            noisy = input_ids.masked_fill(masked, mask_token_id)
            inputs = {"input_ids": noisy, "attention_mask": visible, "logits_to_keep": rows}
            states = self(**inputs, run_head=False, return_dict=True).hidden_states[0]
            found = log_probabilities(self.get_output_embeddings(), states, tokens, self.config.vocab_size)
            total += found.masked_fill(~masked.gather(1, positions), 0.0).sum(dim=1) * (length / count)
        return total / num_samples
