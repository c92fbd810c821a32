"""Pre-flight checks of a training: each raises a `ValueError` that names the fix, before the first step."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from ..common.processes import check_joined
from ..evaluation import generate_in_batches, resolve_generation_config
from ..generation.fields import suggestion
from ..modeling import family_names
from ..modeling.remote_code import check_code
from .adapters import check_head, check_tuner
from .collator import teacher_max_new_tokens
from .pseudo_trajectory_config import PseudoTrajectoryConfig


def check_canvas(
    args: PseudoTrajectoryConfig, positions: int | None, datasets: dict[str, Dataset | IterableDataset]
) -> None:
    """Refuses a canvas that the decoder would refuse too."""
    taught = 0
    with contextlib.suppress(ValueError):  # for rows that do not record it, which `region_length` reports
        taught = max(teacher_max_new_tokens(dataset, name) for name, dataset in datasets.items())
    hint = f"; the teacher's runs have --max_new_tokens {taught}" if taught else ""
    if args.max_length is not None and positions is not None and args.max_length > positions:
        raise ValueError(
            f"`max_length` is {args.max_length}, but the model has {positions} positions for prompt and response: "
            f"give --max_length {positions} or less{hint}."
        )
    limit = args.max_length or positions
    if args.max_new_tokens is not None and limit is not None and args.max_new_tokens > limit:
        raise ValueError(
            f"`max_new_tokens` is {args.max_new_tokens}, more than the {limit} positions of prompt and response "
            f"(`max_length`): give less{hint}."
        )


def check_models(
    args: PseudoTrajectoryConfig, model: Any, model_init: Any, teacher: Any, *, with_optimizers: bool
) -> None:
    """Refuses a student, a teacher and optimizers that contradict each other."""
    if (model is None) == (model_init is None):
        raise ValueError("Which student? Give one of `model` and `model_init`.")
    if model_init is not None and with_optimizers:
        raise ValueError("`optimizers` belong to one model, but `model_init` creates several: omit one of the two.")
    if teacher is not None and not args.needs_teacher:
        raise ValueError(
            "A `teacher` is for recipes with `ddo_weight` or `kl_weight`, which is 0: omit it, or set a weight."
        )
    if teacher is not None and teacher is model:
        raise ValueError("The teacher is the student itself, which changes: load the teacher once more.")


def prepare_student(model: PreTrainedModel | PeftModel, args: TrainingArguments) -> PreTrainedModel:
    """
    Checks a model that will be trained, and lets gradients reach adapters through checkpointed layers.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model, with its adapters.
        args (`TrainingArguments`): Whether layers are checkpointed, and whether the model will be saved.

    Returns:
        `PreTrainedModel`: The model inside the adapters, or the model itself.

    Raises:
        `ValueError`: For another kind of model, adapters that the losses cannot train, a quantized LM head, a model
            of which nothing is trained, and one that cannot be saved, since its code cannot.
    """
    base = model.get_base_model() if is_peft_model(model) else model
    if not hasattr(base, "logit_rows"):
        raise ValueError(f"`model` is a {type(base).__name__}: expected a masked-diffusion model, {family_names()}.")
    if is_peft_model(model):
        check_tuner(model.active_peft_config)
        check_head(model)
        if args.gradient_checkpointing:
            model.enable_input_require_grads()
    check_head_weight(base, "student")
    check_trainable(model)
    if args.save_strategy != "no":
        check_code(base)
    return base


def check_trainable(model: nn.Module) -> None:
    """Refuses a model of which nothing is trained, such as adapters that were loaded for inference."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "No weight of the model requires a gradient: load adapters with `is_trainable=True`, or thaw the weights "
            "to train (`requires_grad_`)."
        )


def check_head_weight(model: PreTrainedModel, whose: str) -> None:
    """Refuses a quantized LM head: the losses use its weight directly, on chunks of positions."""
    head = model.get_output_embeddings()
    weight = head.weight
    shape = getattr(weight, "ds_shape", weight.shape)  # the full shape, if ZeRO has sharded the weight
    # torchao's weights look like those that they stand for; DTensor is also a wrapper, of a share of the weight.
    is_wrapped = is_traceable_wrapper_subclass(weight) and not isinstance(weight, DTensor)
    if is_wrapped or weight.dtype.itemsize == 1 or tuple(shape) != (head.out_features, head.in_features):
        raise ValueError(
            f"The LM head of the {whose} is packed (quantized), but the losses need its weight: exclude it from the "
            "quantization (`llm_int8_skip_modules`, `modules_to_not_convert`)."
        )


def check_teacher(teacher: PreTrainedModel, student: PreTrainedModel, mask_token_id: int) -> None:
    """Refuses a teacher with another vocabulary or mask token, with which the divergence has no meaning."""
    if is_peft_model(teacher):
        raise ValueError("The teacher has adapters: merge them first, with `merge_and_unload()`.")
    check_head_weight(teacher, "teacher")
    rows = [model.get_output_embeddings().out_features for model in (teacher, student)]
    if rows[0] != rows[1]:
        raise ValueError(
            f"The teacher has a vocabulary of {rows[0]} tokens, the student one of {rows[1]}: choose a teacher with "
            "the student's."
        )
    mask = teacher.special_tokens(resolve_generation_config(teacher, [1])).mask
    if mask != mask_token_id:
        raise ValueError(
            f"The teacher's mask token is {mask}, the student's {mask_token_id}: choose a teacher with the student's."
        )


def check_processes(accelerator: Accelerator, world_size: int) -> None:
    """Refuses processes that have not joined one group: each would train a separate model."""
    check_joined(accelerator.num_processes if accelerator.use_distributed else 1, world_size)


def check_precision(model: nn.Module, has_float32_copy: bool) -> None:
    """Refuses to train 16-bit weights alone: small steps round to nothing, so most weights would never change."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    low = [str(dtype).removeprefix("torch.") for dtype in (torch.bfloat16, torch.float16) if dtype in dtypes]
    if low and not has_float32_copy:
        raise ValueError(
            f"The weights to train are {low[0]}, in which small steps are rounded away, and there is no float32 copy: "
            "load the model with dtype float32 (bf16 autocast still applies), train adapters (--use_peft), or use "
            "DeepSpeed or FSDP with mixed precision; see docs/training.md."
        )


def check_best_metric(args: PseudoTrajectoryConfig, metrics: Collection[str]) -> None:
    """Refuses an unknown `metric_for_best_model`, which would otherwise end the run after the first evaluation."""
    name = (args.metric_for_best_model or "").removeprefix("eval_")
    if name and args.eval_strategy != "no" and name not in metrics:
        raise ValueError(
            f"`metric_for_best_model` is {args.metric_for_best_model!r}, which is not a metric of the evaluation"
            f"{suggestion(name, metrics)}: expected one of {', '.join(metrics)}."
        )


def check_held_out(
    prompts: Sequence[Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    fields: dict[str, Any],
) -> None:
    """Refuses held-out prompts that the first evaluation could not decode."""
    if tokenizer is None:
        raise ValueError("`held_out` is decoded to text: give a `processing_class`.")
    try:
        if fields.get("num_return_sequences", 1) != 1:
            raise ValueError("`num_return_sequences` must be 1")
        resolve_generation_config(model, [1], **fields)
        done = range(len(prompts))  # with every prompt done, only the decoding itself is skipped
        list(generate_in_batches(model, tokenizer, prompts, done=done, **fields))
    except ValueError as error:
        raise ValueError(f"`held_out` cannot be decoded with `eval_generation_kwargs` {fields}: {error}") from error
