"""Words of a story: people, things, containers, places. Some are invented, so that a model learns to copy them."""

import random
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from .nouns import BOXES, COLORS, DAYS, FOODS, FRIENDS, OBJECTS, PLACES, plural
from .people import NAMES, PRONOUNS


PEOPLE = ("name", "other", "third", "bystander")  # slots
_ONSETS = ("b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "qu",
           "r", "s", "sh", "st", "t", "th", "tr", "v", "w", "y", "z", "")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ee", "ia", "io", "oo", "ou")
_CODAS = ("", "", "", "b", "ck", "d", "k", "l", "ll", "m", "n", "nd", "ng", "p", "r", "rt", "s", "t", "th", "x")
_TAKEN = frozenset(("the", "thee", "then", "there", "this", "that", "has", "how", "its", "one", "two", "all", "and"))
_THINGS = OBJECTS + FOODS
T = TypeVar("T")


class InventedShares(NamedTuple):
    """Shares of names and things that are invented. Every task has the defaults; a teacher may be trained on more."""

    names: float = 0.25
    things: float = 0.15


DEFAULT_SHARES = InventedShares()


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]  # four times as fast as rng.choice


def _syllables(rng: random.Random, count: int) -> str:
    return "".join([_pick(rng, _ONSETS) + _pick(rng, _VOWELS) for _ in range(count)]) + _pick(rng, _CODAS)


def _invented(rng: random.Random, max_syllables: int) -> str:
    word = ""
    while len(word) < 3 or word in _TAKEN:
        word = _syllables(rng, 1 + int(rng.random() * max_syllables))
    return word


def draw_name(rng: random.Random, invented: InventedShares = DEFAULT_SHARES) -> tuple[str, tuple[str, ...]]:
    """A name from the list, or an invented one such as "Talumor", and its possible pronouns."""
    if rng.random() < invented.names:
        return _invented(rng, 3).capitalize(), PRONOUNS
    return _pick(rng, NAMES)


def draw_thing(rng: random.Random, food: bool = False, invented: InventedShares = DEFAULT_SHARES) -> tuple[str, str]:
    """Singular and plural of a thing from the list, or of an invented one such as "flonk"."""
    if food:
        return _pick(rng, FOODS)
    if rng.random() < invented.things:
        noun = _invented(rng, 2)
        return noun, plural(noun)
    return _pick(rng, _THINGS)


def draw_anew(
    rng: random.Random, form: str, words: dict[str, object], invented: InventedShares = DEFAULT_SHARES
) -> dict[str, object]:
    """Draws what an event brings into a story: its containers, and a third thing that is not counted already."""
    fresh: dict[str, object] = {}
    if "{box" in form:
        fresh["box"], fresh["boxes"] = _pick(rng, BOXES)
    if "{thing3}" in form or "{things3}" in form:
        thing = draw_thing(rng, invented=invented)
        while thing[1] in (words["things"], words["things2"], words["things3"]):
            thing = draw_thing(rng, invented=invented)
        fresh["thing3"], fresh["things3"] = thing
    return fresh


def draw_words(rng: random.Random, food: bool = False, invented: InventedShares = DEFAULT_SHARES) -> dict[str, object]:
    """
    Draws a word for each slot of the forms.

    Args:
        rng (`random.Random`): Source of randomness.
        food (`bool`, *optional*, defaults to `False`): Whether what the story counts must be food.
        invented ([`InventedShares`], *optional*): How many are invented.

    Returns:
        `dict[str, object]`: The words by slot. No two people have one name, and no two things.
    """
    people: dict[str, tuple[str, ...]] = {}
    things: dict[tuple[str, str], None] = {}
    while len(people) < len(PEOPLE):
        name, pronouns = draw_name(rng, invented)
        people.setdefault(name, pronouns)
    while len(things) < 3:
        things.setdefault(draw_thing(rng, food, invented))
    (thing, several), (thing2, several2), (thing3, several3) = things
    box, friend = _pick(rng, BOXES), _pick(rng, FRIENDS)
    day, color = int(rng.random() * 7), int(rng.random() * len(COLORS))
    pronoun = _pick(rng, next(iter(people.values())))
    return {
        **dict(zip(PEOPLE, people, strict=True)),
        "he": pronoun, "He": pronoun.capitalize(),
        "thing": thing, "thing2": thing2, "thing3": thing3,
        "things": several, "things2": several2, "things3": several3,
        "box": box[0], "boxes": box[1], "friend": friend[0], "friends": friend[1],
        "day": DAYS[day], "day2": DAYS[(day + 1) % 7],
        "color": COLORS[color], "color2": COLORS[(color + 1 + int(rng.random() * (len(COLORS) - 1))) % len(COLORS)],
        "place": _pick(rng, PLACES),
    }  # fmt: skip
