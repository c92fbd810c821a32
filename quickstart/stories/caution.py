"""An honest word beside an answer to a question that the model was not made for."""

import re
from collections.abc import Callable
from pathlib import Path

from .. import is_shipped
from .checker import find_fault
from .numbers import LARGEST_VALUE


TASK = (
    f"This small model knows only word problems with whole numbers to {LARGEST_VALUE:,}, in few and simple sentences"
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def caution(question: str, text: str) -> str | None:
    """
    What to tell a visitor whose question the model did not understand.

    Not every wrong answer is noticed: a question of a form that is not the model's can get a solution that is sound in
    itself.

    Args:
        question (`str`): The question, in the visitor's words.
        text (`str`): The model's answer.

    Returns:
        `str`, *optional*: One line that says what the model knows, and what is wrong here; `None` when nothing is.
    """
    fault = _beyond(question) or find_fault(question, text)
    return None if fault is None else f"{TASK}: {' '.join(fault.split())}"


def caution_of(folder: Path) -> Callable[[str, str], str | None]:
    """
    What judges answers to a visitor's own questions.

    Args:
        folder (`Path`): The checkpoint that answers.

    Returns:
        `Callable[[str, str], str | None]`: [`caution`]; of models that are not the shipped ones it says nothing.
    """
    return caution if is_shipped(folder) else lambda question, text: None


def _beyond(question: str) -> str | None:
    """The first number of a question that the model's problems do not have."""
    for number in _NUMBER.findall(question):
        if not number.isdecimal() or int(number) > LARGEST_VALUE:
            return f"The question has {number:.40}."
    return None
