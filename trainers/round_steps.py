"""The steps of an on-policy round: decode prompts, choose the runs to learn from, train, save."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging
from trl import ModelConfig, get_peft_config

from ..common.files import whole_folder
from ..common.processes import Processes
from ..evaluation import resolve_generation_config
from ..hub_cards.cards import is_hub_id
from ..hub_cards.merging import merge_adapters
from ..trajectories.dataset import load_trajectories
from ..trajectories.extract import ExtractionConfig, extract_trajectories
from ..trajectories.store import Parts
from ..trajectories.trajectory_facts import ChunkCounts, extraction_counts
from .distill import card_facts, last_checkpoint
from .pseudo_trajectory_config import PseudoTrajectoryConfig
from .pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from .rounds_config import RoundsConfig


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class RoundFolder:
    """
    The folder of a round, `output_dir/rounds/NUMBER`.

    Args:
        output (`Path`): The output folder of the rounds.
        number (`int`): Number of the round, counted from 1.
    """

    output: Path
    number: int

    @property
    def path(self) -> Path:
        return self.output / "rounds" / str(self.number)

    @property
    def trajectories(self) -> Path:
        """What was decoded in the round, or the given texts."""
        return self.path / "trajectories"

    @property
    def training(self) -> Path:
        """Checkpoints, while the round is trained."""
        return self.path / "training"

    @property
    def student(self) -> Path:
        """The trained student: it exists when the round is finished."""
        return self.path / "student"


def decoding_of(config: RoundsConfig, args: PseudoTrajectoryConfig) -> dict[str, Any]:
    """
    How a student decodes: as its generation config says, unless `config` says otherwise, and on the canvas of the
    training.
    """
    canvas = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
    # A preset of `None` is the student's own. Without one, an extraction would take one token per forward.
    return {"preset": None, **canvas, **dict(config.decoding or {})}  # type: ignore[arg-type]


def extraction_config(
    config: RoundsConfig, args: PseudoTrajectoryConfig, folder: RoundFolder, teacher: str
) -> ExtractionConfig:
    """
    The extraction of a round.

    Args:
        config ([`RoundsConfig`]): The prompts and the check.
        args ([`PseudoTrajectoryConfig`]): The training.
        folder ([`RoundFolder`]): The round.
        teacher (`str`): The name of the student that decodes.

    Returns:
        [`~d3llm.trajectories.extract.ExtractionConfig`]: Its configuration.

    Raises:
        `ValueError`: If the values do not fit together.
    """
    is_own = config.texts == "own"
    return ExtractionConfig(
        dataset=str(config.prompts),
        output=folder.trajectories,
        teacher=teacher,
        dataset_config=config.prompts_config,
        split=config.prompts_split,
        skip=config.skip + (config.prompts_per_round or 0) * (folder.number - 1),
        limit=config.prompts_per_round,
        prompt_column=config.prompt_column,
        answer_column=None if config.check is None else config.answer_column,
        response_column=config.response_column,
        order_column=config.order_column,
        chat=config.chat,
        order="teacher" if is_own else config.given_order,
        decoding=decoding_of(config, args) if is_own else {},
        temperatures=config.temperatures,
        seed=seed_of(args, folder),
        check=config.check or "none",
        keep="corrected" if config.keep == "corrected" else "all",
        allow_code_execution=config.allow_code_execution,
        chunk_size=config.chunk_size,
        batch_size=config.decoding_batch_size,
    )


def seed_of(args: PseudoTrajectoryConfig, folder: RoundFolder) -> int:
    """The seed of a round: no round repeats the draws of the one before."""
    return args.seed + folder.number - 1


def decode_round(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: PseudoTrajectoryConfig,
    config: RoundsConfig,
    folder: RoundFolder,
    processes: Processes,
) -> ChunkCounts:
    """
    Records the student's runs on the prompts of a round, or the given texts, from where it was interrupted.

    Args:
        student (`PreTrainedModel`), tokenizer (`PreTrainedTokenizerBase`): The student before the round.
        args ([`PseudoTrajectoryConfig`]), config ([`RoundsConfig`]): The rounds.
        folder ([`RoundFolder`]): The round.
        processes ([`~d3llm.common.processes.Processes`]): Those that share the work.

    Returns:
        [`~d3llm.trajectories.trajectory_facts.ChunkCounts`]: What was counted.
    """
    name = student.config._name_or_path
    teacher = name if is_hub_id(name) else Path(name).resolve().name
    if folder.number > 1:
        teacher = f"student of round {folder.number - 1}"
    extraction = extraction_config(config, args, folder, teacher)
    extract_trajectories(student.to(args.device), tokenizer, extraction, processes)
    processes.wait()
    return extraction_counts(Parts.open(folder.trajectories))


def choose_rows(counts: ChunkCounts, config: RoundsConfig, folder: RoundFolder) -> Dataset:
    """
    The trajectories to learn from. A check that passes every answer is mentioned, and one that passes none an error.

    Args:
        counts ([`~d3llm.trajectories.trajectory_facts.ChunkCounts`]): What was counted in the round.
        config ([`RoundsConfig`]): The check, and what is kept.
        folder ([`RoundFolder`]): The round.

    Returns:
        `Dataset`: The trajectories.

    Raises:
        `ValueError`: If no answer is right.
    """
    judged = counts.correct + counts.wrong
    if config.check is not None and config.keep == "correct" and not counts.correct:
        raise ValueError(
            f"Round {folder.number}: none of {judged} answers is right by the check {config.check!r}, so there is "
            f"nothing to learn. Look at the texts in {folder.trajectories}; then give another --output_dir, and a "
            "decoder with more forwards (--decoding), another --check or --answer_column, or --keep all."
        )
    if judged and not counts.wrong:
        logger.warning(
            "Round %d: all %d answers are right by the check %r, so it leaves none out. Harder prompts, or a decoder "
            "with fewer forwards (--decoding), have more to teach.",
            *(folder.number, judged, config.check),
        )
    rows = load_trajectories(folder.trajectories)
    if config.keep == "all":
        return rows
    return rows.select([index for index, correct in enumerate(rows["correct"]) if correct is not False])


def train_round(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    args: PseudoTrajectoryConfig,
    model_args: ModelConfig,
    config: RoundsConfig,
    folder: RoundFolder,
) -> None:
    """
    Trains the student of a round, from its last complete checkpoint if there is one, and saves it.

    Args:
        student (`PreTrainedModel`), tokenizer (`PreTrainedTokenizerBase`): The student before the round.
        rows (`Dataset`): The trajectories to learn from.
        args ([`PseudoTrajectoryConfig`]), model_args (`ModelConfig`), config ([`RoundsConfig`]): The rounds.
        folder ([`RoundFolder`]): The round.
    """
    canvas = resolve_generation_config(student, [1], **decoding_of(config, args)).max_new_tokens
    of_round: dict[str, Any] = {"output_dir": str(folder.training), "seed": seed_of(args, folder)}
    trainer = PseudoTrajectoryTrainer(
        model=student,
        args=replace(args, max_new_tokens=args.max_new_tokens or canvas, **of_round),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    trainer.card_facts = card_facts(str(folder.trajectories), [])
    checkpoint = last_checkpoint(str(folder.training))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.is_world_process_zero():
        save_student(trainer, tokenizer, folder)


def save_student(trainer: PseudoTrajectoryTrainer, tokenizer: PreTrainedTokenizerBase, folder: RoundFolder) -> None:
    """Saves a plain model, with its tokenizer, card and log; adapters are merged into its weights."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_peft_model(model):
        model = merge_adapters(model)
    with whole_folder(folder.student) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        trainer.write_card(unfinished, folder.output.resolve().name)
        trainer.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
