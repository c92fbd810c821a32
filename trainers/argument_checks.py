"""Training arguments that cannot be met here, whatever model and data are: each check raises a `ValueError`."""

from importlib.util import find_spec

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..generation.fields import suggestion


PACKAGES = {"deepspeed": "deepspeed"}
"""Fields that need a package which may not be there."""
REPORT_PACKAGES = {"clearml", "codecarbon", "comet_ml", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"}
EXTRAS = {"tensorboard"}  # of those packages, what an extra of this one brings


def check_packages(args: TrainingArguments) -> None:
    """Fields of `PACKAGES` that are set although their package is not installed."""
    for name, package in PACKAGES.items():
        if getattr(args, name, None) and find_spec(package) is None:
            raise ValueError(
                f"`{name}` needs the package {package.replace('_', '-')}, which is not installed here: install it, or "
                "leave the field out."
            )


def check_reports(args: TrainingArguments) -> None:
    """`report_to` names packages, which may not be there; transformers itself ends in a `RuntimeError` then."""
    named: list[str] = list(args.report_to or ())
    unknown = [name for name in named if name not in INTEGRATION_TO_CALLBACK]
    if unknown:
        near = suggestion(unknown[0], INTEGRATION_TO_CALLBACK)
        raise ValueError(f"`report_to` names {unknown[0]!r}: there is no such name{near}.")
    missing = sorted(REPORT_PACKAGES & set(named) - set(get_available_reporting_integrations()))
    if missing:
        extras = [f"pip install 'd3llm[{name}]'" for name in missing if name in EXTRAS]
        raise ValueError(
            f"`report_to` names {', '.join(missing)}, not installed here: {' and '.join(extras) or 'install it'}, or "
            "leave it out."
        )


def check_loss_arguments(args: TrainingArguments) -> None:
    """Training arguments that a loss over logits of the whole sequence would take, and this one has no use for."""
    if args.use_liger_kernel:
        raise ValueError(
            "`use_liger_kernel` has no kernels for masked-diffusion models: leave it out; the head runs on masked "
            "positions alone, a few at a time, without it."
        )
    if args.label_smoothing_factor:
        raise ValueError("`label_smoothing_factor` is no part of a recipe's loss: leave it out.")


def check_device(args: TrainingArguments) -> None:
    """Mixed precision in float16 scales the loss, which is done on accelerators alone."""
    if args.fp16 and args.device.type == "cpu":
        raise ValueError("`fp16` is for GPUs, and this is a CPU: take `bf16`, or leave it out.")


def check_schedule(args: TrainingArguments) -> None:
    """Options of the learning rate's schedule, tried on a schedule of one step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = dict(args.lr_scheduler_kwargs or {})  # type: ignore[arg-type]
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 0, 1, options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`lr_scheduler_kwargs` {options} do not go with `lr_scheduler_type` {args.lr_scheduler_type.value!r}: "
            f"{' '.join(str(error).split())}"
        ) from error
