"""What the weights that a training gives depend on, kept in its folder: only the same training goes on there."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import logging
from trl import ModelConfig

from ..evaluation.files import write_atomically
from .extract import weights_fingerprint
from .pseudo_trajectory_config import PseudoTrajectoryConfig


logger = logging.get_logger(__name__)

PLAN_FILE = "training_plan.json"

# Fields of the recipe that leave the weights as they are.
WITHOUT_EFFECT = {
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "ddp_find_unused_parameters",
    "eval_generation_kwargs",
    "gradient_checkpointing",
    "logging_nan_inf_filter",
    "model_init_kwargs",
}
# Of the training arguments, those that change the weights. Not the number of processes: `samples_per_step` has it.
TRAINING_ARGUMENTS = (
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "optim_target_modules",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "dataloader_drop_last",
    "train_sampling_strategy",
    "ignore_data_skip",
)
ADAPTERS = (
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_target_parameters",
    "lora_modules_to_save",
    "use_rslora",
    "use_dora",
)
LISTS = ("prompt_ids", "response_ids", "commit_steps", "tail_steps")  # what the student sees of a row


def training_plan(
    args: PseudoTrajectoryConfig,
    model_args: ModelConfig,
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    dataset: Dataset,
) -> dict[str, Any]:
    """
    What the weights depend on: recipe, data, and the models that it starts from. Not how the run is logged, saved
    and evaluated, and on how many processes it is computed.

    Args:
        args ([`PseudoTrajectoryConfig`]): The recipe and the training arguments.
        model_args (`ModelConfig`): For the adapters.
        student (`PreTrainedModel`): The model before its first step, without adapters.
        teacher (`PreTrainedModel`, *optional*): That of the divergence.
        dataset (`Dataset`): The trajectories to train on.

    Returns:
        `dict[str, Any]`: JSON values by name.
    """
    names = [*sorted(PseudoTrajectoryConfig.__annotations__.keys() - WITHOUT_EFFECT), *TRAINING_ARGUMENTS]
    if args.masking == "reference" or args.normalization == "microbatch":
        names.append("per_device_train_batch_size")
    plan = {
        **{name: getattr(args, name) for name in names},
        "samples_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "use_peft": model_args.use_peft,
        **({name: getattr(model_args, name) for name in ADAPTERS} if model_args.use_peft else {}),
        "model": weights_fingerprint(student),
        "teacher": None if teacher is None else weights_fingerprint(teacher),
        "rows": len(dataset),
        "trajectories": rows_fingerprint(dataset),
    }
    return json.loads(json.dumps(plan))  # tuples and enumerations become what is read back


def rows_fingerprint(dataset: Dataset) -> str:
    """
    A short digest of what the student sees of trajectories; it is the same wherever they lie.

    Args:
        dataset (`Dataset`): With the columns of [`~d3llm.trainers.trajectories.STORED_FEATURES`].

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(sorted(dataset.unique("decode_config"))).encode())
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        for column in LISTS:
            rows = batch[column].combine_chunks()
            for numbers in (rows.value_lengths(), rows.flatten()):
                digest.update(np.asarray(numbers).astype(np.int64).tobytes())
    return digest.hexdigest()[:16]


def check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """
    Holds a training against the one whose checkpoints are in a folder.

    Args:
        folder (`Path`): The folder.
        plan (`dict[str, Any]`): From [`training_plan`].

    Raises:
        `ValueError`: If they are not the same; it names what differs. For a plan that is damaged.
        `OSError`: If the plan cannot be read.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        logger.warning("%s has no %s: whether its checkpoints are of this training is not known.", folder, PLAN_FILE)
        return
    try:
        before = json.loads(path.read_bytes())
        names = [name for name in plan if name in before]  # another version may know other fields
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: choose another --output_dir.") from error
    different = [
        f"{name} was {json.dumps(before[name])}, is {json.dumps(plan[name])}"
        for name in names
        if plan[name] != before[name]
    ]
    if different:
        raise ValueError(
            f"{folder} holds a run of other settings ({'; '.join(different)}): give them as they were, or choose "
            "another --output_dir."
        )


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Keeps the plan of a training in its folder; raises an `OSError` if it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PLAN_FILE, (json.dumps(plan, indent=2) + "\n").encode())
