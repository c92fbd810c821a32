"""Reads recipes and tasks: YAML files with a limited number of named values."""

import os
from pathlib import Path
from typing import Any

import yaml


LARGEST = 10_000  # values, counted at every reference: a few lines of YAML can expand to billions


def read_yaml(path: str | os.PathLike, kind: str = "recipe") -> dict[str, Any]:
    """
    Reads a YAML file of names with values.

    Args:
        path (`str` or `PathLike`): The file, UTF-8.
        kind (`str`, *optional*, defaults to `"recipe"`): What the file is to be, for errors.

    Returns:
        `dict[str, Any]`: Its values by name.

    Raises:
        `ValueError`: For a file that is not YAML, is not a mapping of names, has a name twice, or has more than ten
            thousand values.
        `OSError`: If it cannot be read.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}: give the path of a YAML file with a {kind}.") from None
    except RecursionError:
        raise ValueError(f"{path} is not a {kind}: it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: for an impossible date, or bytes that are not UTF-8
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} is not a {kind}: expected names with values.")
    pending: list[Any] = [values]
    for _ in range(LARGEST):
        if not pending:
            return values
        value = pending.pop()
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list | set) else ()
    raise ValueError(f"{path} is not a {kind}: it has more than {LARGEST} values.")


class _Loader(yaml.SafeLoader):
    """Refuses a duplicate name; YAML's own loader silently keeps the last."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # before `<<` puts names of another mapping there
        seen: set[str] = set()
        for name in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if name in seen:
                said = f"{name!r:.60} is there twice: give it once"
                raise yaml.composer.ComposerError(None, None, said, node.start_mark)
            seen.add(name)
        return node
