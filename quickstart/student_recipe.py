"""The recipe of the embedded student, read and checked."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from ..trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from ..trajectories.extract import ExtractionConfig


DEFAULT_RECIPE = Path(__file__).resolve().parent / "student.yaml"
# What a recipe must hold beside its seed; what else there is in `student.yaml` has a default.
NEEDED = {
    "problems": ["count", "seed"],
    "decoding": ["max_new_tokens"],
    "extraction": ["preset"],
    "training": [],
    "measurement": ["split", "problems", "seed", "batch_size", "methods"],
}
# What its sections cannot set, since the run does.
SET_BY_RUN = {
    "extraction": {"dataset", "output", "teacher", "answer_column", "check", "license", "seed", "decoding"},
    "training": {"output_dir", "seed", "max_new_tokens", "save_total_limit", "report_to", "use_cpu"},
}


def read_student_recipe(path: Path | None = None) -> dict[str, Any]:
    """
    Reads a recipe, and refuses one that a run could not follow to its end.

    Args:
        path (`Path`, *optional*): YAML file; by default `student.yaml`.

    Returns:
        `dict[str, Any]`: Its sections.

    Raises:
        `ValueError`: For a file that is not YAML, what is missing or of another kind than in the shipped recipe, and
            fields that nothing knows; it names them.
        `OSError`: If there is no such file.
    """
    shipped = yaml.safe_load(DEFAULT_RECIPE.read_text(encoding="utf-8"))
    if path is None:
        return shipped
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is not a recipe: it has no sections. Start from {DEFAULT_RECIPE}.")
    faults = [name for name in shipped if type(recipe.get(name)) is not type(shipped[name])]
    for section in NEEDED.keys() - faults:
        for name in NEEDED[section]:
            if type(recipe[section].get(name)) is not type(shipped[section][name]):
                faults.append(f"{section}.{name}")
    if not faults and not all(_is_method(method) for method in recipe["measurement"]["methods"]):
        faults.append("measurement.methods")
    if faults:
        raise ValueError(
            f"{path} is not a student's recipe: missing, or of another kind than in {DEFAULT_RECIPE}: "
            f"{', '.join(sorted(faults))}."
        )
    for section, kind in (("extraction", ExtractionConfig), ("training", PseudoTrajectoryConfig)):
        known = {field.name for field in dataclasses.fields(kind) if field.init} - SET_BY_RUN[section]
        unknown = sorted(map(str, recipe[section].keys() - known - set(NEEDED[section])))
        if unknown:
            raise ValueError(
                f"{path}: `{section}` cannot set {', '.join(unknown)}: nothing is called so, or the run sets it."
            )
    return recipe


def _is_method(method: object) -> bool:
    return isinstance(method, dict) and method.get("model") in ("student", "teacher") and "preset" in method
