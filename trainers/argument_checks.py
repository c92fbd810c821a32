"""Checks of training arguments that need neither a model nor data. Each raises a `ValueError`."""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..generation.fields import suggestion


PACKAGES = {"deepspeed": "deepspeed"}
"""Fields that need an optional package."""
REPORT_PACKAGES = {"clearml", "codecarbon", "comet_ml", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"}
EXTRAS = {"tensorboard"}  # those that an extra of this package installs


def fill_in_arguments(args: Any) -> None:
    """Fills in what depends on the machine and on the release of transformers, before its own checks."""
    if args.bf16 is None:
        args.bf16 = not args.fp16 and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if not hasattr(TrainingArguments, "activation_checkpointing"):
        args.gradient_checkpointing = bool(args.activation_checkpointing or args.gradient_checkpointing)
        args.gradient_checkpointing_kwargs = args.activation_checkpointing_kwargs


def check_arguments(args: TrainingArguments) -> None:
    """Refuses what no trainer of this package takes: see the checks that it makes."""
    for check in (check_reports, check_loss_arguments, check_device, check_schedule):
        check(args)


def check_packages(args: TrainingArguments) -> None:
    """Refuses fields of `PACKAGES` whose package is not installed."""
    for name, package in PACKAGES.items():
        if getattr(args, name, None) and find_spec(package) is None:
            raise ValueError(
                f"`{name}` needs the package {package.replace('_', '-')}, which is not installed here: install it, or "
                "omit the field."
            )


def check_reports(args: TrainingArguments) -> None:
    """Refuses packages in `report_to` that are not installed; transformers itself would raise a `RuntimeError`."""
    named: list[str] = list(args.report_to or ())
    unknown = [name for name in named if name not in INTEGRATION_TO_CALLBACK]
    if unknown:
        near = suggestion(unknown[0], INTEGRATION_TO_CALLBACK)
        raise ValueError(f"`report_to` names {unknown[0]!r}: there is no such name{near}.")
    needed = REPORT_PACKAGES & set(named)
    missing = sorted(needed - set(get_available_reporting_integrations())) if needed else []
    if missing:
        extras = [f"pip install 'd3llm[{name}]'" for name in missing if name in EXTRAS]
        raise ValueError(
            f"`report_to` names {', '.join(missing)}, not installed here: {' and '.join(extras) or 'install it'}, or "
            "omit it."
        )


def check_loss_arguments(args: TrainingArguments) -> None:
    """Refuses training arguments for losses over the logits of the whole sequence, which this loss does not use."""
    if args.use_liger_kernel:
        raise ValueError(
            "`use_liger_kernel` has no kernels for masked-diffusion models: omit it. Without it, the head already "
            "runs in chunks, on masked positions alone."
        )
    if args.label_smoothing_factor:
        raise ValueError("`label_smoothing_factor` is not part of a recipe's loss: omit it.")


def check_device(args: TrainingArguments) -> None:
    """Refuses `fp16` on CPUs: it needs loss scaling, which only accelerators have."""
    if args.fp16 and args.device.type == "cpu":
        raise ValueError("`fp16` is for GPUs, and this is a CPU: use `bf16`, or omit it.")


def check_noise(args: TrainingArguments) -> None:
    """Refuses noise on the embeddings in trainings that compare two forwards, each of which would draw its own."""
    if args.neftune_noise_alpha:
        raise ValueError(
            "`neftune_noise_alpha` puts noise on the embeddings of every forward, and this training compares forwards "
            "with each other: omit it."
        )


def check_schedule(args: TrainingArguments) -> None:
    """Tries the options of the learning-rate schedule on a schedule of one step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = dict(args.lr_scheduler_kwargs or {})  # type: ignore[arg-type]
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 0, 1, options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`lr_scheduler_kwargs` {options} do not fit `lr_scheduler_type` {args.lr_scheduler_type.value!r}: "
            f"{' '.join(str(error).split())}"
        ) from error
