"""Answers multiple-choice samples with the choice that the model finds most likely."""

import time
from collections.abc import Collection, Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import DecodedBatch, DecodedRow, batch_indices, left_pad
from .tasks import Sample


def choose_in_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
    done: Collection[int] = (),
    num_samples: int = 128,
    seed: int = 0,
) -> Iterator[DecodedBatch]:
    """
    Chooses by log-likelihood: that of [`~d3llm.generation.likelihood.LikelihoodMixin.score`] for diffusion models, the
    exact one for autoregressive ones.

    Args:
        model (`PreTrainedModel`): The model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        samples (`Sequence[Sample]`): Samples with choices.
        prompts (`Sequence[Sequence[int]]`): Token ids of their prompts.
        batch_size (`int`, *optional*, defaults to 8): Samples per batch; each takes a row per choice.
        done (`Collection[int]`, *optional*): Indices of samples that need no answer.
        num_samples (`int`, *optional*, defaults to 128): Forwards per choice of a diffusion model; one is enough, and
            is taken, when all choices are single tokens.
        seed (`int`, *optional*, defaults to 0): Seed of its masks.

    Yields:
        [`DecodedBatch`]: One batch after another; the text is the index of the choice, no tokens are generated.
    """
    diffusion = hasattr(model, "score")
    for indices in batch_indices([len(prompt) for prompt in prompts], batch_size):
        if all(index in done for index in indices):
            continue
        answers = [
            tokenizer(choice, add_special_tokens=False)["input_ids"]
            for index in indices
            for choice in samples[index].choices
        ]
        owners = [index for index in indices for _ in samples[index].choices]
        rows = [list(prompts[index]) + answer for index, answer in zip(owners, answers, strict=True)]
        input_ids, attention_mask = left_pad(rows, tokenizer.pad_token_id or 0)
        ends = torch.tensor([len(answer) for answer in answers])[:, None]
        answer_mask = torch.arange(input_ids.shape[1]) >= input_ids.shape[1] - ends
        arguments = [tensor.to(model.device) for tensor in (input_ids, answer_mask, attention_mask)]
        forwards = 1 if not diffusion or int(ends.max()) == 1 else num_samples
        began = time.perf_counter()
        if diffusion:
            scores = model.score(*arguments, num_samples=forwards, seed=seed).tolist()
        else:
            scores = _causal_score(model, *arguments).tolist()
        seconds = time.perf_counter() - began
        results = []
        for index in indices:
            likelihoods = [score for score, owner in zip(scores, owners, strict=True) if owner == index]
            best = likelihoods.index(max(likelihoods))
            taken = forwards * len(likelihoods)
            results.append(DecodedRow(index, 0, str(best), 0, taken, taken, [], []))
        yield DecodedBatch(results, seconds)


def answer_lengths(tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]) -> list[int]:
    """
    How long the answers to choose from are.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        samples (`Sequence[Sample]`): Samples with choices.

    Returns:
        `list[int]`: Tokens of each sample's longest choice.
    """
    choices = {choice for sample in samples for choice in sample.choices}  # often the same few letters
    lengths = {choice: len(tokenizer(choice, add_special_tokens=False)["input_ids"]) for choice in choices}
    return [max(lengths[choice] for choice in sample.choices) for sample in samples]


@torch.no_grad()
def _causal_score(
    model: PreTrainedModel, input_ids: torch.Tensor, answer_mask: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Log-likelihoods (B,) in nats of the answers at the end of the rows (B, L)."""
    kept = int(answer_mask.sum(dim=1).max()) + 1
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, logits_to_keep=kept
    ).logits[:, -kept:-1]
    tokens, answer = input_ids[:, 1 - kept :], answer_mask[:, 1 - kept :]
    logprobs = logits.float().log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]
    return logprobs.masked_fill(~answer, 0.0).sum(dim=1)
