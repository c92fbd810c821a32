"""Compares recipes: students that differ from a base in one factor, with several seeds and on the same problems."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils import logging
from trl import ModelConfig

from ..common.bfloat16 import quick_bfloat16
from ..common.files import check_folder_to_be, remove_leftovers, whole_file, whole_folder, write_atomically
from ..common.fingerprints import fingerprint_checkpoint
from ..common.plan import check_plan, keep_plan
from ..trainers import distill_rl
from ..trainers.rounds import train_rounds
from ..trajectories.extract import ExtractionConfig, extract_trajectories
from .comparison_plan import TEACHER, ComparisonPlan, methods_of, read_plan
from .half_size import store_in_bfloat16
from .order_model import train_order_model
from .stories.reference import CHECK
from .stories.rows import ANSWER, PROMPT, write_rows
from .student_recipe import method_points, training_config
from .student_stages import (
    checkpoint_folder,
    extract,
    load,
    load_teacher_tokenizer,
    measure_methods,
    right_rows,
    train,
)
from .weight_average import average_weights


logger = logging.get_logger(__name__)

REMEDY = "choose another folder, or give what has changed another name"
ATTENTION = "eager"  # on a CPU the backward pass of sdpa takes 1.5 times as long


@dataclass(frozen=True)
class ComparisonFolder:
    """
    The folder of a comparison.

    Args:
        path (`Path`): The folder.
    """

    path: Path

    @property
    def results(self) -> Path:
        """Result files of all models, `MODEL-SEED-DECODER[.threshold=VALUE].json`."""
        return self.path / "results"

    @property
    def fresh_problems(self) -> Path:
        """Problems for rounds and rewards."""
        return self.path / "fresh_problems.jsonl"

    @property
    def order_model(self) -> Path:
        """The causal language model of orders."""
        return self.path / "order_model"

    def trajectories(self, name: str) -> Path:
        """What the teacher did, or another order of the same texts for a student by its name."""
        return self.path / "trajectories" / name

    def student(self, name: str, seed: int) -> Path:
        """A trained student: it has a `config.json` when it is finished."""
        return self.path / "students" / f"{name}-{seed}"

    def training(self, name: str, seed: int) -> Path:
        """Checkpoints, while a student is trained."""
        return self.path / "training" / f"{name}-{seed}"

    def plan(self, part: str) -> Path:
        """The saved plan of a part."""
        return self.path / "plan" / f"{part}.yaml"


def run_comparison(
    output: Path,
    plan_path: Path | None = None,
    seeds: Sequence[int] | None = None,
    only: Sequence[str] | None = None,
) -> Path:
    """
    Runs the missing parts of a comparison: first every student with the first seed, then with the next one. So what
    is there after an interruption can be compared. A killed run resumes where it was.

    Args:
        output (`Path`): Folder for trajectories, students and result files.
        plan_path (`Path`, *optional*): The plan; by default `comparison.yaml`.
        seeds (`Sequence[int]`, *optional*): Which of the plan's seeds to run; by default all.
        only (`Sequence[str]`, *optional*): Students to run, with those that they start from; by default all.

    Returns:
        `Path`: The folder of result files.

    Raises:
        `ValueError`: For seeds and students that are not in the plan, parts that were run with other values, and as
            from [`read_plan`].
        `OSError`: For a teacher that is not there.
    """
    plan, folder = read_plan(plan_path), ComparisonFolder(output)
    unknown = sorted(set(seeds or []) - set(plan.values["seeds"]))
    if unknown:
        raise ValueError(f"The plan has the seeds {plan.values['seeds']}, not {unknown}: choose among them.")
    students = plan.with_starts(plan.students if only is None else only)
    comparison = Comparison(plan, folder)
    comparison.begin(students)
    comparison.measure_teacher()
    for seed in seeds or plan.values["seeds"]:
        for student in students:
            comparison.train_student(student, seed)
            comparison.measure_student(student, seed)
    return folder.results


def student_part(name: str) -> str:
    """The part of a plan that is about a student."""
    return f"student.{name}"


def plan_parts(plan: ComparisonPlan, students: Sequence[str]) -> dict[str, dict[str, Any]]:
    """
    The parts of a plan that are saved one by one, so that students, decoders, thresholds and seeds can be added to a
    comparison.

    Args:
        plan ([`ComparisonPlan`]): The plan.
        students (`Sequence[str]`): Names of the students to be run.

    Returns:
        `dict[str, dict]`: What all results depend on, the decoders, and what the weights of each student depend on
        besides those of the one that it starts from.
    """
    teacher = fingerprint_checkpoint(checkpoint_folder(plan.values["teacher"]))
    parts = {"common": {**plan.common(), "teacher": teacher}}
    for section in ("decoders", "teacher_decoders"):
        for name, decoder in plan.values[section].items():
            parts[f"{section}.{name}"] = {key: decoder[key] for key in decoder if key != "thresholds"}
    parts |= {student_part(name): plan.training_of(name) for name in students}
    return {part: _by_path(values) for part, values in parts.items()}


def _by_path(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested values in one dictionary, so that those of the same name in two sections are told apart."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _by_path(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return flat


class Comparison:
    """
    Runs parts of a comparison that are missing.

    Args:
        plan ([`ComparisonPlan`]): The plan.
        folder ([`ComparisonFolder`]): Where everything goes.
    """

    def __init__(self, plan: ComparisonPlan, folder: ComparisonFolder):
        self.plan = plan
        self.folder = folder

    def begin(self, students: Sequence[str]) -> None:
        """
        Saves the parts of the plan that all students share. Each student's part is saved when it is trained, so that
        it may be changed until then.

        Args:
            students (`Sequence[str]`): Names of the students to be run.

        Raises:
            `ValueError`: For a part that was run with other values.
            `OSError`: For a folder that cannot be written.
        """
        check_folder_to_be(self.folder.path)
        parts = plan_parts(self.plan, students)
        for part, values in parts.items():
            check_plan(self.folder.plan(part), values, REMEDY, folder=self.folder.plan(part))
        for part in parts.keys() - {student_part(name) for name in students}:
            keep_plan(self.folder.plan(part), parts[part], REMEDY)

    def measure_teacher(self) -> None:
        """Measures the teacher with its decoders."""
        decoders = self.plan.values["teacher_decoders"]
        self._measure(methods_of(decoders, decoders, TEACHER), {})

    def train_student(self, name: str, seed: int) -> None:
        """
        Trains a student, unless it is there.

        Args:
            name (`str`): Its name.
            seed (`int`): The seed.
        """
        keep_plan(self.folder.plan(student_part(name)), _by_path(self.plan.training_of(name)), REMEDY)
        student = self.folder.student(name, seed)
        remove_leftovers(student)
        if not (student / "config.json").exists():
            logger.info("%s, seed %d: training", name, seed)
            # a cache of casts would outlive the weights that an optimizer's step changes
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.plan.values["bf16"], cache_enabled=False)
            with quick_bfloat16(), autocast:
                self._train(name, seed, student)
        store_in_bfloat16(student)
        shutil.rmtree(self.folder.training(name, seed), ignore_errors=True)

    def measure_student(self, name: str, seed: int) -> None:
        """
        Measures a trained student with its decoders.

        Args:
            name (`str`), seed (`int`): As for [`Comparison.train_student`].
        """
        model = f"{name}-{seed}"
        methods = methods_of(self.plan.values["decoders"], self.plan.decoders_of(name), model)
        self._measure(methods, {model: self.folder.student(name, seed)})

    def _train(self, name: str, seed: int, student: Path) -> None:
        own = self.plan.students[name]
        start = self._folder_of(own.get("start", TEACHER), seed)
        if "rounds" in own:
            self._train_round(name, seed, start, student)
        elif "rewards" in own:
            self._train_by_rewards(name, seed, start, student)
        elif "averaged_with" in own:
            average_weights(start, self._folder_of(own["averaged_with"], seed), student)
        else:
            recipe = self.plan.recipe(name, seed)
            train(recipe, self._lessons(name), self.folder.training(name, seed), student, start)

    def _folder_of(self, model: str, seed: int) -> Path:
        """The folder of the teacher or a student."""
        return checkpoint_folder(self.plan.values["teacher"]) if model == TEACHER else self.folder.student(model, seed)

    def _train_round(self, name: str, seed: int, start: Path, student: Path) -> None:
        recipe = self.plan.recipe(name, seed + self.plan.rounds_before(name))
        train_rounds(
            ModelConfig(model_name_or_path=str(start), dtype="float32", attn_implementation=ATTENTION),
            training_config(recipe, student),
            self.plan.rounds(name, self._fresh_problems()),
            on_round=lambda finished: logger.info("%s, seed %d, %s", name, seed, finished.describe()),
        )

    def _train_by_rewards(self, name: str, seed: int, start: Path, student: Path) -> None:
        training = self.folder.training(name, seed)
        values = self.plan.rewards(name, seed, training) | {
            "trainer": "lightning_rl",
            "model_name_or_path": str(start),
            "dtype": "float32",
            "attn_implementation": ATTENTION,
            "prompts": str(self._fresh_problems()),
            "prompt_column": PROMPT,
            "answer_column": ANSWER,
            "check": CHECK,
            "resume": True,
        }
        training.mkdir(parents=True, exist_ok=True)
        recipe = training / "recipe.yaml"
        write_atomically(recipe, yaml.safe_dump(values).encode())
        distill_rl.main(["--config", str(recipe)])
        with whole_folder(student) as unfinished:
            shutil.copytree(training, unfinished, ignore=shutil.ignore_patterns("checkpoint-*"), dirs_exist_ok=True)

    def _fresh_problems(self) -> Path:
        source = self.plan.values["fresh_problems"]
        return write_rows(self.folder.fresh_problems, source["count"], source["seed"])

    def _lessons(self, name: str) -> Path:
        """The trajectories that a student is trained on."""
        first = self.plan.values["seeds"][0]
        own, base = self.plan.recipe(name, first), self.plan.values["extraction"]
        of_teacher = self.folder.trajectories(TEACHER)
        extract(own | {"extraction": base}, of_teacher)
        if own["extraction"] == base:
            return of_teacher
        if own["extraction"].get("order", TEACHER) == TEACHER:
            return extract(own, self.folder.trajectories(name))
        return self._reorder(own, of_teacher, self.folder.trajectories(name))

    def _reorder(self, recipe: dict[str, Any], of_teacher: Path, output: Path) -> Path:
        """Gives the right texts of the teacher another order."""
        lessons = right_rows(of_teacher)
        file = self.folder.trajectories("right.parquet")
        if not file.exists():
            with whole_file(file) as unfinished:
                lessons.to_parquet(unfinished)
        teacher, order = recipe["teacher"], recipe["extraction"]["order"]
        tokenizer = load_teacher_tokenizer(teacher)
        model = None
        if order.startswith("ar_"):
            settings = self.plan.values["order_model"]
            model = str(train_order_model(lessons, tokenizer, settings, recipe["seed"], self.folder.order_model))
        config = ExtractionConfig(
            dataset=str(file),
            output=output,
            teacher=Path(teacher).name,
            prompt_column="prompt_ids",
            response_column="response_ids",
            order=order,
            order_model=model,
            seed=recipe["seed"],
            chunk_size=recipe["extraction"].get("chunk_size", 64),
            batch_size=recipe["extraction"].get("batch_size", 16),
        )
        extract_trajectories(load(teacher), tokenizer, config)
        return output

    def _measure(self, methods: list[dict[str, Any]], students: dict[str, Path]) -> None:
        """Measures the methods that have points without a result file."""
        missing = [method for method in methods if not self._is_measured(method)]
        if missing:
            recipe = self.plan.recipe(self.plan.base, 0)
            recipe["measurement"]["methods"] = missing
            with quick_bfloat16():
                measure_methods(recipe, students, self.folder.results)

    def _is_measured(self, method: dict[str, Any]) -> bool:
        names = [f"{method['model']}-{method['decoder']}"]
        labels = [[f"{field}={value}" for field, value in point.items()] for point in method_points(method)]
        return all((self.folder.results / f"{'.'.join([*names, *each])}.json").exists() for each in labels)
