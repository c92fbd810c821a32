"""The problems that students are trained and measured on, by the name of their task."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..common.files import write_atomically
from ..evaluation.tasks import Sample, Task
from . import problems
from .stories import problem as stories
from .stories.reference import CHECK, reference_of
from .stories.task import TASKS as STORY_TASKS
from .task import QUICKSTART


PROMPT, ANSWER, SOLUTION = "prompt", "answer", "solution"  # the columns of a file of problems


@dataclass(frozen=True)
class ProblemSet:
    """
    Problems that are drawn, and how their answers are checked.

    Attributes:
        task ([`~d3llm.evaluation.tasks.Task`]): The task that models are measured on.
        generate (`Callable[[str, int, int], Sequence]`): Draws the problems of a split, a number of them and a seed.
        reference (`Callable[[Any], Any]`): What the task compares the answer to a problem with.
        check (`str`): The check of answers in training data, see `d3llm.evaluation.answer_checks`.
        answer (`Callable[[Any], str]`): What that check compares with.
    """

    task: Task
    generate: Callable[[str, int, int], Sequence[Any]]
    reference: Callable[[Any], Any]
    check: str
    answer: Callable[[Any], str]

    def samples(self, split: str, count: int, seed: int) -> list[Sample]:
        """
        Problems to measure a model on.

        Args:
            split (`str`): `"train"`, `"validation"` or `"test"`.
            count (`int`): How many.
            seed (`int`): Seed of the draw.

        Returns:
            `list[Sample]`: The problems.

        Raises:
            `ValueError`: If the split has fewer problems.
        """
        drawn = _draw(self.generate, split, count, seed)
        return [Sample(str(index), each.question, self.reference(each)) for index, each in enumerate(drawn)]

    def write(self, file: Path, count: int, seed: int) -> Path:
        """
        Writes problems of the train split as JSON lines with `prompt`, `answer` and `solution`, unless they are there.

        Args:
            file (`Path`): The file.
            count (`int`), seed (`int`): As for [`ProblemSet.samples`].

        Returns:
            `Path`: `file`.

        Raises:
            `ValueError`: If the split has fewer problems.
            `OSError`: If it cannot be written.
        """
        drawn = _draw(self.generate, "train", count, seed)
        rows = [{PROMPT: each.question, ANSWER: self.answer(each), SOLUTION: each.solution} for each in drawn]
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if not file.exists() or file.read_bytes() != content:  # a new file is read into a new cache
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content)
        return file


@lru_cache(maxsize=4)
def _draw(generate: Callable[[str, int, int], Sequence[Any]], split: str, count: int, seed: int) -> tuple[Any, ...]:
    return tuple(generate(split, count, seed))


PROBLEM_SETS = {
    "quickstart": ProblemSet(
        QUICKSTART,
        problems.generate_problems,
        reference=lambda problem: problem.answer,
        check="hash",
        answer=lambda problem: str(problem.answer),
    ),
    "stories": ProblemSet(
        STORY_TASKS[0],
        stories.generate_problems,
        reference=lambda problem: problem,
        check=CHECK,
        answer=reference_of,
    ),
}
"""The sets of problems by the name of their task."""
