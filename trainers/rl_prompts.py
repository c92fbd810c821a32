"""Prompts to roll out, with the columns that rewards compare with."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..evaluation import encode_prompt
from ..trajectories.dataset import without_tensors
from ..trajectories.prompt_rows import check_ids


logger = logging.get_logger(__name__)

PROMPT, PROMPT_IDS = "prompt", "prompt_ids"


def prepare_prompts(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, *, vocab_size: int, longest: int) -> Dataset:
    """
    Tokenizes prompts, checks them, and skips those that are too long.

    Args:
        dataset (`Dataset`): With `prompt`, a text or a list of messages, or `prompt_ids`.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        vocab_size (`int`): No id may reach it.
        longest (`int`): Tokens that a prompt may have.

    Returns:
        `Dataset`: With `prompt_ids`, and its other columns.

    Raises:
        `ValueError`: If it is not a dataset, for missing columns, a prompt that is empty or not in the vocabulary, and
            if none is left.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"`train_dataset` is a {type(dataset).__name__}: expected one `datasets.Dataset` of prompts.")
    dataset = without_tensors(dataset)
    columns = dataset.column_names
    if PROMPT not in columns and PROMPT_IDS not in columns:
        raise ValueError(f"`train_dataset` has no `prompt`, only {', '.join(columns)}: rename the column.")
    if PROMPT_IDS not in columns:
        ids = [_encode(tokenizer, prompt, row) for row, prompt in enumerate(dataset[PROMPT])]
        dataset = dataset.add_column(PROMPT_IDS, ids)
    lengths = []
    for row, prompt in enumerate(dataset[PROMPT_IDS]):
        try:
            if not prompt:
                raise ValueError("it is empty")
            check_ids(prompt, vocab_size)
        except ValueError as error:
            raise ValueError(f"The prompt of row {row} cannot be used: {error}.") from error
        lengths.append(len(prompt))
    fits = [row for row, length in enumerate(lengths) if length <= longest]
    if not fits:
        raise ValueError(
            f"None of {len(lengths)} prompts has at most {longest} tokens, which `max_new_tokens` leaves to it in "
            "`max_length`: change one of them."
        )
    if len(fits) < len(lengths):
        logger.warning(
            "Skipped %d of %d prompts, which have more than %d tokens.",
            len(lengths) - len(fits),
            len(lengths),
            longest,
        )
    return dataset.select(fits)


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Any, row: int) -> list[int]:
    try:
        return encode_prompt(tokenizer, prompt)
    except ValueError as error:
        raise ValueError(f"The prompt of row {row} cannot be used: {error}.") from error


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of rows as lists, with `prompts` for `prompt`, as reward functions take them."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["prompts"] = columns.pop(PROMPT, columns[PROMPT_IDS])
    return columns
