"""The recipe of a student, as a plan gives it: checked, and as the configurations that it becomes."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..generation.configuration_diffusion import DiffusionGenerationConfig
from ..trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from ..trajectories.extract import ExtractionConfig
from .stories.reference import CHECK
from .stories.rows import ANSWER


EXTRA_FIELDS = {"extraction": {"preset"}, "training": set()}  # besides the fields of the section's config
# Fields that the sections cannot set, because the run sets them.
SET_BY_RUN = {
    "extraction": {"dataset", "output", "teacher", "answer_column", "check", "license", "seed", "decoding"},
    "training": {"output_dir", "seed", "max_new_tokens", "save_total_limit", "report_to", "use_cpu", "eval_strategy"},
}


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
        teacher=Path(recipe["teacher"]).name,
        answer_column=ANSWER,
        check=CHECK,
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
