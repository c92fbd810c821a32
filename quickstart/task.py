"""The word problems as a task of `d3llm eval`, and the word to a visitor whose question is not of it."""

from collections.abc import Callable
from pathlib import Path

from ..evaluation.tasks import Sample, Task
from . import is_shipped
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


Caution = Callable[[str, str], str | None]


def no_caution(question: str, text: str) -> None:
    """Says nothing of any answer."""


# What `d3llm chat` and `d3llm generate` say below an answer of the shipped models. Answers of models of the task
# `stories` can be judged without the right one, by `stories.caution.caution`; those of these models cannot.
CAUTION: Caution = no_caution


def caution_of(folder: Path) -> Caution:
    """
    What judges answers to a visitor's own questions.

    Args:
        folder (`Path`): The checkpoint that answers.

    Returns:
        `Callable[[str, str], str | None]`: Gets the question and the answer; returns one line for the visitor, or
        `None`. Nothing is said of models that are not the shipped ones.
    """
    return CAUTION if is_shipped(folder) else no_caution
