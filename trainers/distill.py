"""Distils a student: `accelerate launch -m d3llm.trainers.distill --config d3llm_llada --trajectories FOLDER ...`."""

import argparse
import json
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from datasets import Dataset
from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging
from trl import ModelConfig, TrlParser, get_peft_config

from ..common.field_types import Count, Whole
from ..common.files import check_folder_to_be
from ..common.plan import write_plan
from ..common.schema import SHOWN
from ..common.yaml_files import read_yaml
from ..evaluation.answer_checks import ANSWERS, CHECKS, CheckName
from ..hub_cards import TRAJECTORY_FACTS, TrajectoryFacts, read_facts
from ..hub_cards.cards import is_hub_id
from ..modeling.loading import load_empty_model, load_model, load_tokenizer
from ..trajectories.dataset import as_stored, read_rows
from ..trajectories.prompt_rows import Samples
from ..trajectories.store import PLAN_FILE as EXTRACTION_FILE
from .adapters import add_adapter, merge_adapter
from .collator import as_trajectories, check_needs_no_order, student_facts
from .completions import has_completions
from .field_types import MODEL_FIELDS, check_fields
from .pseudo_trajectory_config import PseudoTrajectoryConfig
from .pseudo_trajectory_trainer import HeldOutPrompts, PseudoTrajectoryTrainer
from .publishing_trainer import PublishingTrainer
from .training_plan import PLAN_FILE, ROUNDS_FILE, check_training_plan, training_plan


logger = logging.get_logger(__name__)

RECIPES = Path(__file__).resolve().parent / "recipes"
TRAINERS = ("pseudo_trajectory", "introspective", "lightning_rl")
"""What a recipe may state as its `trainer`; the first is that of recipes that state none."""


@dataclass
class DistillArguments:
    """
    The arguments of a run, besides the recipe.

    Args:
        trainer (`str`, *optional*, defaults to `"pseudo_trajectory"`): As a recipe may state it.
        trajectories (`str`): Folder that `d3llm extract` wrote, or a dataset on the Hub. Recipes that need no order
            also accept prompts and completions (columns `prompt` and `completion`, or `messages`): a file (JSON lines,
            JSON, CSV or Parquet), a folder of JSON lines or Parquet, or a dataset on the Hub.
        trajectories_split (`str`, *optional*, defaults to `"train"`): Split of the dataset.
        keep (`str`, *optional*, defaults to `"correct"`): `"correct"` drops rows whose answer was wrong; `"all"` keeps
            them.
        eval_trajectories (`int`, *optional*, defaults to 0): Number of rows, taken from the end, that are held out for
            the evaluation loss.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the tokenizer may run code from the
            model's folder, as Dream's does. The model is always this package's class.
        teacher_name_or_path (`str`, *optional*): The model for the divergence in recipes with `kl_weight`, and the
            reference of those with `ddo_weight`; by default the student without its adapters.
        held_out (`str`, *optional*): Dataset of problems to decode at each evaluation.
        held_out_config (`str`, *optional*): Configuration of a dataset on the Hub that has several, such as `"main"`.
        held_out_split, held_out_prompt_column, held_out_answer_column (`str`): Split and columns of that dataset.
        held_out_check (`str`, *optional*, defaults to `"number"`): How answers are compared.
        held_out_limit (`int`, *optional*): Number of problems, taken from the start.
        allow_code_execution (`bool`, *optional*, defaults to `False`): Whether the check `"code"` may run the
            generated programs.
        resume (`bool`, *optional*, defaults to `False`): Whether to resume from the last complete checkpoint in
            `output_dir`.
        merge (`bool`, *optional*, defaults to `True`): Whether to also save a plain model, in `output_dir/merged`,
            after training adapters.
    """

    trainer: Literal["pseudo_trajectory"] = field(
        default="pseudo_trajectory", metadata={"help": "The kind of training."}
    )
    trajectories: Annotated[str, Field(min_length=1)] | None = field(
        default=None, metadata={"help": "Folder or Hub dataset of trajectories, or of prompts and completions."}
    )
    trajectories_split: str = field(default="train", metadata={"help": "Split of a dataset on the Hub."})
    keep: Literal["correct", "all"] = field(
        default="correct", metadata={"help": "Drop wrong answers, or keep all rows."}
    )
    eval_trajectories: Whole = field(default=0, metadata={"help": "Rows held out for the evaluation loss."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Let the tokenizer run the model's code."})
    teacher_name_or_path: str | None = field(default=None, metadata={"help": "Model for the divergence."})
    held_out: str | None = field(default=None, metadata={"help": "Dataset of problems to decode at each evaluation."})
    held_out_config: str | None = field(default=None, metadata={"help": "Configuration of that dataset on the Hub."})
    held_out_split: str = field(default="test", metadata={"help": "Split of that dataset."})
    held_out_prompt_column: str = field(default="question", metadata={"help": "Column of the prompts."})
    held_out_answer_column: str = field(default="answer", metadata={"help": "Column of the answers."})
    held_out_check: CheckName = field(default="number", metadata={"help": "How answers are compared."})
    allow_code_execution: bool = field(
        default=False, metadata={"help": "Let held_out_check=code run the generated programs."}
    )
    held_out_limit: Count | None = field(default=None, metadata={"help": "Number of problems to decode."})
    resume: bool = field(default=False, metadata={"help": "Resume from the last complete checkpoint in `output_dir`."})
    merge: bool = field(default=True, metadata={"help": "Also save a merged model, in `output_dir/merged`."})

    def __post_init__(self) -> None:
        check_fields(self)


class _Parser(TrlParser):
    """
    A parser with one-line errors; its usage would take two hundred lines. Values of the wrong type are passed on
    unchanged, so that fields are checked in one place, however they are set.
    """

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `d3llm distill --help`)")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            pass
        try:
            return json.loads(arg_string)  # another kind of number, a list, or `null` to unset a field of the recipe
        except (ValueError, RecursionError):
            return arg_string

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        pass


def parse_arguments(
    argv: Sequence[str], run: type = DistillArguments, trainer: type = PseudoTrajectoryConfig
) -> tuple[Any, Any, ModelConfig]:
    """
    Reads the command line and the recipe named by `--config`: a YAML file, or a shipped recipe without its suffix. The
    command line overrides the recipe.

    Args:
        argv (`Sequence[str]`): The arguments.
        run (`type`, *optional*), trainer (`type`, *optional*): The dataclasses of the run and of the trainer.

    Returns:
        `tuple`: Arguments of the run, of the trainer and of the model.

    Raises:
        `ValueError`: For an unknown field or an invalid value.
        `OSError`: If there is no such recipe.
    """
    kinds: Any = (run, trainer, ModelConfig)
    recipe, argv = split_recipe(argv)
    if recipe is not None:
        path = find_recipe(recipe)
        known = {field.name for kind in kinds for field in fields(kind)} | {"env"}
        refuse_unknown([name for name in read_yaml(path) if name not in known])
        argv = ["--config", str(path), *argv]
    parser = _Parser(kinds, prog="d3llm distill", allow_abbrev=False)
    parsed: Any = parser.parse_args_and_config(argv, return_remaining_strings=True)
    arguments, training_args, model_args, rest = parsed
    refuse_unknown(rest)
    check_fields(model_args, MODEL_FIELDS)
    return arguments, training_args, model_args


def refuse_unknown(names: Sequence[str]) -> None:
    """Raises a `ValueError` for unknown names in a recipe or on the command line."""
    if names:
        text = " ".join(names)
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        raise ValueError(f"Unknown: {shown} (see `d3llm distill --help`).")


def split_recipe(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The recipe named by `--config NAME` or `--config=NAME`, if any, and the other arguments."""
    for place, argument in enumerate(argv):
        if argument == "--config" and place + 1 == len(argv):
            raise ValueError("Which recipe? --config needs the name of a shipped recipe, or a YAML file.")
        if argument == "--config":
            return argv[place + 1], [*argv[:place], *argv[place + 2 :]]
        if argument.startswith("--config="):
            return argument.removeprefix("--config="), [*argv[:place], *argv[place + 1 :]]
    return None, list(argv)


def trainer_of(argv: Sequence[str]) -> str:
    """
    The trainer that the recipe named by `--config` states in its field `trainer`; without one, that of this module.

    Args:
        argv (`Sequence[str]`): The arguments.

    Returns:
        `str`: A name in `TRAINERS`.

    Raises:
        `ValueError`: For a trainer that does not exist.
        `OSError`: If there is no such recipe.
    """
    recipe, _ = split_recipe(argv)
    name = TRAINERS[0] if recipe is None else read_yaml(find_recipe(recipe)).get("trainer", TRAINERS[0])
    if name not in TRAINERS:
        raise ValueError(f"{recipe} has the trainer {name!r}: expected one of {', '.join(TRAINERS)}, or none.")
    return name


def find_recipe(name: str) -> Path:
    """The file of a recipe, given by its path or by the name of a shipped one."""
    for path in (Path(name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise OSError(f"No recipe {name}: give a YAML file or one of {shipped}.")


def split_trajectories(dataset: Dataset, arguments: DistillArguments) -> tuple[Dataset, Dataset | None]:
    """The rows to train on and the held-out rows, without those that `keep` drops."""
    if arguments.keep == "correct" and "correct" in dataset.column_names:
        kept = [row for row, correct in enumerate(dataset["correct"]) if correct is not False]
        if not kept:
            raise ValueError(
                f"No trajectory in {arguments.trajectories} has a correct answer: use all of them with --keep all."
            )
        if len(kept) < len(dataset):
            logger.warning(
                "Skipped %d of %d trajectories, whose answers are wrong.", len(dataset) - len(kept), len(dataset)
            )
        dataset = dataset.select(kept)
    if not arguments.eval_trajectories:
        return dataset, None
    rows = len(dataset) - arguments.eval_trajectories
    if rows < 1:
        raise ValueError(
            f"--eval_trajectories {arguments.eval_trajectories} leaves no rows to train on: there are {len(dataset)}; "
            "give a smaller number."
        )
    return dataset.select(range(rows)), dataset.select(range(rows, len(dataset)))


def check_evaluation(arguments: DistillArguments, args: PseudoTrajectoryConfig) -> None:
    """Raises a `ValueError` for arguments of evaluations that will not take place."""
    given = [name for name in ("eval_trajectories", "held_out") if getattr(arguments, name)]
    if given and args.eval_strategy == "no" and not args.eval_on_start:
        raise ValueError(
            f"--{given[0]} is for evaluations, but there are none: give --eval_strategy steps --eval_steps 200, or "
            "omit it."
        )
    if arguments.held_out is not None and not arguments.eval_trajectories:
        raise ValueError("--held_out also needs held-out trajectories: give --eval_trajectories 100, too.")
    if args.eval_generation_kwargs and arguments.held_out is None:
        raise ValueError("--eval_generation_kwargs is for the problems of --held_out: name them, or omit it.")


def read_held_out(dataset: str, arguments: DistillArguments, tokenizer: PreTrainedTokenizerBase) -> HeldOutPrompts:
    """The problems to decode at each evaluation."""
    samples = Samples(
        dataset,
        tokenizer,
        prompt_column=arguments.held_out_prompt_column,
        columns={arguments.held_out_answer_column: ANSWERS[arguments.held_out_check]},
        dataset_config=arguments.held_out_config,
        split=arguments.held_out_split,
        limit=arguments.held_out_limit,
    )[:]
    check = CHECKS[arguments.held_out_check]
    answers = [sample.row[arguments.held_out_answer_column] for sample in samples]
    return HeldOutPrompts([sample.prompt_ids for sample in samples], lambda index, text: check(text, answers[index]))


def load_named(name: str, model_args: ModelConfig, args: Any) -> PreTrainedModel:
    """Loads a student or teacher, always as this package's class."""
    kwargs: dict[str, Any] = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
    }
    given: Any = args.model_init_kwargs or {}
    return load_model(name, **kwargs | given)


def check_model(model_args: ModelConfig, args: Any) -> str:
    """
    The name of the student. Layers, attention or adapters that do not fit the model end the run here, before any data
    is read.
    """
    if model_args.model_name_or_path is None:
        raise ValueError("Which model? Name it with --model_name_or_path, or in the recipe.")
    given: Any = args.model_init_kwargs or {}
    student = load_empty_model(
        model_args.model_name_or_path,
        revision=given.get("revision", model_args.model_revision),
        attn_implementation=given.get("attn_implementation", model_args.attn_implementation),
    )
    adapters = get_peft_config(model_args)
    if adapters is not None:
        add_adapter(student, adapters)
    return model_args.model_name_or_path


def check_same_tokens(name: str, tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool) -> None:
    """Raises a `ValueError` if the token ids of a model are not those of the student's tokenizer."""
    vocabulary = tokenizer.get_vocab()
    other = load_tokenizer(name, trust_remote_code=trust_remote_code).get_vocab()
    differ = sorted(token for token in other.keys() | vocabulary.keys() if other.get(token) != vocabulary.get(token))
    if differ:
        raise ValueError(
            f"{name} has other token ids than the student ({len(differ)} differ, for example {differ[0]!r}): give a "
            "--teacher_name_or_path with the same tokenizer."
        )


def last_checkpoint(output_dir: str) -> Path | None:
    """
    The last complete checkpoint, recognised by the trainer's state, which is written last.

    Args:
        output_dir (`str`): The output folder of the training.

    Returns:
        `Path` or `None`: The checkpoint.

    Raises:
        `ValueError`: If it was saved without the optimizer.
    """
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    steps = {int(folder.name.rpartition("-")[2]): folder for folder in folders if _is_whole(folder)}
    if not steps:
        return None
    last = steps[max(steps)]
    if not any(last.glob("rng_state*.pth")):
        raise ValueError(
            f"{last} was saved without the optimizer (--save_only_model), so the run cannot be resumed: choose "
            "another --output_dir, and start from its weights (--model_name_or_path) if you like."
        )
    return last


def checkpoint_to_resume(output: Path, resume: bool) -> Path | None:
    """
    The checkpoint that a training starts from.

    Args:
        output (`Path`): The output folder of the training.
        resume (`bool`): Whether to resume the run in it.

    Returns:
        `Path` or `None`: Its last complete checkpoint; `None` if there is neither one nor trained weights.

    Raises:
        `ValueError`: If the training would overwrite a run, a model or trajectories.
        `OSError`: If the folder cannot be written.
    """
    check_output(output)
    if (output / ROUNDS_FILE).exists():
        raise ValueError(
            f"{output} holds rounds: continue them (--rounds N --resume), or choose another --output_dir."
        )
    checkpoint = last_checkpoint(str(output))
    if checkpoint is None and any(output.glob("*.safetensors")):
        raise ValueError(
            f"{output} holds a model, but no complete checkpoint to resume from: choose another --output_dir."
        )
    if checkpoint is not None and not resume:
        raise ValueError(f"{output} holds a run: resume it (--resume), or choose another --output_dir.")
    return checkpoint


def check_output(output: Path) -> None:
    """
    Raises an `OSError` for what is not a folder or cannot be written, and a `ValueError` for a folder of trajectories,
    whose card a model's would replace.
    """
    check_folder_to_be(output)
    if (output / EXTRACTION_FILE).exists():
        raise ValueError(f"{output} holds trajectories: choose another --output_dir.")


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def card_facts(trajectories: str, argv: Sequence[str], *, has_order: bool = True) -> dict[str, Any]:
    """What the model's card says about the run: its data, their subject, and the name of its recipe."""
    name = trajectories if is_hub_id(trajectories) else Path(trajectories).name
    facts: dict[str, Any] = {"trajectories" if has_order else "dataset": name}
    if (Path(trajectories) / TRAJECTORY_FACTS).is_file():
        made_of = read_facts(TrajectoryFacts, Path(trajectories) / TRAJECTORY_FACTS)
        facts["training_tasks"] = [made_of.prompts or made_of.name]
    recipe, _ = split_recipe(argv)
    if recipe is not None:
        facts["recipe"] = Path(recipe).stem
    return facts


def check_arguments(arguments: DistillArguments, training_args: PseudoTrajectoryConfig) -> None:
    """Raises a `ValueError` for arguments that do not fit together, before anything is read."""
    if arguments.held_out is not None and arguments.held_out_check == "code" and not arguments.allow_code_execution:
        raise ValueError("held_out_check='code' runs untrusted programs: allow it with --allow_code_execution.")
    check_evaluation(arguments, training_args)
    if arguments.teacher_name_or_path is not None and not training_args.needs_teacher:
        raise ValueError(
            "--teacher_name_or_path is for recipes with `kl_weight`, which is 0, or `ddo_weight`: omit it."
        )
    if training_args.resume_from_checkpoint is not None:
        raise ValueError(
            "--resume_from_checkpoint is not supported: use --resume, which starts from the last complete checkpoint."
        )


def save_merged(trainer: PublishingTrainer, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Saves a plain model with the adapters merged into its weights, unless these are sharded or quantized."""
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_fsdp_enabled:
        logger.warning("The adapters are not merged, because the weights are sharded: use `d3llm convert`.")
    elif getattr(adapted.get_base_model(), "is_quantized", False):
        logger.warning(
            "The adapters are not merged, because the weights are quantized: use `d3llm convert`, with the model "
            "before its quantization as --base-model."
        )
    elif trainer.accelerator.is_main_process:
        merged = merge_adapter(adapted, folder, tokenizer)
        trainer.write_card(merged, folder.parent.resolve().name)


def main(argv: Sequence[str] | None = None) -> None:
    """
    Trains a student and saves it with its tokenizer. After training adapters, it also saves a merged model.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; by default those of the process.

    Raises:
        `ValueError`: For invalid arguments or data, or a loss that is not finite.
        `OSError`: For files that cannot be read or written.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments, training_args, model_args = parse_arguments(argv)
    if arguments.trajectories is None:
        raise ValueError("Which trajectories? Give a folder that `d3llm extract` wrote, with --trajectories.")
    check_arguments(arguments, training_args)
    output = Path(training_args.output_dir)
    checkpoint = checkpoint_to_resume(output, arguments.resume)
    name = check_model(model_args, training_args)
    rows = read_rows(arguments.trajectories, arguments.trajectories_split)
    has_order = not has_completions(rows.column_names)
    if has_order:
        rows = as_stored(rows, arguments.trajectories)
    else:
        check_needs_no_order(training_args, arguments.trajectories)
    rows, held_out_rows = split_trajectories(rows, arguments)
    tokenizer = load_tokenizer(name, revision=model_args.model_revision, trust_remote_code=arguments.trust_remote_code)
    teacher = None
    if arguments.teacher_name_or_path is not None:
        check_same_tokens(arguments.teacher_name_or_path, tokenizer, trust_remote_code=arguments.trust_remote_code)
        teacher = load_named(arguments.teacher_name_or_path, model_args, training_args)
    student = load_named(name, model_args, training_args)
    if not has_order:
        facts = student_facts(student, tokenizer, training_args.max_length)
        rows = as_trajectories(rows, arguments.trajectories, facts, training_args)
    # In a sharded run, only the first process may have all of the weights.
    is_main = training_args.process_index == 0
    plan = training_plan(training_args, model_args, student, teacher, rows) if is_main else {}
    if is_main and checkpoint is not None:
        check_training_plan(output, plan)
    trainer = PseudoTrajectoryTrainer(
        model=student,
        args=training_args,
        train_dataset=rows,
        eval_dataset=held_out_rows,
        processing_class=tokenizer,
        teacher=teacher,
        held_out=read_held_out(arguments.held_out, arguments, tokenizer) if arguments.held_out else None,
        peft_config=get_peft_config(model_args),
    )
    trainer.card_facts = card_facts(str(arguments.trajectories), argv, has_order=has_order)
    if is_main:
        write_plan(output / PLAN_FILE, plan)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card()
    if model_args.use_peft and arguments.merge:
        save_merged(trainer, output / "merged", tokenizer)


if __name__ == "__main__":  # the same parser and the same errors as `d3llm distill`
    sys.argv[1:1] = ["distill"]
    runpy.run_module("d3llm", run_name="__main__")
