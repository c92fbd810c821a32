"""The tasks that a model is measured on."""

from . import code, competition_math, gsm8k, multiple_choice
from .task import SPLITS, Sample, Task


TASKS: dict[str, Task] = {
    task.name: task for module in (gsm8k, competition_math, code, multiple_choice) for task in module.TASKS
}

__all__ = ["SPLITS", "TASKS", "Sample", "Task"]
