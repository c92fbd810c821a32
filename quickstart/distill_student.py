"""Distils the embedded student from the embedded teacher: extract → distill → measure, on a CPU."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..common.files import remove_leftovers, whole_folder, write_atomically
from ..common.plan import keep_plan
from ..evaluation.measurer import Measurer, Point, checkpoint_fingerprint
from ..evaluation.result import Result
from ..evaluation.tasks import Sample, Task
from ..modeling.loading import load_model, load_tokenizer
from ..trainers.distill import last_checkpoint
from ..trainers.pseudo_trajectory_trainer import PseudoTrajectoryTrainer
from ..trajectories.dataset import load_trajectories
from ..trajectories.extract import extract_trajectories
from . import checkpoint_path
from .problems import generate_problems
from .student_recipe import extraction_config, method_points, read_student_recipe, training_config
from .task import QUICKSTART


logger = logging.get_logger(__name__)

RECIPE_FILE = "recipe.yaml"
REMEDY = "choose another folder, or delete this one"


def distill_student(output: Path, recipe_path: Path | None = None) -> list[Result]:
    """
    Runs the whole recipe in a folder, or resumes it there.

    Args:
        output (`Path`): Folder for `trajectories/`, `training/`, `student/` and `results/`.
        recipe_path (`Path`, *optional*): YAML recipe; by default `student.yaml`.

    Returns:
        `list[Result]`: The results of all points.

    Raises:
        `ValueError`: For a folder that holds a run of another recipe, and as from [`read_student_recipe`].
    """
    recipe = read_student_recipe(recipe_path)
    keep_plan(output / RECIPE_FILE, recipe, REMEDY)
    trajectories = extract(recipe, output / "trajectories")
    student = train(recipe, trajectories, output / "training", output / "student")
    return measure_methods(recipe, {"student": student}, output / "results")


def extract(recipe: dict[str, Any], folder: Path) -> Path:
    """
    Records the teacher on problems of the train split.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        folder (`Path`): Folder for the trajectories.

    Returns:
        `Path`: `folder`.
    """
    source = recipe["problems"]
    problems = generate_problems("train", source["count"], source["seed"])
    lines = [json.dumps({"prompt": problem.question, "answer": str(problem.answer)}) + "\n" for problem in problems]
    file = folder.with_name("prompts.jsonl")
    write_atomically(file, "".join(lines).encode())
    config = extraction_config(recipe, file, folder)
    extract_trajectories(load("teacher"), load_teacher_tokenizer(), config)
    return folder


def train(recipe: dict[str, Any], trajectories: Path, folder: Path, student: Path) -> Path:
    """
    Trains a student on the trajectories with correct answers.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        trajectories (`Path`): The folder from [`extract`].
        folder (`Path`): Folder for checkpoints.
        student (`Path`): Folder for the trained student. If it exists, nothing is done.

    Returns:
        `Path`: `student`.
    """
    remove_leftovers(student)
    if student.exists():
        return student
    dataset = load_trajectories(str(trajectories))
    correct_rows = [row for row, correct in enumerate(dataset["correct"]) if correct]
    tokenizer = load_teacher_tokenizer()
    trainer = PseudoTrajectoryTrainer(
        # On a CPU the backward pass of sdpa takes 1.5 times as long as the eager one.
        model=load("teacher", attn_implementation="eager"),
        args=training_config(recipe, folder),
        train_dataset=dataset.select(correct_rows),
        processing_class=tokenizer,
    )
    checkpoint = last_checkpoint(str(folder))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.model.generation_config.preset = "d3llm"
    with whole_folder(student) as unfinished:
        trainer.model.save_pretrained(unfinished, with_code=False)  # it is loaded by this package
        tokenizer.save_pretrained(unfinished)
        log = json.dumps(trainer.state.log_history, indent=1) + "\n"
        (unfinished / "training_log.json").write_text(log, encoding="utf-8")
    return student


def measure_methods(recipe: dict[str, Any], students: dict[str, Path], folder: Path) -> list[Result]:
    """
    Measures the methods of a recipe on unseen problems, with one result file per point. Finished points are read, not
    measured again.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        students (`dict[str, Path]`): Checkpoints, besides the teacher, by their name as `model` in the recipe.
        folder (`Path`): Folder for the result files.

    Returns:
        `list[Result]`: The results.
    """
    measurement, results = recipe["measurement"], []
    models = {"teacher": checkpoint_path("teacher"), **students}
    folder.mkdir(parents=True, exist_ok=True)
    problems = generate_problems(measurement["split"], measurement["problems"], measurement["seed"])
    samples = [Sample(str(index), problem.question, problem.answer) for index, problem in enumerate(problems)]
    tokenizer = load_teacher_tokenizer()
    for method in measurement["methods"]:
        name, preset = method["model"], method["preset"]
        measurer = MethodMeasurer(
            model=load(models[name]),
            tokenizer=tokenizer,
            output=folder,
            method=f"{name}-{preset}",
            name=name,
            weights=checkpoint_fingerprint(models[name]),
            split=measurement["split"],
            batch_size=measurement["batch_size"],
            seed=measurement["seed"],
        )
        fields = {**recipe["decoding"], "preset": preset, "early_stop": True}
        points = [
            Point({**fields, **values}, {field: str(value) for field, value in values.items()})
            for values in method_points(method)
        ]
        for point, result in zip(points, measurer.measure(QUICKSTART, samples, points), strict=True):
            logger.info(
                "%s: %.1f %% at %.2f tokens per forward",
                ".".join([measurer.method, *point.labels]),
                result.accuracy_percent,
                result.tokens_per_forward,
            )
            results.append(result)
    return results


@dataclass(frozen=True, kw_only=True)
class MethodMeasurer(Measurer):
    """
    Measures a method of a recipe, with the file names and settings of the folders that earlier versions wrote.

    Attributes:
        seed (`int`): Seed of the problems.
    """

    seed: int

    def file(self, task: Task, point: Point) -> Path:
        return self.output / f"{'.'.join([self.method, *point.labels])}.json"

    def settings(self, task: Task, point: Point, *args: Any) -> dict[str, Any]:
        settings = super().settings(task, point, *args) | {"seed": self.seed}
        return {name: value for name, value in settings.items() if name not in ("assistant_model", "chat")}


def load(checkpoint: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Loads an embedded model by its name, or the model in a folder."""
    path = checkpoint_path(checkpoint) if isinstance(checkpoint, str) else checkpoint
    return load_model(path, **kwargs)


def load_teacher_tokenizer() -> PreTrainedTokenizerBase:
    """Loads the tokenizer of the embedded models."""
    return load_tokenizer(checkpoint_path("teacher"))
