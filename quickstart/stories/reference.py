"""What an answer of a story is compared with where problems are rows of a dataset: a text, rather than the problem."""

import json
from dataclasses import dataclass

from ...evaluation.answer_checks import register_check
from .checker import is_right
from .problem import Problem


CHECK = "story"


@dataclass(frozen=True)
class AskedProblem:
    """
    What the check of a solution needs to know of its problem.

    Attributes:
        question (`str`): The story and the question.
        answer (`int`): The result.
    """

    question: str
    answer: int


def reference_of(problem: Problem) -> str:
    """The text of a problem for the check `"story"`."""
    return json.dumps({"question": problem.question, "answer": problem.answer})


def check_story(text: str, reference: str) -> bool:
    """Whether a whole solution is right, given the text from [`reference_of`]."""
    return is_right(AskedProblem(**json.loads(reference)), text)


register_check(CHECK, check_story, str)
