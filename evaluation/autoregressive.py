"""Decodes prompts with an autoregressive model, plainly or assisted by a smaller one."""

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList, StopStringCriteria

from .batches import DecodedBatch, DecodedRow, batch_indices, left_pad


def generate_autoregressively(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
    done: Collection[int] = (),
    assistant_model: PreTrainedModel | None = None,
    max_new_tokens: int = 256,
    stop_strings: Sequence[str] = (),
) -> Iterator[DecodedBatch]:
    """
    Greedy decoding, the counterpart of [`generate_in_batches`].

    A plain row takes one forward per token, TPF 1. With an assistant (speculative decoding, arXiv 2211.17192) the
    forwards are those of the large model; the assistant's are not counted, their time is.

    Args:
        model (`PreTrainedModel`): A causal language model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        prompts (`Sequence[Sequence[int]]`): Token ids.
        batch_size (`int`, *optional*, defaults to 8): Prompts per batch; 1 with an assistant.
        done (`Collection[int]`, *optional*): Indices of prompts that need not be decoded.
        assistant_model (`PreTrainedModel`, *optional*): A smaller model with the same tokenizer.
        max_new_tokens (`int`, *optional*, defaults to 256): Length of the generated region.
        stop_strings (`Sequence[str]`, *optional*): End a row after the first of these.

    Yields:
        [`DecodedBatch`]: One batch after another; without commit steps when there is an assistant.

    Raises:
        `ValueError`: For a batch of several prompts with an assistant.
    """
    if assistant_model is not None and batch_size != 1:
        raise ValueError(
            f"Assisted generation decodes one prompt at a time: `batch_size` must be 1, got {batch_size}."
        )
    eos_token_ids = eos_token_ids_of(model, tokenizer)
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos_token_ids[0]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": pad_token_id}
    if stop_strings:  # not by name: an assistant would ask for a tokenizer that it is not given
        options["stopping_criteria"] = StoppingCriteriaList([StopStringCriteria(tokenizer, list(stop_strings))])
    forwards_of_model = 0

    def count(*_) -> None:
        nonlocal forwards_of_model
        forwards_of_model += 1

    for indices in batch_indices([len(prompt) for prompt in prompts], batch_size):
        if all(index in done for index in indices):
            continue
        input_ids, attention_mask = left_pad([list(prompts[index]) for index in indices], pad_token_id)
        input_ids, attention_mask = input_ids.to(model.device), attention_mask.to(model.device)
        forwards_of_model = 0
        counter = model.register_forward_pre_hook(count)
        began = time.perf_counter()
        try:
            output = model.generate(
                input_ids, attention_mask=attention_mask, assistant_model=assistant_model, **options
            )
            generated = output[:, input_ids.shape[1] :].tolist()  # waits for a GPU
        finally:
            counter.remove()
        seconds = time.perf_counter() - began
        rows = []
        for index, tokens in zip(indices, generated, strict=True):
            kept = next((end + 1 for end, token in enumerate(tokens) if token in eos_token_ids), len(tokens))
            filled = bool(stop_strings) and len(indices) > 1 and pad_token_id not in eos_token_ids
            while filled and kept and tokens[kept - 1] == pad_token_id:
                kept -= 1  # the fill after a stop string
            forwards = forwards_of_model if assistant_model is not None else kept
            rows.append(
                DecodedRow(
                    index=index,
                    sequence=0,
                    text=tokenizer.decode(tokens[:kept], skip_special_tokens=True),
                    tokens=kept,
                    forwards=forwards,
                    row_forwards=forwards,
                    token_ids=tokens[:kept],
                    commit_steps=list(range(1, kept + 1)) if assistant_model is None else [],
                )
            )
        yield DecodedBatch(rows, seconds)


def eos_token_ids_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What ends a text of an autoregressive model; raises a `ValueError` if nothing does."""
    ids = model.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    if ids is None:
        raise ValueError(f"{type(model).__name__} has no EOS token: set `eos_token_id` in generation_config.json.")
    return [ids] if isinstance(ids, int) else list(ids)
