"""What ends a training before its first step: each check raises a `ValueError` that says the way out."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..common.processes import check_joined
from ..evaluation import generate_in_batches, resolve_generation_config
from ..generation.fields import suggestion
from .collator import teacher_max_new_tokens
from .pseudo_trajectory_config import PseudoTrajectoryConfig


def check_canvas(
    args: PseudoTrajectoryConfig, positions: int | None, datasets: dict[str, Dataset | IterableDataset]
) -> None:
    """A canvas that no decoder takes is not trained either."""
    taught = 0
    with contextlib.suppress(ValueError):  # of rows that do not say it; what is wrong with them is said in its place
        taught = max(teacher_max_new_tokens(dataset, name) for name, dataset in datasets.items())
    way_out = f"; the teacher's runs have --max_new_tokens {taught}" if taught else ""
    if args.max_length is not None and positions is not None and args.max_length > positions:
        raise ValueError(
            f"`max_length` is {args.max_length}, and the model has {positions} positions for prompt and response: "
            f"give --max_length {positions} or less{way_out}."
        )
    limit = args.max_length or positions
    if args.max_new_tokens is not None and limit is not None and args.max_new_tokens >= limit:
        raise ValueError(
            f"`max_new_tokens` is {args.max_new_tokens}, which leaves no room for a prompt in the {limit} positions "
            f"of prompt and response (`max_length`): give less{way_out}."
        )


def check_head_weight(model: PreTrainedModel, whose: str) -> None:
    """The losses take the weight of the LM head as it is, a chunk of positions at a time."""
    head = model.get_output_embeddings()
    weight = head.weight
    shape = getattr(weight, "ds_shape", weight.shape)  # of a weight that ZeRO has sharded
    if weight.dtype.itemsize == 1 or tuple(shape) != (head.out_features, head.in_features):
        raise ValueError(
            f"The LM head of the {whose} is packed (quantized), and the losses take its weight: leave it out of the "
            "quantization (`llm_int8_skip_modules`, `modules_to_not_convert`)."
        )


def check_teacher(teacher: PreTrainedModel, student: PreTrainedModel, mask_token_id: int) -> None:
    """The divergence compares two distributions over the same tokens, of the same noisy canvas."""
    check_head_weight(teacher, "teacher")
    rows = [model.get_output_embeddings().out_features for model in (teacher, student)]
    if rows[0] != rows[1]:
        raise ValueError(
            f"The teacher has a vocabulary of {rows[0]} tokens, the student of {rows[1]}: take one with the same."
        )
    mask = teacher.special_tokens(resolve_generation_config(teacher, [1])).mask
    if mask != mask_token_id:
        raise ValueError(f"The teacher's mask token is {mask}, the student's {mask_token_id}: take one with the same.")


def check_processes(accelerator: Accelerator, world_size: int) -> None:
    """Each of several processes that do not know of each other would train a model of its own."""
    check_joined(accelerator.num_processes if accelerator.use_distributed else 1, world_size)


def check_precision(model: nn.Module, has_float32_copy: bool) -> None:
    """A step of a small learning rate is less than half a unit of 16 bits: most weights would never change."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    low = [str(dtype).removeprefix("torch.") for dtype in (torch.bfloat16, torch.float16) if dtype in dtypes]
    if low and not has_float32_copy:
        raise ValueError(
            f"The weights to train are {low[0]}, in which small steps are rounded away, and nothing keeps them in "
            "float32: load the model with dtype float32 (bf16 autocast stays), train adapters (--use_peft), or "
            "use DeepSpeed or FSDP with mixed precision; see docs/training.md."
        )


def check_best_metric(args: PseudoTrajectoryConfig, metrics: Collection[str]) -> None:
    """`metric_for_best_model` is one of those that an evaluation gives; a wrong name would end the run after one."""
    name = (args.metric_for_best_model or "").removeprefix("eval_")
    if name and args.eval_strategy != "no" and name not in metrics:
        raise ValueError(
            f"`metric_for_best_model` is {args.metric_for_best_model!r}, which no evaluation gives"
            f"{suggestion(name, metrics)}: expected one of {', '.join(metrics)}."
        )


def check_held_out(
    prompts: Sequence[Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    fields: dict[str, Any],
) -> None:
    """What the first evaluation would stumble over ends the run before its first step."""
    if tokenizer is None:
        raise ValueError("`held_out` is decoded to text: give a `processing_class`.")
    try:
        if fields.get("num_return_sequences", 1) != 1:
            raise ValueError("`num_return_sequences` must be 1")
        resolve_generation_config(model, [1], **fields)
        everything = range(len(prompts))  # counts as done: all but the decoding is tried
        list(generate_in_batches(model, tokenizer, prompts, done=everything, **fields))
    except ValueError as error:
        raise ValueError(f"`held_out` cannot be decoded with `eval_generation_kwargs` {fields}: {error}") from error
