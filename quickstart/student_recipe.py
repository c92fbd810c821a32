"""The recipe of the embedded student, read and checked."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import NotRequired, TypedDict

from ..common.field_types import Count, LongSeed, Seed, Weight
from ..common.schema import check
from ..common.yaml_files import read_yaml
from ..generation.configuration_diffusion import DiffusionGenerationConfig
from ..trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from ..trajectories.extract import ExtractionConfig
from .problem_sets import ANSWER, PROBLEM_SETS, ProblemSet


DEFAULT_TASK = "quickstart"
DEFAULT_TEACHER = "teacher"
DEFAULT_RECIPE = Path(__file__).resolve().parent / "student.yaml"
DType = Literal["float32", "bfloat16", "float16"]
EXACT = ConfigDict(extra="forbid")
EXTRA_FIELDS = {"extraction": {"preset"}, "training": set()}  # besides the fields of the section's config
# Fields that the sections cannot set, because the run sets them.
SET_BY_RUN = {
    "extraction": {"dataset", "output", "teacher", "answer_column", "check", "license", "seed", "decoding"},
    "training": {"output_dir", "seed", "max_new_tokens", "save_total_limit", "report_to", "use_cpu"},
}


@with_config(EXACT)
class Problems(TypedDict):
    """The problems of the train split."""

    count: Count
    seed: LongSeed


@with_config(EXACT)
class Method(TypedDict):
    """A curve of the measurement, or a single point if it has no thresholds."""

    model: Literal["student", "teacher"]
    preset: str
    thresholds: NotRequired[Annotated[list[Weight], Field(min_length=1)]]


@with_config(EXACT)
class Measurement(TypedDict):
    """The problems to decode, and the decoding methods."""

    split: Literal["train", "validation", "test"]
    problems: Count
    seed: LongSeed
    batch_size: Count
    dtype: NotRequired[DType]
    methods: Annotated[list[Method], Field(min_length=1)]


@with_config(EXACT)
class StudentRecipe(TypedDict):
    """The content of `student.yaml`. Sections of type `dict` are checked by the configs that they become."""

    task: NotRequired[Literal["quickstart", "stories"]]
    teacher: NotRequired[str]
    seed: Seed
    problems: Problems
    decoding: dict[str, Any]
    extraction: dict[str, Any]
    training: dict[str, Any]
    measurement: Measurement


def read_student_recipe(path: Path | None = None) -> dict[str, Any]:
    """
    Reads a recipe, and refuses one that a run could not complete.

    Args:
        path (`Path`, *optional*): YAML file; by default `student.yaml`.

    Returns:
        `dict[str, Any]`: Its sections.

    Raises:
        `ValueError`: For a file that is not a recipe, the first missing or invalid value, and unknown or invalid
            fields of extraction, training and decoding.
        `OSError`: If there is no such file.
    """
    path = path or DEFAULT_RECIPE
    recipe = read_yaml(path)
    check(StudentRecipe, recipe, str(path), f"start from {DEFAULT_RECIPE}")
    check_recipe(recipe, str(path))
    return recipe


def check_recipe(recipe: dict[str, Any], name: str) -> None:
    """
    Checks the values of a recipe against the configs that they become.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        name (`str`): What errors call it.

    Raises:
        `ValueError`: For unknown or invalid fields of extraction, training and decoding.
    """
    for section, kind in (("extraction", ExtractionConfig), ("training", PseudoTrajectoryConfig)):
        known = {field.name for field in dataclasses.fields(kind) if field.init} - SET_BY_RUN[section]
        check_names(recipe[section], known | EXTRA_FIELDS[section], f"{name}: `{section}`")
    nowhere = Path("none")
    try:
        for method in recipe["measurement"]["methods"]:
            for point in method_points(method):
                fields = {**recipe["decoding"], **method.get("fields", {}), "preset": method["preset"], **point}
                DiffusionGenerationConfig(**fields)
        DiffusionGenerationConfig(**extraction_config(recipe, nowhere, nowhere).decoding)
        training_config(recipe, nowhere)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_names(given: dict[str, Any], known: Iterable[str], name: str) -> None:
    """Raises a `ValueError` for names that are not known, or that a recipe cannot set."""
    unknown = sorted(map(str, given.keys() - set(known)))
    if unknown:
        raise ValueError(f"{name} cannot set {', '.join(unknown)}: there is no such name, or the run sets it.")


def problem_set(recipe: dict[str, Any]) -> ProblemSet:
    """The problems that a recipe is about."""
    return PROBLEM_SETS[recipe.get("task", DEFAULT_TASK)]


def teacher_of(recipe: dict[str, Any]) -> str:
    """The name of an embedded teacher, or the folder of another one."""
    return recipe.get("teacher", DEFAULT_TEACHER)


def method_points(method: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields that each point of a curve sets besides the preset."""
    return [{"threshold": threshold} for threshold in method.get("thresholds", ())] or [{}]


def extraction_config(recipe: dict[str, Any], prompts: Path, folder: Path) -> ExtractionConfig:
    """
    The configuration of the extraction.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        prompts (`Path`): JSON lines with `prompt` and `answer`.
        folder (`Path`): Folder for the trajectories.

    Returns:
        [`~d3llm.trajectories.extract.ExtractionConfig`]: The configuration.

    Raises:
        `ValueError`: For invalid values.
    """
    settings = dict(recipe["extraction"])
    preset = {"preset": settings.pop("preset")} if "preset" in settings else {}
    return ExtractionConfig(
        dataset=str(prompts),
        output=folder,
        teacher=Path(teacher_of(recipe)).name,
        answer_column=ANSWER,
        check=problem_set(recipe).check,
        license="apache-2.0",
        seed=recipe["seed"],
        decoding={**recipe["decoding"], **preset},
        **settings,
    )


def training_config(recipe: dict[str, Any], folder: Path) -> PseudoTrajectoryConfig:
    """
    The configuration of the training.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        folder (`Path`): Folder for checkpoints.

    Returns:
        [`~d3llm.trainers.pseudo_trajectory_config.PseudoTrajectoryConfig`]: The configuration.

    Raises:
        `ValueError`: For invalid values.
    """
    return PseudoTrajectoryConfig(
        output_dir=str(folder),
        seed=recipe["seed"],
        max_new_tokens=recipe["decoding"].get("max_new_tokens"),
        save_total_limit=1,
        report_to="none",
        use_cpu=True,
        **recipe["training"],
    )
