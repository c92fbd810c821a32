"""The recipe of the embedded student, read and checked."""

import dataclasses
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


DEFAULT_RECIPE = Path(__file__).resolve().parent / "student.yaml"
EXACT = ConfigDict(extra="forbid")
OWN_FIELDS = {"extraction": {"preset"}, "training": set()}  # besides those of the configs that they become
# What its sections cannot set, since the run does.
SET_BY_RUN = {
    "extraction": {"dataset", "output", "teacher", "answer_column", "check", "license", "seed", "decoding"},
    "training": {"output_dir", "seed", "max_new_tokens", "save_total_limit", "report_to", "use_cpu"},
}


@with_config(EXACT)
class Problems(TypedDict):
    """Of the train split."""

    count: Count
    seed: LongSeed


@with_config(EXACT)
class Method(TypedDict):
    """A curve of the measurement; without thresholds, one point."""

    model: Literal["student", "teacher"]
    preset: str
    thresholds: NotRequired[Annotated[list[Weight], Field(min_length=1)]]


@with_config(EXACT)
class Measurement(TypedDict):
    """Which problems are decoded, and how."""

    split: Literal["train", "validation", "test"]
    problems: Count
    seed: LongSeed
    batch_size: Count
    methods: Annotated[list[Method], Field(min_length=1)]


@with_config(EXACT)
class StudentRecipe(TypedDict):
    """All that `student.yaml` says; sections that are handed on are checked by what takes them."""

    seed: Seed
    problems: Problems
    decoding: dict[str, Any]
    extraction: dict[str, Any]
    training: dict[str, Any]
    measurement: Measurement


def read_student_recipe(path: Path | None = None) -> dict[str, Any]:
    """
    Reads a recipe, and refuses one that a run could not follow to its end.

    Args:
        path (`Path`, *optional*): YAML file; by default `student.yaml`.

    Returns:
        `dict[str, Any]`: Its sections.

    Raises:
        `ValueError`: For a file that is no recipe, the first value that is missing or is not what `student.yaml` has
            in its place, and fields of extraction, training and decoding that nothing knows or takes.
        `OSError`: If there is no such file.
    """
    path = path or DEFAULT_RECIPE
    recipe = read_yaml(path)
    check(StudentRecipe, recipe, str(path), f"start from {DEFAULT_RECIPE}")
    for section, kind in (("extraction", ExtractionConfig), ("training", PseudoTrajectoryConfig)):
        known = {field.name for field in dataclasses.fields(kind) if field.init} - SET_BY_RUN[section]
        unknown = sorted(map(str, recipe[section].keys() - known - OWN_FIELDS[section]))
        if unknown:
            raise ValueError(
                f"{path}: `{section}` cannot set {', '.join(unknown)}: nothing is called so, or the run sets it."
            )
    try:
        for method in recipe["measurement"]["methods"]:
            for point in method_points(method):
                DiffusionGenerationConfig(**{**recipe["decoding"], "preset": method["preset"], **point})
        decoding = extraction_config(recipe, path, path.with_suffix(".trajectories")).decoding
        DiffusionGenerationConfig(**decoding)
        training_config(recipe, path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def method_points(method: dict[str, Any]) -> list[dict[str, Any]]:
    """What the points of a curve set besides the preset."""
    return [{"threshold": threshold} for threshold in method.get("thresholds", ())] or [{}]


def extraction_config(recipe: dict[str, Any], prompts: Path, folder: Path) -> ExtractionConfig:
    """
    What the teacher is recorded on.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        prompts (`Path`): JSON lines with `prompt` and `answer`.
        folder (`Path`): For the trajectories.

    Returns:
        [`~d3llm.trajectories.extract.ExtractionConfig`]: The values.

    Raises:
        `ValueError`: For values that are not allowed.
    """
    settings = dict(recipe["extraction"])
    preset = {"preset": settings.pop("preset")} if "preset" in settings else {}
    return ExtractionConfig(
        dataset=str(prompts),
        output=folder,
        teacher="teacher",
        answer_column="answer",
        check="hash",
        license="apache-2.0",
        seed=recipe["seed"],
        decoding={**recipe["decoding"], **preset},
        **settings,
    )


def training_config(recipe: dict[str, Any], folder: Path) -> PseudoTrajectoryConfig:
    """
    How the student is trained.

    Args:
        recipe (`dict[str, Any]`): The recipe.
        folder (`Path`): For checkpoints.

    Returns:
        [`~d3llm.trainers.pseudo_trajectory_config.PseudoTrajectoryConfig`]: The values.

    Raises:
        `ValueError`: For values that are not allowed.
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
