"""Trains a drafter, for `d3llm distill` with a recipe of which `trainer` is `introspective`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import PreTrainedModel
from transformers.utils import logging
from trl import ModelConfig

from ..common.field_types import Whole
from ..common.fingerprints import fingerprint, fingerprint_weights
from ..common.plan import plan_values, write_plan
from ..modeling.drafter import Drafter
from ..modeling.loading import load_autoregressive_model
from ..trajectories.dataset import read_rows
from .distill import checkpoint_to_resume, parse_arguments
from .drafter_texts import as_texts
from .field_types import check_fields
from .introspective import IntrospectiveTrainer
from .introspective_config import IntrospectiveConfig
from .training_plan import PLAN_FILE, TRAINING_ARGUMENTS, check_training_plan


logger = logging.get_logger(__name__)

WITHOUT_EFFECT = {
    "cached_texts",
    "gradient_checkpointing",
    "head_tokens",
    "logging_nan_inf_filter",
    "model_init_kwargs",
}


@dataclass
class DrafterArguments:
    """
    The arguments of a run that trains a drafter, besides the recipe.

    Args:
        trainer (`str`, *optional*, defaults to `"introspective"`): What a recipe of this kind states.
        trajectories (`str`): The base's own texts: a folder that `d3llm extract --order ar` wrote, a dataset on the
            Hub, or a file or folder of JSON lines or Parquet with `prompt_ids` and `answer_ids`.
        trajectories_split (`str`, *optional*, defaults to `"train"`): Split of the dataset.
        eval_trajectories (`int`, *optional*, defaults to 0): Number of rows, taken from the end, that are held out for
            the evaluation.
        drafter (`str`, *optional*): Folder of a drafter of this base to start from; by default a new one. The rank and
            the sizes are then its own.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the code of the base may run.
        resume (`bool`, *optional*, defaults to `False`): Whether to resume from the last complete checkpoint in
            `output_dir`.
    """

    trainer: Literal["introspective"] = field(default="introspective", metadata={"help": "The kind of training."})
    trajectories: Annotated[str, Field(min_length=1)] | None = field(
        default=None, metadata={"help": "Folder, file or Hub dataset of the base's own texts."}
    )
    trajectories_split: str = field(default="train", metadata={"help": "Split of a dataset on the Hub."})
    eval_trajectories: Whole = field(default=0, metadata={"help": "Rows held out for the evaluation."})
    drafter: str | None = field(default=None, metadata={"help": "Folder of a drafter to start from."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Let the code of the base run."})
    resume: bool = field(default=False, metadata={"help": "Resume from the last complete checkpoint in `output_dir`."})

    def __post_init__(self) -> None:
        check_fields(self)


def drafter_plan(
    args: IntrospectiveConfig, base: PreTrainedModel, drafter: Drafter | None, texts: Any
) -> dict[str, Any]:
    """
    What the weights of a drafter depend on: the recipe, the texts, the base, and the drafter that the run starts from.

    Args:
        args ([`IntrospectiveConfig`]): The recipe and the training arguments.
        base (`PreTrainedModel`): The base.
        drafter ([`~d3llm.modeling.drafter.Drafter`], *optional*): What the run starts from.
        texts (`Dataset`): The texts to train on, with `prompt_ids` and `response_ids`.

    Returns:
        `dict[str, Any]`: JSON values by name.
    """
    names = [*sorted(IntrospectiveConfig.__annotations__.keys() - WITHOUT_EFFECT), *TRAINING_ARGUMENTS]
    return plan_values(
        {
            **{name: getattr(args, name) for name in names},
            # The candidates are the targets of a micro-batch.
            **({"per_device_train_batch_size": args.per_device_train_batch_size} if args.candidates else {}),
            "samples_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "model": fingerprint_weights(base),
            "drafter": None if drafter is None else fingerprint_weights(drafter),
            "rows": len(texts),
            "trajectories": fingerprint([texts["prompt_ids"][:], texts["response_ids"][:]]),
        }
    )


def main(argv: Sequence[str]) -> None:
    """
    Trains a drafter and saves it.

    Args:
        argv (`Sequence[str]`): The arguments.

    Raises:
        `ValueError`: For invalid arguments or texts, or a loss that is not finite.
        `OSError`: For files that cannot be read or written.
    """
    arguments, args, model_args = parse_arguments(list(argv), DrafterArguments, IntrospectiveConfig)
    name = check_arguments(arguments, args, model_args)
    output = Path(args.output_dir)
    checkpoint = checkpoint_to_resume(output, arguments.resume)
    texts = as_texts(read_rows(arguments.trajectories, arguments.trajectories_split), arguments.trajectories)
    held_out = None
    if arguments.eval_trajectories:
        rows = len(texts) - arguments.eval_trajectories
        if rows < 1:
            raise ValueError(
                f"--eval_trajectories {arguments.eval_trajectories} leaves no rows to train on: there are "
                f"{len(texts)}; give a smaller number."
            )
        texts, held_out = texts.select(range(rows)), texts.select(range(rows, len(texts)))
    base = load_autoregressive_model(
        name,
        trust_remote_code=arguments.trust_remote_code,
        **{
            "revision": model_args.model_revision,
            "dtype": model_args.dtype,
            "attn_implementation": model_args.attn_implementation or "sdpa",
            **(args.model_init_kwargs or {}),
        },
    )
    drafter = None if arguments.drafter is None else Drafter.from_pretrained(arguments.drafter, base)
    plan = drafter_plan(args, base, drafter, texts)
    is_main = args.process_index == 0
    if is_main and checkpoint is not None:
        check_training_plan(output, plan)
    trainer = IntrospectiveTrainer(base, args, texts, held_out, drafter=drafter)
    if is_main:
        write_plan(output / PLAN_FILE, plan)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model()
    trainer.save_state()


def check_arguments(arguments: DrafterArguments, args: IntrospectiveConfig, model_args: ModelConfig) -> str:
    """Raises a `ValueError` for arguments that do not fit together, before anything is read; returns the base."""
    if arguments.trajectories is None:
        raise ValueError("Which texts? Give a folder that `d3llm extract --order ar` wrote, with --trajectories.")
    if model_args.model_name_or_path is None:
        raise ValueError("Which base? Name it with --model_name_or_path, or in the recipe.")
    if arguments.eval_trajectories and args.eval_strategy == "no" and not args.eval_on_start:
        raise ValueError(
            "--eval_trajectories is for evaluations, but there are none: give --eval_strategy steps --eval_steps 200, "
            "or omit it."
        )
    if args.resume_from_checkpoint is not None:
        raise ValueError(
            "--resume_from_checkpoint is not supported: use --resume, which starts from the last complete checkpoint."
        )
    if model_args.use_peft:
        raise ValueError("`use_peft` is not for drafters, which are adapters themselves: omit it, and give `rank`.")
    if args.push_to_hub:
        raise ValueError("`push_to_hub` is not supported for drafters: upload the folder after the training.")
    return str(model_args.model_name_or_path)
