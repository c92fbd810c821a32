"""What can happen in a story: the sentences that tell it, and the sentences that solve it."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter


FORM_SETS = ("train", "held_out")
# {v} is the value that a story is about. Where two people own something, {u} is the first one's and {v} the other's.
REGISTERS = ("u", "v")
WORD_SLOTS = frozenset(
    (
        "name",
        "other",
        "third",
        "bystander",
        "things",
        "thing",
        "things2",
        "thing2",
        "things3",
        "thing3",
        "boxes",
        "box",
    )
    + ("friends", "friend", "day", "day2", "color", "color2", "place")
)
_EQUATION = re.compile(r"\{([a-z])=([a-z]|\d+)([-+*/])([a-z]|\d+)\}")


@dataclass(frozen=True)
class Event:
    """
    One event of a story: its solution, and all forms in which a question can tell it.

    Attributes:
        takes (`str`, *optional*): The kind of value that the event continues with; `None` for an opening.
        gives (`str`, *optional*): The kind of value that it leaves; `None` when its forms ask the question.
        solves (`Sequence[str]`): Sentences of the solution, each with one equation such as `{v=v+x}`.
        forms (`Sequence[str]`): Sentences of the question. All have the same numbers.
        ranges (`Mapping[str, tuple[int, int]]`): Smallest and largest value of a number, by its letter.
        smallest (`int`): Smallest result. With the default no result is 1, which would not fit a plural.
        only (`str`, *optional*): `"food"` when what is counted must be food.
    """

    takes: str | None
    gives: str | None
    solves: Sequence[str]
    forms: Sequence[str]
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    smallest: int = 2
    only: str | None = None


@dataclass(frozen=True)
class Equation:
    """`target = left operation right`; an operand is a letter, or a number that is a unit's constant."""

    target: str
    left: str | int
    operation: str
    right: str | int


@dataclass(frozen=True)
class ParsedEvent:
    """
    An event, ready to be drawn.

    Attributes:
        kind (`str`): The kind of problem that it belongs to.
        event ([`Event`]): What was parsed.
        equations (`tuple[Equation, ...]`): One for each sentence of the solution.
        sentences (`tuple[str, ...]`): The solution with `{e0}`, `{e1}` and so on in place of the equations.
        drawn (`tuple[str, ...]`): Letters of the numbers that the question tells.
        forms (`dict[str, tuple[str, ...]]`): The forms by set, `"train"` and `"held_out"`.
    """

    kind: str
    event: Event
    equations: tuple[Equation, ...]
    sentences: tuple[str, ...]
    drawn: tuple[str, ...]
    forms: dict[str, tuple[str, ...]]


def form_set(form: str) -> str | None:
    """The set of a form, by a hash of its text: one in five is held out. `None`, both, for signs alone (`+ {x}`)."""
    if not re.search("[A-Za-z]", re.sub(r"\{\w+\}", "", form)):
        return None
    return "held_out" if hashlib.sha256(form.encode()).digest()[0] % 5 == 0 else "train"


def slots(template: str) -> set[str]:
    """Names of the slots of a template."""
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def _operand(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def parse_event(kind: str, event: Event) -> ParsedEvent:
    """
    Checks an event and prepares it for drawing.

    Args:
        kind (`str`): Name of the file that defines it.
        event ([`Event`]): The event.

    Raises:
        `ValueError`: For a sentence without exactly one equation, forms with different numbers, and unknown slots.
    """
    equations: list[Equation] = []
    sentences: list[str] = []
    for sentence in event.solves:
        found = _EQUATION.findall(sentence)
        if len(found) != 1:
            raise ValueError(f"{kind}: {sentence!r} has {len(found)} equations, expected one such as {{v=v+x}}.")
        target, left, operation, right = found[0]
        equations.append(Equation(target, _operand(left), operation, _operand(right)))
        sentences.append(_EQUATION.sub(f"{{e{len(sentences)}}}", sentence))
    numbers = [{slot for slot in slots(form) if len(slot) == 1} for form in event.forms]
    for form, letters in zip(event.forms, numbers, strict=True):
        if letters != numbers[0]:
            raise ValueError(f"{kind}: {form!r} has the numbers {sorted(letters)}, expected {sorted(numbers[0])}.")
    for template in [*event.forms, *sentences]:
        unknown = {slot for slot in slots(template) if not re.fullmatch(r"[a-z]|e\d", slot)} - WORD_SLOTS
        if unknown:
            raise ValueError(f"{kind}: {template!r} has the unknown slots {sorted(unknown)}.")
    _check_letters(kind, event, equations, numbers[0])
    by_set = {name: tuple(form for form in event.forms if form_set(form) in (name, None)) for name in FORM_SETS}
    return ParsedEvent(kind, event, tuple(equations), tuple(sentences), tuple(sorted(numbers[0])), by_set)


def _check_letters(kind: str, event: Event, equations: Sequence[Equation], drawn: set[str]) -> None:
    known = set(REGISTERS) if event.takes else set()
    if known & drawn:
        raise ValueError(f"{kind}: {event.forms[0]!r} tells {{u}} or {{v}}, which only an opening may tell.")
    known |= drawn
    for equation in equations:
        missing = {x for x in (equation.left, equation.right) if isinstance(x, str)} - known
        if missing:
            raise ValueError(f"{kind}: {event.solves} uses {sorted(missing)} that {event.forms[0]!r} does not tell.")
        known.add(equation.target)
    if event.takes and event.gives and not equations:
        raise ValueError(f"{kind}: {event.forms[0]!r} changes nothing: give it an equation.")
