"""Decodes a list of prompts with one preset and measures accuracy, TPF and TPS."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .batches import generate_in_batches


@dataclass(frozen=True)
class DecodedPrompt:
    """
    What became of one prompt.

    Attributes:
        text (`str`): The decoded tokens up to the first EOS, special tokens left out.
        correct (`bool`): Verdict of the checker.
        tokens (`int`): Generated tokens up to and including the first EOS.
        forwards (`int`): Forwards of the transformer for this row.
        row_forwards (`int`): Rows of these forwards that are its own: more with drafts and guidance.
    """

    text: str
    correct: bool
    tokens: int
    forwards: int
    row_forwards: int


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
    def row_forwards(self) -> int:
        """Row forwards, summed over the prompts."""
        return sum(record.row_forwards for record in self.records)

    @property
    def tokens_per_forward(self) -> float:
        """TPF: the sum of the tokens divided by the sum of the forwards."""
        return self.tokens / self.forwards

    @property
    def tokens_per_second(self) -> float:
        """TPS: the sum of the tokens divided by the wall time."""
        return self.tokens / self.seconds


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """
    Wilson score interval of a proportion (Wilson 1927), which stays within 0 and 1 also at 0 or `total` successes.

    Args:
        successes (`int`): How many succeeded.
        total (`int`): How many were tried, at least 1.

    Returns:
        `tuple[float, float]`: Lower and upper end of the 95 % interval.
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f"Expected 0 <= successes <= total and total >= 1, got {successes} of {total}.")
    z = 1.959964  # normal quantile of 95 %
    share = successes / total
    center = share + z * z / (2 * total)
    margin = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (center - margin) / scale), min(1.0, (center + margin) / scale)


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
    Decodes prompts in batches (see [`generate_in_batches`]) and checks every text.

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
    check_one_sequence(generation_kwargs)
    generation_kwargs |= {"preset": preset, "num_return_sequences": 1}
    records: dict[int, DecodedPrompt] = {}
    seconds = 0.0
    for batch in generate_in_batches(model, tokenizer, prompts, batch_size=batch_size, chat=chat, **generation_kwargs):
        seconds += batch.seconds
        for row in batch.rows:
            correct = check(row.index, row.text)
            records[row.index] = DecodedPrompt(row.text, correct, row.tokens, row.forwards, row.row_forwards)
        if progress is not None:
            progress(len(batch.rows))
    return DecodingResult([records[index] for index in range(len(prompts))], seconds)


def check_one_sequence(fields: Mapping[str, Any]) -> None:
    """Raises a `ValueError` for fields of decoding that ask for several texts of a prompt."""
    if (fields.get("num_return_sequences") or 1) != 1:
        raise ValueError("`num_return_sequences` must be 1 here: a prompt is correct or not by one text.")
