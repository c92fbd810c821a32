"""From a trajectory dataset to padded batches of canvases."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .trajectories import (
    RowBatch,
    check_columns,
    check_trajectories,
    read_decode_config,
    tokenizer_fingerprint,
    with_tail_steps,
)


logger = logging.get_logger(__name__)

COLUMNS = ["prompt_ids", "response_ids", "commit_steps", "tail_steps", "index"]


@dataclass(frozen=True)
class StudentFacts:
    """
    What trajectories are held against.

    Attributes:
        vocab_size (`int`): Rows of the student's embedding.
        mask_token_id (`int`): Its mask token.
        eos_token_ids (`list[int]`): Tokens that end a response.
        fill_token_id (`int`): What the decoder puts behind one.
        max_length (`int`): Largest length of prompt and generated region.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer.
    """

    vocab_size: int
    mask_token_id: int
    eos_token_ids: list[int]
    fill_token_id: int
    max_length: int
    tokenizer: PreTrainedTokenizerBase | None = None


def teacher_max_new_tokens(dataset: Dataset, name: str) -> int:
    """
    The longest generated region of the teacher's runs.

    Args:
        dataset (`Dataset`): Trajectories.
        name (`str`): What to call the dataset in an error.

    Returns:
        `int`: Positions; 0 without rows, which are refused later.

    Raises:
        `ValueError`: If the trajectories do not say it: an order that is not the teacher's has no canvas. For missing
            columns.
    """
    check_columns(dataset, name)
    configs = [read_decode_config({"decode_config": text}) for text in dataset.unique("decode_config")]
    if any(config.get("max_new_tokens") is None for config in configs):
        raise ValueError(f"{name} does not say how long the generated region is: give `max_new_tokens`.")
    return max((config["max_new_tokens"] for config in configs), default=0)


def prepare_trajectories(dataset: Dataset, student: StudentFacts, max_new_tokens: int, name: str) -> Dataset:
    """
    Checks trajectories against the student and leaves out those that do not fit into its canvas.

    Args:
        dataset (`Dataset`): With the columns of `TRAJECTORY_FEATURES`, and `tail_steps` if they are known.
        student ([`StudentFacts`]): The student.
        max_new_tokens (`int`): Positions of the generated region.
        name (`str`): What to call the dataset in an error.

    Returns:
        `Dataset`: The rows that fit, with their number as `index`.

    Raises:
        `ValueError`: For faulty rows, rows of a teacher with another mask token or tokenizer, and if no row is left.
    """
    check_columns(dataset, name)
    dataset = with_tail_steps(dataset)
    check_trajectories(dataset, vocab_size=student.vocab_size, name=name)
    for text in dataset.unique("decode_config"):
        _check_teacher(read_decode_config({"decode_config": text}), student, name)
    kept: list[np.ndarray] = []
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        rows = RowBatch(batch, name)
        rows.refuse(_holds(rows, "response_ids", [student.mask_token_id]), "has the mask token in its response")
        early = _holds(rows, "response_ids", student.eos_token_ids, before_last=True)
        rows.refuse(early, "goes on behind an EOS: a response ends with its first one")
        prompt, response = rows.lengths("prompt_ids"), rows.lengths("response_ids")
        kept.append((response <= max_new_tokens) & (prompt + response <= student.max_length))
    fits = np.concatenate(kept)
    if not fits.all():
        logger.warning(
            "%s: left out %d of %d trajectories, whose response is longer than %d tokens (`max_new_tokens`) or, with "
            "its prompt, longer than %d (`max_length`).",
            name,
            (~fits).sum(),
            len(fits),
            max_new_tokens,
            student.max_length,
        )
    if not fits.any():
        raise ValueError(
            f"{name} has no trajectory left: each is longer than `max_new_tokens` ({max_new_tokens}) or `max_length` "
            f"({student.max_length})."
        )
    dataset = dataset.select(np.flatnonzero(fits))
    return dataset.add_column("index", np.arange(len(dataset)))


def _check_teacher(decode_config: dict[str, Any], student: StudentFacts, name: str) -> None:
    if decode_config["mask_token_id"] != student.mask_token_id:
        raise ValueError(
            f"{name} comes from a teacher whose mask token is {decode_config['mask_token_id']}; the student's is "
            f"{student.mask_token_id}: they must share a tokenizer."
        )
    unknown = sorted(set(decode_config["eos_token_id"]) - set(student.eos_token_ids))
    if unknown:
        raise ValueError(
            f"{name} comes from a teacher that ends with {unknown}; the student ends with {student.eos_token_ids}: "
            "set `eos_token_id` in its generation_config.json."
        )
    taught = decode_config.get("tokenizer")
    if student.tokenizer is not None and taught is not None and taught != tokenizer_fingerprint(student.tokenizer):
        raise ValueError(
            f"{name} was made with another tokenizer or chat template than the student's: extract it again with the "
            "student's, or start from the teacher's checkpoint."
        )


def _holds(rows: RowBatch, column: str, tokens: list[int], before_last: bool = False) -> np.ndarray:
    """Which rows hold one of the tokens; with `before_last`, elsewhere than at their end."""
    lengths = rows.lengths(column)
    found = np.isin(np.asarray(rows.table[column].combine_chunks().flatten()), tokens)
    if before_last:
        found[np.cumsum(lengths) - 1] = False
    return np.add.reduceat(found, np.cumsum(lengths) - lengths) > 0


@dataclass(frozen=True)
class TrajectoryCollator:
    """
    Pads trajectories, and nothing else: what is masked is drawn when the step is known.

    Prompts are padded on the left, so that the generated regions of a batch begin in one column; a region that is
    shorter than others is padded on the right. What follows the response is the token that the decoder fills with, in
    the order of `tail_steps`. Where that is unknown, or too short, the rest was filled first: with the last of the
    steps that are known, or with the response's EOS.

    Args:
        max_new_tokens (`int`): Positions of a generated region; `max_length` may leave less.
        student ([`StudentFacts`]): The student.
    """

    max_new_tokens: int
    student: StudentFacts

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """
        Returns `input_ids` `(B, P + N)`, the clean canvas; `attention_mask` `(B, P + N)`; `commit_steps` `(B, N)`; and
        `response_lengths`, `canvas_lengths`, `ended`, `index`, all `(B,)`.
        """
        rooms = [min(self.max_new_tokens, self.student.max_length - len(row["prompt_ids"])) for row in rows]
        left, width = max(len(row["prompt_ids"]) for row in rows), max(rooms)
        canvas, valid, steps = [], [], []
        fill = [self.student.fill_token_id]
        for row, room in zip(rows, rooms, strict=True):
            padding, tail = left - len(row["prompt_ids"]), width - len(row["response_ids"])
            canvas.append(fill * padding + row["prompt_ids"] + row["response_ids"] + fill * tail)
            valid.append([0] * padding + [1] * (left - padding + room) + [0] * (width - room))
            known = row["commit_steps"] + row["tail_steps"]
            steps.append((known + known[-1:] * tail)[:width])
        return {
            "input_ids": torch.tensor(canvas),
            "attention_mask": torch.tensor(valid),
            "commit_steps": torch.tensor(steps),
            "response_lengths": torch.tensor([len(row["response_ids"]) for row in rows]),
            "canvas_lengths": torch.tensor(rooms),
            "ended": torch.tensor([row["response_ids"][-1] in self.student.eos_token_ids for row in rows]),
            "index": torch.tensor([row["index"] for row in rows]),
        }
