"""The stages of a student on a CPU: extract → distill → measure."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..common.files import whole_folder
from ..common.fingerprints import fingerprint_checkpoint
from ..evaluation.measurer import Measurer, Point
from ..evaluation.tasks import Task
from ..generation.configuration_diffusion import DiffusionGenerationConfig
from ..generation.fields import METHOD_DEFAULTS
from ..modeling.loading import load_model, load_tokenizer
from ..trainers.distill import last_checkpoint
from ..trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from ..trajectories.dataset import load_trajectories
from ..trajectories.extract import extract_trajectories
from . import CHECKPOINTS, checkpoint_path
from .stories.rows import write_rows
from .stories.task import STORIES, draw_samples
from .student_recipe import extraction_config, method_points, training_config


logger = logging.get_logger(__name__)


def extract(recipe: dict[str, Any], folder: Path) -> Path:
    """
    Records the teacher on problems of the train split.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        folder (`Path`): Folder for the trajectories.

    Returns:
        `Path`: `folder`.
    """
    source, teacher = recipe["problems"], recipe["teacher"]
    file = write_rows(folder.with_name("prompts.jsonl"), source["count"], source["seed"])
    config = extraction_config(recipe, file, folder)
    extract_trajectories(load(teacher), load_teacher_tokenizer(teacher), config)
    return folder


def train(recipe: dict[str, Any], trajectories: Path, folder: Path, student: Path, start: Path) -> None:
    """
    Trains a student on the trajectories, without those whose answer is wrong.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        trajectories (`Path`): The folder from [`extract`].
        folder (`Path`): Folder for checkpoints.
        student (`Path`): Folder for the trained student.
        start (`Path`): The model to start from.
    """
    teacher = recipe["teacher"]
    tokenizer, args = load_teacher_tokenizer(teacher), training_config(recipe, folder)
    trainer = PseudoTrajectoryTrainer(
        # On a CPU the backward pass of sdpa takes 1.5 times as long as the eager one.
        model=load(start, attn_implementation="eager"),
        args=args,
        train_dataset=right_rows(trajectories),
        processing_class=tokenizer,
        teacher=load(teacher) if args.needs_teacher else None,
    )
    checkpoint = last_checkpoint(str(folder))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    of_teacher = trainer.model.generation_config.to_dict()
    # without the teacher's method, such as its order from left to right
    others = {name: value for name, value in of_teacher.items() if name not in METHOD_DEFAULTS}
    trainer.model.generation_config = DiffusionGenerationConfig.from_dict({**others, "preset": "d3llm"})
    with whole_folder(student) as unfinished:
        trainer.model.save_pretrained(unfinished, with_code=False)  # it is loaded by this package
        tokenizer.save_pretrained(unfinished)
        log = json.dumps(trainer.state.log_history, indent=1) + "\n"
        (unfinished / "training_log.json").write_text(log, encoding="utf-8")


def right_rows(trajectories: Path) -> Dataset:
    """The trajectories in a folder, without those whose answer is wrong."""
    rows = load_trajectories(trajectories)
    return rows.select([row for row, correct in enumerate(rows["correct"]) if correct is not False])


def measure_methods(recipe: dict[str, Any], students: dict[str, Path], folder: Path) -> None:
    """
    Measures the methods of a recipe on unseen problems, with one result file per point. Finished points are read, not
    measured again.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        students (`dict[str, Path]`): Checkpoints, besides the teacher, by their name as `model` in the recipe.
        folder (`Path`): Folder for the result files.
    """
    measurement, teacher = recipe["measurement"], recipe["teacher"]
    models = {"teacher": checkpoint_folder(teacher), **students}
    folder.mkdir(parents=True, exist_ok=True)
    samples = draw_samples(measurement["split"], measurement["problems"], measurement["seed"])
    tokenizer = load_teacher_tokenizer(teacher)
    loading = {"dtype": measurement["dtype"]} if "dtype" in measurement else {}
    for method in measurement["methods"]:
        name = method["model"]
        measurer = MethodMeasurer(
            model=load(models[name], **loading),
            tokenizer=tokenizer,
            output=folder,
            method=f"{name}-{method['decoder']}",
            name=name,
            weights=fingerprint_checkpoint(models[name]),
            split=measurement["split"],
            batch_size=measurement["batch_size"],
            seed=measurement["seed"],
        )
        fields = {**recipe["decoding"], "early_stop": True, **method.get("fields", {}), "preset": method["preset"]}
        points = [
            Point({**fields, **values}, {field: str(value) for field, value in values.items()})
            for values in method_points(method)
        ]
        for point, result in zip(points, measurer.measure(STORIES, samples, points), strict=True):
            logger.info(
                "%s: %.1f %% at %.2f tokens per forward",
                ".".join([measurer.method, *point.labels]),
                result.accuracy_percent,
                result.tokens_per_forward,
            )


@dataclass(frozen=True, kw_only=True)
class MethodMeasurer(Measurer):
    """
    Measures a method of a recipe. There is one task, so files do not name it.

    Attributes:
        seed (`int`): Seed of the problems.
    """

    seed: int

    def file(self, task: Task, point: Point) -> Path:
        return self.output / f"{'.'.join([self.method, *point.labels])}.json"

    def settings(self, task: Task, point: Point, *args: Any) -> dict[str, Any]:
        return super().settings(task, point, *args) | {"seed": self.seed}


def load(checkpoint: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Loads a shipped model by its name, or the model in a folder."""
    return load_model(checkpoint_folder(checkpoint), **kwargs)


def load_teacher_tokenizer(teacher: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a teacher and its students."""
    return load_tokenizer(checkpoint_folder(teacher))


def checkpoint_folder(checkpoint: str | Path) -> Path:
    """The folder of a shipped checkpoint, given by its name, or the folder itself."""
    return checkpoint_path(checkpoint) if checkpoint in CHECKPOINTS else Path(checkpoint)
