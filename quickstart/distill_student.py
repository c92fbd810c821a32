"""Distils the embedded student from the embedded teacher: extract → distill → measure, on a CPU."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..common.files import remove_leftovers, whole_folder, write_atomically
from ..common.fingerprints import fingerprint_files
from ..common.plan import keep_plan
from ..evaluation import decoding_fields, generate_in_batches, resolve_generation_config
from ..evaluation.measurement import measure
from ..evaluation.result import Result
from ..evaluation.tasks import Sample
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
    prompts = [QUICKSTART.encode(tokenizer, sample, chat=True) for sample in samples]
    for method in measurement["methods"]:
        name, preset = method["model"], method["preset"]
        path = models[name]
        model = load(path)
        for point in method_points(method):
            fields = {**recipe["decoding"], "preset": preset, "early_stop": True, **point}
            config = resolve_generation_config(model, [len(prompt) for prompt in prompts], **fields)
            settings = {
                "method": f"{name}-{preset}",
                "model": name,
                "weights": fingerprint_files([path / "config.json", path / "model.safetensors"]),
                "dtype": "float32",
                "source": QUICKSTART.source,
                "split": measurement["split"],
                "seed": measurement["seed"],
                "point": point,
                "decoding": {"preset": preset, **decoding_fields(config)},
            }
            suffix = "".join(f".{field}={value}" for field, value in point.items())
            results.append(
                measure(
                    folder / f"{name}-{preset}{suffix}.json",
                    QUICKSTART,
                    samples,
                    prompts,
                    partial(generate_in_batches, model, tokenizer, prompts, **fields),
                    settings,
                    batch_size=measurement["batch_size"],
                )
            )
            logger.info(
                "%s%s: %.1f %% at %.2f tokens per forward",
                settings["method"],
                suffix,
                results[-1].accuracy_percent,
                results[-1].tokens_per_forward,
            )
    return results


def load(checkpoint: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Loads an embedded model by its name, or the model in a folder."""
    path = checkpoint_path(checkpoint) if isinstance(checkpoint, str) else checkpoint
    return load_model(path, **kwargs)


def load_teacher_tokenizer() -> PreTrainedTokenizerBase:
    """Loads the tokenizer of the embedded models."""
    return load_tokenizer(checkpoint_path("teacher"))
