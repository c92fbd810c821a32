"""Reads recipes: YAML files with a limited number of named values."""

import os
from pathlib import Path
from typing import Any

import yaml


LARGEST_RECIPE = 10_000  # values, counted at every reference: a few lines of YAML can expand to billions


def read_recipe(path: str | os.PathLike) -> dict[str, Any]:
    """
    Reads a recipe.

    Args:
        path (`str` or `PathLike`): A YAML file.

    Returns:
        `dict[str, Any]`: Its values by name.

    Raises:
        `ValueError`: For a file that is not YAML, is not a mapping of names, or has more than ten thousand values.
        `OSError`: If it cannot be read.
    """
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is not a recipe: it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: for an impossible date, or bytes that are not UTF-8
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise ValueError(f"{path} is not a recipe: expected names with values.")
    pending: list[Any] = [recipe]
    for _ in range(LARGEST_RECIPE):
        if not pending:
            return recipe
        value = pending.pop()
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list | set) else ()
    raise ValueError(f"{path} is not a recipe: it has more than {LARGEST_RECIPE} values.")
