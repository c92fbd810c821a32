"""Everything the trained weights depend on, saved with the run; resuming requires an identical plan."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel
from transformers.utils import logging
from trl import ModelConfig

from ..common.fingerprints import fingerprint_weights
from ..common.plan import compare_plans, plan_values, read_plan
from ..trajectories.fingerprints import rows_fingerprint
from .hidden_states import router_weight
from .pseudo_trajectory_config import PseudoTrajectoryConfig


logger = logging.get_logger(__name__)

PLAN_FILE = "training_plan.json"
ROUNDS_FILE = "rounds_plan.json"
REMEDY = "give the same settings as before, or choose another --output_dir"

# Fields of the recipe that do not affect the weights.
WITHOUT_EFFECT = {
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "ddp_find_unused_parameters",
    "eval_generation_kwargs",
    "gradient_checkpointing",
    "logging_nan_inf_filter",
    "model_init_kwargs",
}
# Training arguments that affect the weights. The number of processes is part of `samples_per_step`.
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
    "weight_decay",
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


def training_plan(
    args: PseudoTrajectoryConfig,
    model_args: ModelConfig,
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    dataset: Dataset,
) -> dict[str, Any]:
    """
    What the weights depend on: the recipe, the data, and the models that the run starts from. Logging, saving,
    evaluation and the number of processes are not part of it.

    Args:
        args ([`PseudoTrajectoryConfig`]): The recipe and the training arguments.
        model_args (`ModelConfig`): The adapters.
        student (`PreTrainedModel`): The model before its first step, without adapters.
        teacher (`PreTrainedModel`, *optional*): The teacher of the divergence.
        dataset (`Dataset`): The trajectories to train on.

    Returns:
        `dict[str, Any]`: JSON values by name.
    """
    plan = {
        **recipe_plan(args, model_args),
        # Routers have a loss of each micro-batch.
        **({"per_device_train_batch_size": args.per_device_train_batch_size} if router_weight(student) else {}),
        "model": fingerprint_weights(student),
        "teacher": None if teacher is None else fingerprint_weights(teacher),
        "rows": len(dataset),
        "trajectories": rows_fingerprint(dataset),
    }
    return plan_values(plan)


def recipe_plan(args: PseudoTrajectoryConfig, model_args: ModelConfig) -> dict[str, Any]:
    """
    The part of [`training_plan`] that needs neither models nor data.

    Args:
        args ([`PseudoTrajectoryConfig`]): The recipe and the training arguments.
        model_args (`ModelConfig`): The adapters.

    Returns:
        `dict[str, Any]`: Values by name.
    """
    names = [*sorted(PseudoTrajectoryConfig.__annotations__.keys() - WITHOUT_EFFECT), *TRAINING_ARGUMENTS]
    if args.masking == "reference" or args.normalization == "microbatch":
        names.append("per_device_train_batch_size")
    return {
        **{name: getattr(args, name) for name in names},
        "samples_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "use_peft": model_args.use_peft,
        **({name: getattr(model_args, name) for name in ADAPTERS} if model_args.use_peft else {}),
    }


def check_training_plan(folder: Path, plan: dict[str, Any]) -> None:
    """
    Checks a training against the plan of the one whose checkpoints are in a folder.

    Args:
        folder (`Path`): The folder.
        plan (`dict[str, Any]`): From [`training_plan`].

    Raises:
        `ValueError`: If they differ, with the differences; or if the saved plan is damaged.
        `OSError`: If the plan cannot be read.
    """
    before = read_plan(folder / PLAN_FILE, REMEDY)
    if before is None:
        logger.warning("%s has no %s: its checkpoints may belong to another training.", folder, PLAN_FILE)
        return
    compare_plans(before, plan, folder, REMEDY, names=[name for name in plan if name in before])  # versions differ
