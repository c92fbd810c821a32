"""Decodes any number of prompts in batches of similar length."""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import DiffusionGenerationConfig
from ..generation.assistant import prepare_assistant
from ..generation.fields import FIELDS, METHOD_DEFAULTS, RUN_DEFAULTS
from ..generation.open_run import may_join
from ..generation.scheduler import Scheduler
from .prompts import Messages, encode_prompt


CALLABLES = ("logits_processor", "stopping_criteria", "assistant_model")  # arguments of `generate` that are not fields
INHERITED_FIELDS = ("top_k", "top_p", "stop_strings", "eos_token_id", "pad_token_id")  # those that affect the text


@dataclass(frozen=True)
class DecodedRow:
    """
    One generated sequence.

    Attributes:
        index (`int`): Index of its prompt, counted from 0.
        sequence (`int`): Index among the prompt's return sequences, counted from 0.
        text (`str`): The decoded tokens up to the first EOS, without special tokens.
        tokens (`int`): Generated tokens up to and including the first EOS.
        forwards (`int`): Forwards of the transformer for this row.
        row_forwards (`int`): Rows of these forwards that are its own: more with drafts and guidance.
        token_ids (`list[int]`): Those tokens.
        commit_steps (`list[int]`): The forward, counted from 1, that committed each of them.
        tail_steps (`list[int]`): The same for the positions after them, up to the end of the canvas.
        assistant_forwards (`int`): Forwards of the assistant for this row.
        history (`Tensor` of shape `(forwards, max_new_tokens)`, *optional*): With `output_history`, the generated
            region after each forward.
    """

    index: int
    sequence: int
    text: str
    tokens: int
    forwards: int
    row_forwards: int
    token_ids: list[int]
    commit_steps: list[int]
    tail_steps: list[int] = field(default_factory=list)
    assistant_forwards: int = 0
    history: torch.Tensor | None = None

    @property
    def tokens_per_forward(self) -> float:
        """TPF of the row."""
        return self.tokens / self.forwards


@dataclass(frozen=True)
class DecodedBatch:
    """
    The output of one call of `generate`.

    Attributes:
        rows (`list[DecodedRow]`): The sequences, those of a prompt next to each other.
        seconds (`float`): Wall time of the call.
    """

    rows: list[DecodedRow]
    seconds: float


def resolve_generation_config(
    model: PreTrainedModel,
    prompt_lengths: Collection[int],
    *,
    assistant_model: PreTrainedModel | None = None,
    **generation_kwargs: Any,
) -> DiffusionGenerationConfig:
    """
    The decoding parameters of a run over prompts of several lengths, with all fields filled in.

    Args:
        model (`PreTrainedModel`): A model whose `generate` is the decoder of `d3llm.generation`.
        prompt_lengths (`Collection[int]`): Token counts of the prompts.
        assistant_model (`PreTrainedModel`, *optional*): A second model that drafts.
        generation_kwargs: Fields of `DiffusionGenerationConfig`, or a whole `generation_config`.

    Returns:
        [`~d3llm.generation.DiffusionGenerationConfig`]: The parameters. If the model's positions limit
        `max_new_tokens`, it is the room that the longest prompt leaves.

    Raises:
        `ValueError`: For parameters and an assistant that `generate` refuses.
    """
    base, longest = generation_kwargs.pop("generation_config", None), max(prompt_lengths)
    config = model.diffusion_config(base, generation_kwargs, longest)
    if assistant_model is not None:
        prepare_assistant(model, assistant_model, config, longest)
    return config


def decoding_fields(config: DiffusionGenerationConfig) -> dict[str, Any]:
    """
    The fields that affect the generated text, to be saved with it.

    Args:
        config ([`~d3llm.generation.DiffusionGenerationConfig`]): A config with all fields filled in.

    Returns:
        `dict[str, Any]`: JSON values by field name.
    """
    names = [*RUN_DEFAULTS, *METHOD_DEFAULTS, *INHERITED_FIELDS]
    values = {name: getattr(config, name) for name in names if not name.startswith("output_")}
    return {name: value for name, value in values.items() if not FIELDS[name].added or value != FIELDS[name].default}


def batch_indices(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """
    Groups prompts of similar length into batches, the longest first.

    Args:
        lengths (`Sequence[int]`): Token counts of the prompts.
        batch_size (`int`): Prompts per batch.

    Returns:
        `list[list[int]]`: Indices of prompts, batch by batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def check_positions(model: PreTrainedModel, lengths: Sequence[int], names: Sequence[str]) -> None:
    """
    Checks before the first forward that every sequence fits into the model's positions.

    Args:
        model (`PreTrainedModel`): The model.
        lengths (`Sequence[int]`): Number of tokens of each prompt with its answer.
        names (`Sequence[str]`): Names of the samples.

    Raises:
        `ValueError`: Names the longest sample if it does not fit.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    length, name = max(zip(lengths, names, strict=True), key=lambda pair: pair[0])
    if longest is not None and length > longest:
        raise ValueError(
            f"The sample {name!r:.60} takes {length} tokens with its answer, but the model has {longest} positions: "
            "remove it from the data, or shorten it (--data)."
        )


def generate_in_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Messages | Sequence[int]],
    *,
    batch_size: int = 8,
    chat: bool | None = None,
    done: Collection[int] = (),
    seeds: Sequence[int] | None = None,
    **generation_kwargs: Any,
) -> Iterator[DecodedBatch]:
    """
    Decodes prompts in left-padded batches of similar length. The longest come first, so that memory runs out at once
    or never.

    Which prompts share a batch depends only on the prompts and `batch_size`. A batch is skipped if all of its prompts
    are `done`, and otherwise decoded completely, so that a resumed run gives the same texts as an uninterrupted one.

    Args:
        model (`PreTrainedModel`): A model whose `generate` is the decoder of `d3llm.generation`.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        prompts (`Sequence`): Texts, chats (lists of messages) or lists of token ids; at least one.
        batch_size (`int`, *optional*, defaults to 8): Prompts per batch.
        chat (`bool`, *optional*): See [`encode_prompt`].
        done (`Collection[int]`, *optional*): Indices of prompts that are already decoded.
        seeds (`Sequence[int]`, *optional*): A seed for each prompt; by default `seed` applies to all.
        generation_kwargs: Further arguments of `generate`: fields of `DiffusionGenerationConfig` such as `preset` or
            `max_new_tokens`, `generation_config`, `logits_processor`, `stopping_criteria`, `assistant_model`.

    Yields:
        [`DecodedBatch`]: One batch after another.

    Raises:
        `ValueError`: At the start of the iteration, for an empty prompt or list of prompts, and for parameters that
            `generate` refuses.
    """
    if not prompts:
        raise ValueError("`prompts` is empty: give at least one prompt.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    encoded = [_token_ids(tokenizer, prompt, chat) for prompt in prompts]
    lengths = [len(row) for row in encoded]
    fields = {name: value for name, value in generation_kwargs.items() if name not in CALLABLES}
    config = resolve_generation_config(model, lengths, **fields)
    options = {**generation_kwargs, "max_new_tokens": config.max_new_tokens, "return_dict_in_generate": True}
    for indices in batch_indices(lengths, batch_size):
        if all(index in done for index in indices):
            continue
        input_ids, attention_mask = left_pad([encoded[index] for index in indices], tokenizer.pad_token_id or 0)
        input_ids, attention_mask = input_ids.to(model.device), attention_mask.to(model.device)
        if seeds is not None:
            options["seed"] = [seeds[index] for index in indices]
        began = time.perf_counter()
        output = model.generate(
            input_ids,
            attention_mask=attention_mask,
            tokenizer=tokenizer,
            **options,
        )
        output.forward_passes = output.forward_passes.cpu()  # waits for a GPU
        seconds = time.perf_counter() - began
        yield DecodedBatch(_rows_of(output, indices, input_ids.shape[1], tokenizer), seconds)


def generate_as_rows_finish(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Messages | Sequence[int]],
    *,
    batch_size: int = 8,
    chat: bool | None = None,
    done: Collection[int] = (),
    seeds: Sequence[int] | None = None,
    **generation_kwargs: Any,
) -> Iterator[DecodedBatch]:
    """
    Decodes prompts like [`generate_in_batches`], and lets the next prompt in as soon as a row is finished, so that
    none waits for the slowest of its batch (see [`~d3llm.generation.scheduler.Scheduler`]). What cannot join a batch
    that has begun is decoded by [`generate_in_batches`].

    A prompt that is `done` is skipped. The text of another does not depend on which prompts it meets, but for the
    rounding of the kernels: a batch of another size may compute another last bit.

    Args:
        model, tokenizer, prompts, batch_size, chat, done, seeds, generation_kwargs: See [`generate_in_batches`].

    Yields:
        [`DecodedBatch`]: The rows that are finished after a forward, and the seconds since the ones before.

    Raises:
        `ValueError`: As [`generate_in_batches`].
        `RuntimeError`: If a forward fails.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "chat": chat, "done": done, "seeds": seeds}
    encoded = [_token_ids(tokenizer, prompt, chat) for prompt in prompts]
    fields = {name: value for name, value in generation_kwargs.items() if value is not None}
    is_plain = bool(prompts) and batch_size > 1 and not fields.keys() & {*CALLABLES}
    config = resolve_generation_config(model, [len(row) for row in encoded], **fields) if is_plain else None
    if config is None or not may_join(model, config):
        yield from generate_in_batches(model, tokenizer, prompts, **options, **generation_kwargs)
        return
    fields["max_new_tokens"] = config.max_new_tokens
    base = fields.pop("generation_config", None)
    scheduler, index_of = Scheduler(model, tokenizer, rows=batch_size), {}
    for index in sorted(range(len(encoded)), key=lambda index: -len(encoded[index])):
        if index not in done:
            own = fields if seeds is None else {**fields, "seed": seeds[index]}
            index_of[scheduler.add(encoded[index], generation_config=base, **own)] = index
    began = time.perf_counter()
    while scheduler.is_busy():
        rows = []
        for number, output in scheduler.step().items():
            if isinstance(output, Exception):
                raise output
            index = index_of[number]
            rows += _rows_of(output, [index], len(encoded[index]), tokenizer)
        if rows:
            now = time.perf_counter()
            yield DecodedBatch(rows, now - began)
            began = time.perf_counter()


def _rows_of(output: Any, indices: list[int], width: int, tokenizer: PreTrainedTokenizerBase) -> list[DecodedRow]:
    """The rows of a `DiffusionGenerationOutput` for the prompts of these indices, which are `width` tokens long with
    their padding."""
    forwards, row_forwards = output.forward_passes.tolist(), output.row_forwards.tolist()
    assistant_forwards = output.assistant_forwards.tolist()
    generated, commit_steps = output.sequences[:, width:].tolist(), output.commit_steps.tolist()
    tokens = output.tokens.tolist()
    copies = len(generated) // len(indices)
    return [
        DecodedRow(
            index=indices[row // copies],
            sequence=row % copies,
            text=tokenizer.decode(generated[row][: tokens[row]], skip_special_tokens=True),
            tokens=tokens[row],
            forwards=forwards[row],
            row_forwards=row_forwards[row],
            token_ids=generated[row][: tokens[row]],
            commit_steps=commit_steps[row][: tokens[row]],
            tail_steps=commit_steps[row][tokens[row] :],
            assistant_forwards=assistant_forwards[row],
            history=None if output.history is None else output.history[row, : forwards[row], width:],
        )
        for row in range(len(generated))
    ]


def _token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Messages | Sequence[int], chat: bool | None
) -> list[int]:
    if not isinstance(prompt, str) and prompt and all(isinstance(token, int) for token in prompt):
        return list(prompt)  # type: ignore[arg-type]
    return encode_prompt(tokenizer, prompt, chat=chat)  # type: ignore[arg-type]


def left_pad(rows: list[list[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns `input_ids` and `attention_mask`, both of shape `(batch, longest row)` and dtype int64."""
    width = max(len(row) for row in rows)
    input_ids = torch.tensor([[pad_token_id] * (width - len(row)) + row for row in rows])
    attention_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return input_ids, attention_mask
