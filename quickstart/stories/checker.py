"""The check of a whole solution: every equation, where its operands come from, every name, and the final number."""

import re
from functools import cache
from typing import Protocol

from .forms import EVENTS
from .numbers import calculate


END_OF_TEXT = "<|endoftext|>"
_MARKED = re.compile(r"<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)(?!\d)")
_LAST_LINE = re.compile(r"\n####\s*(-?\d+)\s*\Z")
_NUMBER = re.compile(r"####\s*(-?\d+)")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
# Words that name a number without saying it in digits: a unit's constant, or a multiple.
_CONSTANTS = {
    2: "half halfway halves halve halved twice double doubles doubled pair pairs both couple two",
    3: "triple triples tripled third three",
    4: "quarter quarters four quadruple",
    5: "five",
    6: "six",
    7: "week weeks weekly seven",
    10: "ten mm millimeters",
    12: "dozen dozens year years twelve",
    24: "day days hours",
    60: "hour hours minute minutes second seconds",
    100: "m meter meters cm centimeters cents cent",
    1000: "km kilometer kilometers kg kilogram kilograms g grams liter liters",
}
NAMED = {number: frozenset(words.split()) for number, words in _CONSTANTS.items()}


class Asked(Protocol):
    """What a check needs to know of a problem: [`~d3llm.quickstart.stories.problem.Problem`] has it."""

    @property
    def question(self) -> str:
        """The story and the question."""

    @property
    def answer(self) -> int:
        """The result."""


@cache
def solution_words() -> frozenset[str]:
    """All words that the sentences of solutions have by themselves, as they are written."""
    sentences = [re.sub(r"\{\w+\}", " ", sentence) for event in EVENTS for sentence in event.sentences]
    return frozenset(word for sentence in sentences for word in _WORD.findall(sentence))


def extract_answer(text: str) -> int | None:
    """
    The number after `####`, or `None` if there is none.

    Args:
        text (`str`): Decoded text of a solution. Text after the first `<|endoftext|>` is ignored.
    """
    match = _NUMBER.search(text.split(END_OF_TEXT, 1)[0])
    return int(match.group(1)) if match else None


def _wrong_equation(match: re.Match[str], known: set[int]) -> str | None:
    left, operation, right, result, copy = match.groups()
    if calculate(int(left), operation, int(right)) != int(result):
        return f"{match[0]} is not right."
    if copy != result:
        return f"{match[0]} does not copy its result."
    for operand in (left, right):
        if int(operand) not in known:
            return f"{match[0]} uses {operand}, which is neither in the question nor an earlier result."
    return None


def _wrong_words(question: str, text: str) -> str | None:
    known = solution_words() | set(_WORD.findall(question))
    for word in _WORD.findall(text):
        if word not in known:
            return f"{word!r} is not in the question."
    return None


def find_fault(question: str, text: str) -> str | None:
    """
    Checks what can be checked of a solution without the right answer: its form, and that it follows from the question.

    A solution is sentences with one equation each, then the line `#### N` and nothing more. Each equation is well
    formed (`<<12*3=36>>36`), right, and takes its operands from the question, from an earlier result or from a unit
    that the question names. The last result is the number after `####`. Words are those of the question or of
    solutions, so that a name of another person or a misspelt thing is found.

    Args:
        question (`str`): The question, whoever wrote it.
        text (`str`): Decoded text. Text after the first `<|endoftext|>` is ignored.

    Returns:
        `str`, *optional*: What is wrong, in one line; `None` when nothing is found.
    """
    text = text.split(END_OF_TEXT, 1)[0]
    last_line = _LAST_LINE.search(text)
    if last_line is None:
        return "The solution does not end in a line `#### N`."
    body = text[: last_line.start()]
    equations = list(_MARKED.finditer(body))
    if not equations:
        return "The solution has no equation."
    rest = _MARKED.sub("\0", body)
    if re.search(r"[\d<>=#]", rest):
        return f"A number or a mark stands outside the equations: {rest!r}."
    sentences = re.findall(r"[^.]+\.", rest)
    if "".join(sentences).strip() != rest.strip() or any(sentence.count("\0") != 1 for sentence in sentences):
        return "A sentence does not have exactly one equation."
    question_words = set(_WORD.findall(question.lower()))
    known = {int(number) for number in re.findall(r"\d+", question)}
    known |= {number for number, words in NAMED.items() if words & question_words}
    for match in equations:
        wrong = _wrong_equation(match, known)
        if wrong is not None:
            return wrong
        known.add(int(match[4]))
    answer, result = int(last_line[1]), int(equations[-1][4])
    if answer != result:
        return f"The answer {answer} is not the last result, {result}."
    return _wrong_words(question, body)


def check_solution(problem: Asked, text: str) -> str | None:
    """
    Checks a whole solution: all that [`find_fault`] does, and that its answer is the problem's.

    Args:
        problem ([`Asked`]): The problem.
        text (`str`): Decoded text. Text after the first `<|endoftext|>` is ignored.

    Returns:
        `str`, *optional*: What is wrong, in one line; `None` when the solution is right.
    """
    fault = find_fault(problem.question, text)
    if fault is not None or is_right_by_number(problem, text):
        return fault
    return f"The answer is {extract_answer(text)}, expected {problem.answer}."


def is_right(problem: Asked, text: str) -> bool:
    """Whether [`check_solution`] finds nothing wrong."""
    return check_solution(problem, text) is None


def is_right_by_number(problem: Asked, text: str) -> bool:
    """Whether the number after `####` is right, whatever stands before it."""
    return extract_answer(text) == problem.answer


def has_right_names(problem: Asked, text: str) -> bool:
    """Whether every word of the text is one of the question or of solutions: no other person, no misspelt thing."""
    return _wrong_words(problem.question, text.split(END_OF_TEXT, 1)[0]) is None
