"""Decodes a list of prompts with one preset and measures accuracy, TPF and TPS."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class DecodedPrompt:
    """
    What became of one prompt.

    Attributes:
        text (`str`): The decoded tokens up to the first EOS, special tokens left out.
        correct (`bool`): Verdict of the checker.
        tokens (`int`): Generated tokens up to and including the first EOS.
        forwards (`int`): Forwards of the transformer for this row.
    """

    text: str
    correct: bool
    tokens: int
    forwards: int


@dataclass(frozen=True)
class DecodingResult:
    """
    Accuracy and parallelism of one model and preset over a list of prompts.

    Attributes:
        records (`list[DecodedPrompt]`): One record per prompt, in the order of the prompts.
        seconds (`float`): Wall time spent inside `generate`, all batches together.
    """

    records: list[DecodedPrompt]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of correct prompts, 0 to 1."""
        return sum(record.correct for record in self.records) / len(self.records)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(sum(record.correct for record in self.records), len(self.records))

    @property
    def tokens(self) -> int:
        """Generated tokens up to and including the first EOS, summed over the prompts."""
        return sum(record.tokens for record in self.records)

    @property
    def forwards(self) -> int:
        """Forwards, summed over the prompts (a batch of 8 that takes 10 forwards counts 80)."""
        return sum(record.forwards for record in self.records)

    @property
    def tokens_per_forward(self) -> float:
        """TPF: the sum of the tokens divided by the sum of the forwards."""
        return self.tokens / self.forwards

    @property
    def tokens_per_second(self) -> float:
        """TPS: the sum of the tokens divided by the wall time."""
        return self.tokens / self.seconds


def wilson_interval(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """
    Wilson score interval of a proportion (Wilson 1927), which stays within 0 and 1 also at 0 or `total` successes.

    Args:
        successes (`int`): How many succeeded.
        total (`int`): How many were tried, at least 1.
        z (`float`, *optional*, defaults to 1.959964): Normal quantile; the default gives 95 %.

    Returns:
        `tuple[float, float]`: Lower and upper end.
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f"Expected 0 <= successes <= total and total >= 1, got {successes} of {total}.")
    share = successes / total
    center = share + z * z / (2 * total)
    margin = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (center - margin) / scale), min(1.0, (center + margin) / scale)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, *, chat: bool | None = None) -> list[int]:
    """
    Token ids of a prompt, as a user's turn of a chat or as plain text.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        prompt (`str`): The prompt; not empty.
        chat (`bool`, *optional*): Whether to put the prompt into the chat template. By default it is put there when
            the tokenizer has one.

    Returns:
        `list[int]`: The ids, without padding.
    """
    if not prompt.strip():
        raise ValueError("The prompt is empty: give at least one word.")
    if chat is None:
        chat = tokenizer.chat_template is not None
    if not chat:
        return tokenizer(prompt)["input_ids"]
    if tokenizer.chat_template is None:
        raise ValueError("The tokenizer has no chat template: use `chat=False` (on the command line `--no-chat`).")
    messages = [{"role": "user", "content": prompt}]
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    except TemplateError as error:
        raise ValueError(f"The tokenizer's chat template cannot be used: {error}") from error


def evaluate_decoding(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    check: Callable[[int, str], bool],
    *,
    preset: str | None = None,
    batch_size: int = 8,
    chat: bool | None = None,
    progress: Callable[[int], None] | None = None,
    **generation_kwargs: Any,
) -> DecodingResult:
    """
    Decodes prompts in left-padded batches of similar length.

    Args:
        model (`PreTrainedModel`): A model whose `generate` is the decoder of `d3llm.generation`.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        prompts (`Sequence[str]`): The prompts; at least one.
        check (`Callable[[int, str], bool]`): Called with the index of a prompt and the decoded text; returns whether
            the text is correct.
        preset (`str`, *optional*): Name of a preset.
        batch_size (`int`, *optional*, defaults to 8): Rows per batch.
        chat (`bool`, *optional*): See [`encode_prompt`].
        progress (`Callable[[int], None]`, *optional*): Called after each batch with the number of its rows.
        generation_kwargs: Further fields of `DiffusionGenerationConfig`, such as `max_new_tokens`.

    Returns:
        [`DecodingResult`]: Records in the order of the prompts, and the wall time.
    """
    if not prompts:
        raise ValueError("`prompts` is empty: give at least one prompt.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    encoded = [encode_prompt(tokenizer, prompt, chat=chat) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    records: dict[int, DecodedPrompt] = {}
    seconds = 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        input_ids, attention_mask = _left_pad([encoded[index] for index in rows], tokenizer.pad_token_id or 0)
        input_ids, attention_mask = input_ids.to(model.device), attention_mask.to(model.device)
        began = time.perf_counter()
        output = model.generate(
            input_ids,
            attention_mask=attention_mask,
            preset=preset,
            return_dict_in_generate=True,
            **generation_kwargs,
        )
        if input_ids.is_cuda:
            torch.cuda.synchronize()
        seconds += time.perf_counter() - began
        generated = output.sequences[:, input_ids.shape[1] :]
        lengths = (output.tokens_per_forward * output.forward_passes).round().long().tolist()
        forwards = output.forward_passes.tolist()
        for row, index in enumerate(rows):
            text = tokenizer.decode(generated[row, : lengths[row]], skip_special_tokens=True)
            records[index] = DecodedPrompt(text, check(index, text), lengths[row], forwards[row])
        if progress is not None:
            progress(len(rows))
    return DecodingResult([records[index] for index in range(len(prompts))], seconds)


def _left_pad(rows: list[list[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask`, both `(batch, longest row)` long."""
    width = max(len(row) for row in rows)
    input_ids = torch.tensor([[pad_token_id] * (width - len(row)) + row for row in rows])
    attention_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return input_ids, attention_mask
