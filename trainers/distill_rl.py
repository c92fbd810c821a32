"""Trains by reinforcement learning, for `d3llm distill` with a recipe of which `trainer` is `lightning_rl`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from datasets import Dataset
from pydantic import Field
from transformers import PreTrainedModel
from trl import ModelConfig, get_peft_config

from ..common.field_types import Count
from ..common.fingerprints import fingerprint_weights
from ..common.plan import plan_values, write_plan
from ..evaluation.answer_checks import ANSWERS, CHECKS, CheckName
from ..hub_cards.cards import is_hub_id
from ..modeling.loading import load_tokenizer
from ..trajectories.prompt_rows import Samples
from .distill import (
    check_model,
    checkpoint_to_resume,
    load_named,
    parse_arguments,
    save_merged,
    split_recipe,
)
from .field_types import check_fields
from .lightning_rl import LightningRLTrainer
from .lightning_rl_config import LightningRLConfig
from .rewards import Correctness, RewardFunction, Speed, SpeedOf
from .rl_prompts import PROMPT_IDS
from .training_plan import ADAPTERS, PLAN_FILE, TRAINING_ARGUMENTS, WITHOUT_EFFECT, check_training_plan


# Fields of the run that the weights depend on.
OF_THE_REWARDS = ("check", "reward_speed_of")
WITHOUT_EFFECT_HERE = (WITHOUT_EFFECT - {"eval_generation_kwargs"}) | {"max_constant_rounds"}


@dataclass
class RLArguments:
    """
    The arguments of a run that rewards right answers and tokens per forward, besides the recipe.

    Args:
        trainer (`str`, *optional*, defaults to `"lightning_rl"`): What a recipe of this kind states.
        prompts (`str`): Problems with their answers: Hub id, file (JSON, JSON lines, Parquet, CSV) or folder.
        prompts_config (`str`, *optional*): Configuration of a dataset on the Hub that has several.
        prompts_split (`str`, *optional*, defaults to `"train"`): Split.
        prompt_column (`str`, *optional*, defaults to `"prompt"`): Texts, chats (lists of messages) or token ids.
        answer_column (`str`, *optional*, defaults to `"answer"`): What the check compares with; for `"code"`, tests.
        limit (`int`, *optional*): Number of problems, taken from the start.
        check (`str`, *optional*, defaults to `"number"`): How answers are compared, see
            `d3llm.evaluation.answer_checks`.
        reward_speed_of (`str`, *optional*, defaults to `"all"`): Whether `"all"` rollouts are rewarded for their
            tokens per forward, as published, or only those that are `"right"`: correctness times tokens per forward.
        allow_code_execution (`bool`, *optional*, defaults to `False`): Whether the check `"code"` may run the
            generated programs.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the tokenizer may run code from the
            model's folder.
        resume (`bool`, *optional*, defaults to `False`): Whether to resume from the last complete checkpoint in
            `output_dir`.
        merge (`bool`, *optional*, defaults to `True`): Whether to also save a plain model, in `output_dir/merged`,
            after training adapters.
    """

    trainer: Literal["lightning_rl"] = field(default="lightning_rl", metadata={"help": "The kind of training."})
    prompts: Annotated[str, Field(min_length=1)] | None = field(
        default=None, metadata={"help": "File, folder or Hub dataset of problems with their answers."}
    )
    prompts_config: str | None = field(default=None, metadata={"help": "Configuration of that dataset on the Hub."})
    prompts_split: str = field(default="train", metadata={"help": "Split of that dataset."})
    prompt_column: str = field(default="prompt", metadata={"help": "Column of the prompts."})
    answer_column: str = field(default="answer", metadata={"help": "Column of the answers."})
    limit: Count | None = field(default=None, metadata={"help": "Number of problems, from the first."})
    check: CheckName = field(default="number", metadata={"help": "How answers are compared."})
    reward_speed_of: SpeedOf = field(
        default="all", metadata={"help": "Reward tokens per forward of all rollouts, or of the right ones."}
    )
    allow_code_execution: bool = field(default=False, metadata={"help": "Let check=code run the generated programs."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Let the tokenizer run the model's code."})
    resume: bool = field(default=False, metadata={"help": "Resume from the last complete checkpoint in `output_dir`."})
    merge: bool = field(default=True, metadata={"help": "Also save a merged model, in `output_dir/merged`."})

    def __post_init__(self) -> None:
        check_fields(self)


def rewards_for(arguments: RLArguments) -> list[RewardFunction]:
    """The rewards of a run: correctness, and tokens per forward."""
    correctness = Correctness(CHECKS[arguments.check], arguments.answer_column)
    return [correctness, Speed(of=correctness if arguments.reward_speed_of == "right" else None)]


def read_prompts(samples: Samples) -> Dataset:
    """The rows of a dataset with `prompt_ids`."""
    rows = samples.rows.remove_columns([name for name in (PROMPT_IDS,) if name in samples.rows.column_names])
    return rows.add_column(PROMPT_IDS, [sample.prompt_ids for sample in samples[:]])


def rl_plan(
    args: LightningRLConfig,
    arguments: RLArguments,
    model_args: ModelConfig,
    policy: PreTrainedModel,
    prompts: str,
) -> dict[str, Any]:
    """
    What the weights depend on: the recipe, the prompts, the rewards, and the model that the run starts from. The
    number of processes is a part of it, since rollouts are decoded in the batches of a process.

    Args:
        args ([`LightningRLConfig`]): The recipe and the training arguments.
        arguments ([`RLArguments`]): The rewards.
        model_args (`ModelConfig`): The adapters.
        policy (`PreTrainedModel`): The model before its first step, without adapters.
        prompts (`str`): Fingerprint of the prompts and answers.

    Returns:
        `dict[str, Any]`: JSON values by name.
    """
    names = [*sorted(LightningRLConfig.__annotations__.keys() - WITHOUT_EFFECT_HERE), *TRAINING_ARGUMENTS]
    return plan_values(
        {
            **{name: getattr(args, name) for name in names},
            **{name: getattr(arguments, name) for name in OF_THE_REWARDS},
            "samples_per_step": args.rollouts_per_step,
            "processes": args.world_size,
            "use_peft": model_args.use_peft,
            **({name: getattr(model_args, name) for name in ADAPTERS} if model_args.use_peft else {}),
            "model": fingerprint_weights(policy),
            "prompts": prompts,
        }
    )


def check_arguments(arguments: RLArguments, args: LightningRLConfig) -> str:
    """Raises a `ValueError` for arguments that do not fit together, before anything is read; returns the prompts."""
    if arguments.prompts is None:
        raise ValueError("Which problems? Give a dataset with prompts and answers, with --prompts.")
    if arguments.check == "code" and not arguments.allow_code_execution:
        raise ValueError("check='code' runs untrusted programs: allow it with --allow_code_execution.")
    if args.eval_strategy != "no" or args.eval_on_start:
        raise ValueError("There are no evaluations in this training: omit --eval_strategy, and use `d3llm eval`.")
    if args.resume_from_checkpoint is not None:
        raise ValueError(
            "--resume_from_checkpoint is not supported: use --resume, which starts from the last complete checkpoint."
        )
    return arguments.prompts


def main(argv: Sequence[str]) -> None:
    """
    Trains a policy and saves it with its tokenizer. After training adapters, it also saves a merged model.

    Args:
        argv (`Sequence[str]`): The arguments.

    Raises:
        `ValueError`: For invalid arguments or prompts, a reward that is constant, or a loss that is not finite.
        `OSError`: For files that cannot be read or written.
    """
    argv = list(argv)
    arguments, args, model_args = parse_arguments(argv, RLArguments, LightningRLConfig)
    dataset = check_arguments(arguments, args)
    output = Path(args.output_dir)
    checkpoint = checkpoint_to_resume(output, arguments.resume)
    name = check_model(model_args, args)
    tokenizer = load_tokenizer(name, revision=model_args.model_revision, trust_remote_code=arguments.trust_remote_code)
    samples = Samples(
        dataset,
        tokenizer,
        prompt_column=arguments.prompt_column,
        columns={arguments.answer_column: ANSWERS[arguments.check]},
        dataset_config=arguments.prompts_config,
        split=arguments.prompts_split,
        limit=arguments.limit,
    )
    policy = load_named(name, model_args, args)
    is_main = args.process_index == 0
    plan = rl_plan(args, arguments, model_args, policy, samples.fingerprint) if is_main else {}
    if is_main and checkpoint is not None:
        check_training_plan(output, plan)
    trainer = LightningRLTrainer(
        policy,
        rewards_for(arguments),
        args,
        read_prompts(samples),
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    recipe, _ = split_recipe(argv)
    trainer.card_facts = {"dataset": dataset if is_hub_id(dataset) else Path(dataset).name}
    trainer.card_facts |= {"recipe": Path(recipe).stem} if recipe is not None else {}
    if is_main:
        write_plan(output / PLAN_FILE, plan)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card()
    if model_args.use_peft and arguments.merge:
        save_merged(trainer, output / "merged", tokenizer)
