"""From a trajectory dataset to padded batches of canvases."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..evaluation import resolve_generation_config
from ..trajectories.dataset import (
    NO_ORDER,
    RowBatch,
    cast_columns,
    check_columns,
    check_trajectories,
    read_decode_config,
    with_optional_columns,
    without_tensors,
)
from ..trajectories.fingerprints import is_tokenizer_of
from ..trajectories.row import OPTIONAL, PER_POSITION, STORED_FEATURES
from .completions import column_names, encode_completions, has_completions
from .pseudo_trajectory_config import PseudoTrajectoryConfig
from .streams import TrajectoryStream


logger = logging.get_logger(__name__)

LENGTH = "length"  # of the canvas, for `train_sampling_strategy="group_by_length"`
COLUMNS = ["id", *PER_POSITION, "index"]


@dataclass(frozen=True)
class StudentFacts:
    """
    The facts about a student that trajectories are checked against.

    Attributes:
        vocab_size (`int`): Rows of the student's embedding.
        mask_token_id (`int`): Its mask token.
        eos_token_ids (`list[int]`): Tokens that end a response.
        fill_token_id (`int`): The token that the decoder puts after the end of a response.
        max_length (`int`): Largest length of prompt and generated region, in tokens.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer.
    """

    vocab_size: int
    mask_token_id: int
    eos_token_ids: list[int]
    fill_token_id: int
    max_length: int
    tokenizer: PreTrainedTokenizerBase | None = None


def named_eval_datasets(eval_dataset: Any) -> dict[str, Any]:
    """Evaluation datasets by their name in errors: one, several from a dict, or none."""
    if isinstance(eval_dataset, dict):
        return {f"eval_dataset[{key!r}]": dataset for key, dataset in eval_dataset.items()}
    return {} if eval_dataset is None else {"eval_dataset": eval_dataset}


def unnamed_eval_datasets(eval_dataset: Any, named: dict[str, Any]) -> Any:
    """Undoes [`named_eval_datasets`]: returns the datasets in the original form of `eval_dataset`."""
    if isinstance(eval_dataset, dict):
        return dict(zip(eval_dataset, named.values(), strict=True))
    return named.get("eval_dataset")


def student_facts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, max_length: int | None = None
) -> StudentFacts:
    """
    Collects the facts about a student.

    Args:
        model (`PreTrainedModel`): The student, without adapters around it.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer.
        max_length (`int`, *optional*): Largest length of prompt and generated region, in tokens; by default the
            model's.

    Returns:
        [`StudentFacts`]: The facts.

    Raises:
        `ValueError`: If neither the config nor `max_length` limits the canvas, and for a model with causal attention.
    """
    if getattr(model, "attention", None) == "causal":
        raise ValueError(
            f"{type(model).__name__} was trained with causal attention over slots, which no recipe does: choose a "
            "student of another family."
        )
    if max_length is None and model.config.max_position_embeddings is None:
        raise ValueError("The model's config does not state its number of positions: give --max_length.")
    special = model.special_tokens(resolve_generation_config(model, [1]))
    embedding = model.get_input_embeddings().weight
    return StudentFacts(
        vocab_size=getattr(embedding, "ds_shape", embedding.shape)[0],  # the full shape, if ZeRO has sharded it
        mask_token_id=special.mask,
        eos_token_ids=special.eos,
        fill_token_id=special.fill,
        max_length=max_length or model.config.max_position_embeddings,
        tokenizer=tokenizer,
    )


def check_needs_no_order(args: PseudoTrajectoryConfig, name: str) -> None:
    """Raises a `ValueError` for a recipe that needs commit steps, on data without them."""
    needs = {
        f"corruption={args.corruption!r}": args.corruption in ("trajectory", "state"),
        "`kl_weight`": args.kl_weight and args.near_forwards,
        "`order_weight`": args.order_weight,
        "`next_commits`": args.next_commits,
    }
    if any(needs.values()):
        first = next(what for what, is_so in needs.items() if is_so)
        raise ValueError(
            f"{name} holds prompts and completions, which have no commit steps, but {first} needs them: set "
            "corruption='random' (with `kl_weight` and `order_weight` 0, without `next_commits`), or record them with "
            "`d3llm extract`."
        )


def as_trajectories(
    dataset: Any, name: str, student: StudentFacts, args: PseudoTrajectoryConfig
) -> Dataset | IterableDataset:
    """
    Converts prompts and completions to trajectories without an order. Trajectories are cast, unless they are a stream.

    Args:
        dataset (`Dataset` or `IterableDataset`): Trajectories, or prompts and completions.
        name (`str`): The name of the dataset in errors.
        student ([`StudentFacts`]): The student.
        args ([`PseudoTrajectoryConfig`]): The recipe, which may need an order.

    Returns:
        `Dataset` or `IterableDataset`: With the columns of `TRAJECTORY_FEATURES`.

    Raises:
        `ValueError`: If it is not a dataset, for missing columns and columns of other types, for rows without an order
            where the recipe needs one, and for prompts and completions without a tokenizer.
    """
    if not isinstance(dataset, Dataset | IterableDataset):
        raise ValueError(
            f"`{name}` is a {type(dataset).__name__}: expected one `datasets.Dataset` of trajectories, as from "
            "`load_trajectories`, or of prompts and completions (`concatenate_datasets` joins several)."
        )
    dataset = without_tensors(dataset) if isinstance(dataset, Dataset) else dataset.with_format(None)
    columns = column_names(dataset)
    is_ordinary, is_stream = has_completions(columns), isinstance(dataset, IterableDataset)
    if not is_ordinary:
        check_columns(columns, name)
    if is_ordinary or NO_ORDER in sources(dataset):
        check_needs_no_order(args, name)
    if not is_ordinary:
        return dataset if is_stream else cast_columns(with_optional_columns(dataset), STORED_FEATURES, name)
    if student.tokenizer is None:
        raise ValueError(f"{name} holds texts, but there is no tokenizer for them: give a `processing_class`.")
    return encode_completions(
        dataset,
        student.tokenizer,
        mask_token_id=student.mask_token_id,
        eos_token_ids=student.eos_token_ids,
        name=name,
    )


def sources(dataset: Dataset | IterableDataset) -> list[str]:
    """Where the orders of trajectories come from; of an iterable dataset, that of the first row."""
    if isinstance(dataset, IterableDataset):
        return [row["source"] for row in dataset.take(1)]
    return dataset.unique("source")


def teacher_max_new_tokens(dataset: Dataset | IterableDataset, name: str) -> int:
    """
    The length of the longest generated region in the teacher's runs. For an iterable dataset, only the first row
    counts.

    Args:
        dataset (`Dataset` or `IterableDataset`): Trajectories.
        name (`str`): The name of the dataset in errors.

    Returns:
        `int`: In positions; 0 for a dataset without rows, which is refused later.

    Raises:
        `ValueError`: If the trajectories do not record it: an order that is not the teacher's has no canvas.
    """
    if isinstance(dataset, IterableDataset):
        texts = [row["decode_config"] for row in dataset.take(1)]
    else:
        texts = dataset.unique("decode_config")
    configs = [read_decode_config({"decode_config": text}) for text in texts]
    if any(config.get("max_new_tokens") is None for config in configs):
        raise ValueError(f"{name} does not record the length of the generated region: give `max_new_tokens`.")
    return max((config["max_new_tokens"] for config in configs), default=0)


def region_length(datasets: dict[str, Dataset | IterableDataset], model: PreTrainedModel) -> int:
    """
    The length of the generated region when `max_new_tokens` is not given.

    Args:
        datasets (`dict[str, Dataset | IterableDataset]`): Trajectories, by their name in errors.
        model (`PreTrainedModel`): The student.

    Returns:
        `int`: In positions. It is the teacher's length; for rows without an order, the student's default.

    Raises:
        `ValueError`: As from [`teacher_max_new_tokens`].
    """
    lengths = [1]
    for name, dataset in datasets.items():
        if next((row["source"] for row in dataset.take(1)), None) == NO_ORDER:
            lengths.append(resolve_generation_config(model, [1]).max_new_tokens)
        else:
            lengths.append(teacher_max_new_tokens(dataset, name))
    return max(lengths)


def prepare_trajectories(
    dataset: Dataset | IterableDataset, student: StudentFacts, max_new_tokens: int, name: str
) -> Dataset | TrajectoryStream:
    """
    Checks trajectories against the student and drops those that do not fit into its canvas.

    Args:
        dataset (`Dataset` or `IterableDataset`): With the columns of `TRAJECTORY_FEATURES`, and `tail_steps` if they
            are known. An iterable dataset is checked in batches while it is read.
        student ([`StudentFacts`]): The student.
        max_new_tokens (`int`): Positions of the generated region.
        name (`str`): The name of the dataset in errors.

    Returns:
        `Dataset` or [`~d3llm.trainers.streams.TrajectoryStream`]: The rows that fit, with their number as `index`;
        those of a dataset with the size of their canvas as `length`.

    Raises:
        `ValueError`: For faulty rows, for a teacher with another mask token or tokenizer, and if no row is left.
    """
    if isinstance(dataset, IterableDataset):
        return _prepare_stream(dataset, student, max_new_tokens, name)
    fits = _check_rows(dataset, student, max_new_tokens, name)
    if not fits.any():
        raise ValueError(
            f"{name} has no trajectory left: each is longer than `max_new_tokens` ({max_new_tokens}) or `max_length` "
            f"({student.max_length})."
        )
    dataset = dataset.select(np.flatnonzero(fits))
    dataset = dataset.add_column("index", np.arange(len(dataset)))
    prompts = np.concatenate(
        [RowBatch(batch, name).lengths("prompt_ids") for batch in dataset.with_format("arrow").iter(batch_size=10_000)]
    )
    dataset = dataset.remove_columns([LENGTH] if LENGTH in dataset.column_names else [])
    return dataset.add_column(LENGTH, np.minimum(prompts + max_new_tokens, student.max_length))


def _prepare_stream(
    dataset: IterableDataset, student: StudentFacts, max_new_tokens: int, name: str
) -> TrajectoryStream:
    def prepare(batch: dict[str, list]) -> Dataset:
        count = len(next(iter(batch.values())))
        missing = {column: [default] * count for column, default in OPTIONAL.items()}
        columns = missing | {column: batch[column] for column in STORED_FEATURES if column in batch}
        rows = Dataset.from_dict(columns, features=STORED_FEATURES)
        return rows.select(np.flatnonzero(_check_rows(rows, student, max_new_tokens, name)))

    return TrajectoryStream(dataset, prepare)


def _check_rows(dataset: Dataset, student: StudentFacts, max_new_tokens: int, name: str) -> np.ndarray:
    """Raises a `ValueError` for faulty rows. Returns which of the others fit, and warns about those that do not."""
    check_trajectories(dataset, vocab_size=student.vocab_size, name=name)
    for text in dataset.unique("decode_config"):
        _check_teacher(read_decode_config({"decode_config": text}), student, name)
    kept: list[np.ndarray] = []
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        rows = RowBatch(batch, name)
        rows.refuse(_holds(rows, "response_ids", [student.mask_token_id]), "has the mask token in its response")
        early = _holds(rows, "response_ids", student.eos_token_ids, before_last=True)
        rows.refuse(early, "continues after an EOS: a response ends with its first one")
        prompt, response = rows.lengths("prompt_ids"), rows.lengths("response_ids")
        kept.append((response <= max_new_tokens) & (prompt + response <= student.max_length))
    fits = np.concatenate(kept)
    if not fits.all():
        logger.warning(
            "%s: skipped %d of %d rows, whose response is longer than %d tokens (`max_new_tokens`) or, with its "
            "prompt, longer than %d (`max_length`).",
            name,
            (~fits).sum(),
            len(fits),
            max_new_tokens,
            student.max_length,
        )
    return fits


def _check_teacher(decode_config: dict[str, Any], student: StudentFacts, name: str) -> None:
    if decode_config["mask_token_id"] is None:
        raise ValueError(
            f"{name} holds texts of an autoregressive model, which train a drafter (recipe introspective_smollm2): "
            "for a masked-diffusion student, extract them again with --order left_to_right."
        )
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
    if student.tokenizer is not None and taught is not None and not is_tokenizer_of(taught, student.tokenizer):
        raise ValueError(
            f"{name} was made with another tokenizer or chat template than the student's: extract it again with the "
            "student's, or start from the teacher's checkpoint."
        )


def _holds(rows: RowBatch, column: str, tokens: list[int], before_last: bool = False) -> np.ndarray:
    """Which rows hold one of the tokens; with `before_last`, at any place but their last."""
    lengths = rows.lengths(column)
    found = np.isin(np.asarray(rows.table[column].combine_chunks().flatten()), tokens)
    if before_last:
        found[np.cumsum(lengths) - 1] = False
    return np.add.reduceat(found, np.cumsum(lengths) - lengths) > 0


@dataclass(frozen=True)
class TrajectoryCollator:
    """
    Pads trajectories. It masks nothing: masks are drawn later, when the optimizer step is known.

    Prompts are padded on the left, so that all generated regions of a batch start in the same column. Shorter regions
    are padded on the right. After the response come the tokens that the decoder fills with, with `tail_steps` as their
    commit steps. Where these are unknown or too few, the remaining positions get the last known commit step: that of
    the tail, or that of the response's EOS.

    Args:
        max_new_tokens (`int`): Positions of a generated region; `max_length` may leave fewer.
        student ([`StudentFacts`]): The student.
    """

    max_new_tokens: int
    student: StudentFacts

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Returns `input_ids` `(B, P + N)`, the clean canvas; `attention_mask` `(B, P + N)`; `commit_steps` `(B, N)`; and
        `response_lengths`, `canvas_lengths`, `ended`, `index`, all `(B,)`; and `ids`, the names of the rows.
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
            "ids": [row["id"] for row in rows],
        }
