"""
The plan of a run: everything its results depend on, saved with them. Resuming requires an identical plan.

Extraction, training, evaluation and the quickstart each decide what belongs in their plan. Plans are saved, compared
and refused in the same way for all of them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .files import write_atomically


SHOWN = 5  # differences in an error


def plan_values(values: dict[str, Any]) -> dict[str, Any]:
    """
    A plan as it is read back from a file: tuples become lists, and enumerations become their values.

    Args:
        values (`dict[str, Any]`): JSON values by name.

    Returns:
        `dict[str, Any]`: The same values after a round trip through JSON.
    """
    return json.loads(json.dumps(values))


def write_plan(path: Path, plan: dict[str, Any]) -> None:
    """
    Saves a plan. Its folder is created.

    Args:
        path (`Path`): The file, `.json` or `.yaml`.
        plan (`dict[str, Any]`): JSON values by name.

    Raises:
        `OSError`: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(plan, sort_keys=False) if path.suffix == ".yaml" else json.dumps(plan, indent=2) + "\n"
    write_atomically(path, text.encode())


def read_plan(path: Path, remedy: str) -> dict[str, Any] | None:
    """
    Reads a plan.

    Args:
        path (`Path`): The file.
        remedy (`str`): What to do about a damaged file, for the end of the error.

    Returns:
        `dict[str, Any]` or `None`: The plan; `None` if there is no such file.

    Raises:
        `ValueError`: For a damaged file.
        `OSError`: If it cannot be read.
    """
    if not path.exists():
        return None
    try:
        text = path.read_bytes().decode()
        plan = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        if not isinstance(plan, dict):
            raise ValueError("the plan is not an object")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged: {remedy}.") from error
    return plan


def check_plan(path: Path, plan: dict[str, Any], remedy: str, *, folder: Path | None = None) -> bool:
    """
    Checks whether a run may resume: the saved plan must be the same as its own.

    Args:
        path (`Path`): The file of the saved plan.
        plan (`dict[str, Any]`): The plan of this run.
        remedy (`str`): What to do about a different plan, for the end of the error.
        folder (`Path`, *optional*): The folder to name in the error; by default the folder of the file.

    Returns:
        `bool`: Whether there is a saved plan.

    Raises:
        `ValueError`: For a plan that differs, with the old and the new values, and for a damaged one.
        `OSError`: If it cannot be read.
    """
    before = read_plan(path, remedy)
    if before is None:
        return False
    compare_plans(before, plan, folder or path.parent, remedy)
    return True


def keep_plan(path: Path, plan: dict[str, Any], remedy: str) -> None:
    """
    Checks a run against the saved plan, as [`check_plan`] does. Saves its own plan if there is none.

    Args:
        path (`Path`): The file of the plan.
        plan (`dict[str, Any]`): The plan of this run.
        remedy (`str`): What to do about a different plan, for the end of the error.

    Raises:
        `ValueError`: For a plan that differs or is damaged.
        `OSError`: If it cannot be read or written.
    """
    if not check_plan(path, plan, remedy):
        write_plan(path, plan)


def compare_plans(
    before: dict[str, Any],
    plan: dict[str, Any],
    where: Path,
    remedy: str,
    *,
    names: Iterable[str] | None = None,
) -> None:
    """
    Compares two plans value by value. Values in nested objects are compared by their innermost name.

    Args:
        before (`dict[str, Any]`): The saved plan.
        plan (`dict[str, Any]`): The plan of this run.
        where (`Path`): The folder or file of the saved plan.
        remedy (`str`): What to do if they differ, for the end of the error.
        names (`Iterable[str]`, *optional*): The values to compare; by default all of both.

    Raises:
        `ValueError`: If they differ, with the old and the new values.
    """
    old, new = _flat(before), _flat(plan_values(plan))
    chosen = {**new, **old} if names is None else names
    different = [name for name in chosen if old.get(name) != new.get(name)]
    if different:
        shown = [
            f"{name} was {json.dumps(old.get(name))}, is {json.dumps(new.get(name))}" for name in different[:SHOWN]
        ]
        rest = [f"and {len(different) - SHOWN} more"] if len(different) > SHOWN else []
        raise ValueError(f"{where} holds another run ({'; '.join(shown + rest)}): {remedy}.")


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plan.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat
