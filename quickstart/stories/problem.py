"""Word problems in the manner of GSM8K: open words, values to 1,000, one to eight steps, every step checkable.

A problem is drawn in two stages. First its events and numbers, which alone decide whether it belongs to the train,
validation or test split: no other wording and no other order of steps carries a problem into another split. Then its
words: names, things, and the form of each sentence. A question determines its solution: each event has one.
"""

import hashlib
import random
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .event import FORM_SETS, ParsedEvent
from .forms import ASIDES
from .grammar import KINDS, followers
from .numbers import Numbers, Worked, draw_numbers
from .words import DEFAULT_SHARES, PEOPLE, InventedShares, draw_anew, draw_words


SPLITS = ("train", "validation", "test")
MAX_STEPS = 8
TRAINED_STEPS = range(1, 7)  # 7 and 8 steps are held out
ASIDE_RATE = 0.2
_TRIES = 8  # draws of an event before the story is begun anew
PRONOUN_RATE = 0.25  # of stories about one person, whose later sentences say he or she
_OF_TWO = ("pair", "purses")
_WITHOUT_ASIDES = ("number", "sum")


@dataclass(frozen=True)
class Problem:
    """
    One word problem with its worked solution.

    Attributes:
        question (`str`): The story and the question.
        solution (`str`): Sentences, each with one equation `<<12*3=36>>36`, then a line `#### 36`.
        answer (`int`): The result.
        num_steps (`int`): Number of equations.
        kind (`str`): One of [`KINDS`].
        equations (`tuple[tuple[int, str, int, int], ...]`): Left operand, operation, right operand, result.
        names (`tuple[str, ...]`): The people of the question.
        signature (`str`): Operations and the operands that the question tells, without words and order.
    """

    question: str
    solution: str
    answer: int
    num_steps: int
    kind: str
    equations: tuple[Worked, ...]
    names: tuple[str, ...]
    signature: str


def split_of_signature(signature: str) -> str:
    """The split a problem belongs to: 80 % train, 10 % validation, 10 % test by a SHA-256 hash of the signature."""
    bucket = int.from_bytes(hashlib.sha256(signature.encode()).digest()[:8], "big") % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


Plan = list[tuple[ParsedEvent, dict[str, int]]]  # events, each with the numbers that its form tells


def _draw_plan(rng: random.Random, kind: str, num_steps: int, forms: str) -> tuple[Plan, Numbers] | None:
    plan: Plan = []
    numbers, takes, seen = Numbers(), None, False
    while True:
        events, weights = followers(forms, kind, seen, takes, num_steps - len(numbers.equations))
        if not events:
            return None
        for _ in range(_TRIES):
            event = events[bisect(weights, rng.random() * weights[-1])]
            drawn = draw_numbers(rng, event, numbers)
            if drawn is not None:
                break
        else:
            return None
        numbers, shown = drawn
        plan.append((event, shown))
        takes, seen = event.event.gives, seen or event.kind == kind
        if takes is None:
            return plan, numbers


def _draw_plan_of_split(
    rng: random.Random, split: str, num_steps: int, forms: str, kinds: Sequence[str] = KINDS
) -> tuple[str, Plan, Numbers, str]:
    while True:
        kind = kinds[int(rng.random() * len(kinds))]
        drawn = _draw_plan(rng, kind, num_steps, forms)
        if drawn is None:
            continue
        signature = drawn[1].signature()
        if split_of_signature(signature) == split:
            return kind, *drawn, signature


def _choose_form(rng: random.Random, event: ParsedEvent, forms: str, used: set[str]) -> str:
    """Draws a form, and again if the story has it already: twice at most, since an event may have one form."""
    choices = event.forms[forms]
    for _ in range(3):
        form = choices[int(rng.random() * len(choices))]
        if form not in used:
            break
    used.add(form)
    return form


@cache
def with_pronoun(form: str) -> str:
    """A form that says `{he}` where it names `{name}` as the one who acts, once the story has named this person."""
    form = "{He}" + form[len("{name}") :] if form.startswith("{name} ") else form
    for before in ("Then", "does", "did", "that", "can", "After that", "Later", "Next"):
        form = form.replace(f"{before} {{name}} ", f"{before} {{he}} ")
    return form


def _says_pronoun(rng: random.Random, plan: Plan) -> bool:
    return rng.random() < PRONOUN_RATE and all(
        event.event.takes not in _OF_TWO and "{other}" not in event.event.forms[0] for event, _ in plan
    )


def _draw_aside(rng: random.Random, opening: ParsedEvent, forms: str) -> tuple[str, dict[str, int]] | None:
    """A form with a number that is not used, in a share of the stories."""
    gives = opening.event.gives
    if gives is None or gives in _WITHOUT_ASIDES or rng.random() >= ASIDE_RATE:
        return None
    aside, form = ASIDES[forms][int(rng.random() * len(ASIDES[forms]))]
    drawn = draw_numbers(rng, aside, Numbers())
    return None if drawn is None else (form, drawn[1])


def _tell(
    rng: random.Random,
    kind: str,
    plan: Plan,
    numbers: Numbers,
    signature: str,
    forms: str,
    invented: InventedShares = DEFAULT_SHARES,
) -> Problem:
    """Draws the words of a plan."""
    words = draw_words(rng, any(event.event.only == "food" for event, _ in plan), invented)
    told: list[str] = []
    solution: list[str] = []
    used: set[str] = set()
    pronoun, named = _says_pronoun(rng, plan), False
    for event, shown in plan:
        form = _choose_form(rng, event, forms, used)
        words.update(draw_anew(rng, form, words, invented))
        told.append((with_pronoun(form) if pronoun and named else form).format_map({**words, **shown}))
        named = named or "{name}" in form
        aside = _draw_aside(rng, event, forms) if len(told) == 1 else None
        if aside is not None:
            told.append(aside[0].format_map({**words, **aside[1]}))
            used.add(aside[0])
        for number, sentence in enumerate(event.sentences):
            left, operation, right, answer = numbers.equations[len(solution)]
            words[f"e{number}"] = f"<<{left}{operation}{right}={answer}>>{answer}"
            solution.append(sentence.format_map(words))
    return Problem(
        " ".join(told),
        " ".join(solution) + f"\n#### {answer}",
        answer,
        len(solution),
        kind,
        tuple(numbers.equations),
        tuple(str(words[slot]) for slot in PEOPLE if any(f"{{{slot}}}" in form for form in used)),
        signature,
    )


def _check_request(split: str, forms: str, steps: range | tuple[int, ...]) -> None:
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    if forms not in FORM_SETS:
        raise ValueError(f"Unknown forms {forms!r}; expected one of {', '.join(FORM_SETS)}.")
    if not steps or not all(1 <= step <= MAX_STEPS for step in steps):
        raise ValueError(f"The numbers of steps must be 1 to {MAX_STEPS}, got {list(steps)}.")


def draw_problem(
    rng: random.Random,
    split: str,
    num_steps: int,
    forms: str = "train",
    invented: InventedShares = DEFAULT_SHARES,
    kinds: Sequence[str] = KINDS,
) -> Problem:
    """
    Draws one problem of a split.

    Args:
        rng (`random.Random`): Source of randomness, advanced by the draw.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        num_steps (`int`): Number of equations, 1 to 8.
        forms (`str`, *optional*, defaults to `"train"`):
            Forms of the sentences: `"train"`, or `"held_out"` for those that no training problem has.
        invented ([`~.words.InventedShares`], *optional*): Names and things that are invented.
        kinds (`Sequence[str]`, *optional*, defaults to [`KINDS`]):
            From which one is drawn; one that is named several times is as many times as likely.

    Raises:
        `ValueError`: For an unknown split, set of forms or kind, and a number of steps out of range.
    """
    _check_request(split, forms, (num_steps,))
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"Unknown kinds {list(kinds)}; expected some of {', '.join(KINDS)}.")
    return _tell(rng, *_draw_plan_of_split(rng, split, num_steps, forms, kinds), forms, invented)


def generate_problems(
    split: str, n: int, seed: int = 0, forms: str = "train", steps: tuple[int, ...] | range | None = None
) -> list[Problem]:
    """
    Draws `n` problems, no two with the same signature.

    The result is a pure function of the arguments, and a smaller `n` gives a prefix of a larger one.

    Args:
        split (`str`): `"train"`, `"validation"` or `"test"`. No signature occurs in two of them.
        n (`int`): Number of problems.
        seed (`int`, *optional*, defaults to 0): Seed of the draw.
        forms (`str`, *optional*, defaults to `"train"`): `"train"` or `"held_out"`, see [`draw_problem`].
        steps (`Sequence[int]`, *optional*): Numbers of steps, each as likely as the others; 1 to 6 by default.

    Returns:
        `list[Problem]`: The problems.

    Raises:
        `ValueError`: For arguments out of range, and when the split has fewer such problems.
    """
    steps = tuple(TRAINED_STEPS if steps is None else steps)
    _check_request(split, forms, steps)
    rng = random.Random(f"{split}:{seed}")
    problems: dict[str, Problem] = {}
    for _ in range(10 * n + 1000):
        if len(problems) == n:
            break
        drawn = _draw_plan_of_split(rng, split, steps[int(rng.random() * len(steps))], forms)
        if drawn[-1] not in problems:
            problems[drawn[-1]] = _tell(rng, *drawn, forms)
    if len(problems) < n:
        raise ValueError(f"`n` = {n} is too large: the {split} split has too few distinct problems.")
    return list(problems.values())
