"""The word problems as a task of `d3llm eval`."""

from pathlib import Path

from ..evaluation.tasks import Sample, Task
from .problems import extract_answer, generate_problems


NUM_PROBLEMS = 200


def load(file: Path | None, split: str, limit: int | None) -> list[Sample]:
    """Draws the problems of a split with seed 0, rather than reading a file."""
    if file is not None:
        raise ValueError(f"The task quickstart draws its own problems: omit --data {file}.")
    problems = generate_problems(split, NUM_PROBLEMS if limit is None else limit, seed=0)
    return [Sample(str(index), problem.question, problem.answer) for index, problem in enumerate(problems)]


def check(sample: Sample, text: str) -> bool:
    """Whether the number after `####` is the sample's answer."""
    return extract_answer(text) == sample.reference


QUICKSTART = Task(
    "quickstart",
    "Quickstart",
    "drawn by d3llm.quickstart",
    load,
    check,
    chat=True,
    max_new_tokens=96,
    checker="the number after ####",
)
