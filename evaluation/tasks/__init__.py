"""The tasks that a model is measured on."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ...generation.fields import suggestion
from . import code, competition_math, gsm8k, multiple_choice
from .task import SPLITS, Sample, Task
from .task_file import load_task


TASKS: dict[str, Task] = {
    task.name: task for module in (gsm8k, competition_math, code, multiple_choice) for task in module.TASKS
}


def find_task(name: str, others: Mapping[str, Task] = MappingProxyType({})) -> Task:
    """
    A task of the package by its name, or one that a file defines.

    Args:
        name (`str`): The name, or the path of a YAML file for [`load_task`].
        others (`Mapping[str, Task]`, *optional*): Tasks by name that count as the package's, besides [`TASKS`].

    Returns:
        [`Task`]: The task.

    Raises:
        `ValueError`: For an unknown name, and a file that defines no task or one with the name of the package's.
        `OSError`: For a file that is not there.
    """
    known = {**others, **TASKS}
    if name in known:
        return known[name]
    if not Path(name).suffix and Path(name).name == name:
        raise ValueError(
            f"Unknown task {name!r}{suggestion(name, known)}: expected some of {', '.join(known)}, or a YAML file."
        )
    task = load_task(name)
    if task.name in known:
        raise ValueError(f"{name} defines {task.name}, which is a task of d3llm: give it another `name`.")
    return task


__all__ = ["SPLITS", "TASKS", "Sample", "Task", "find_task", "load_task"]
