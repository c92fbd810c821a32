"""Words of a story: people, things, containers, places. Some are invented, so that a model learns to copy them."""

import random
from collections.abc import Sequence
from typing import TypeVar

from .nouns import BOXES, COLORS, DAYS, FOODS, FRIENDS, OBJECTS, PLACES, plural
from .people import NAMES


PEOPLE = ("name", "other", "third", "bystander")  # slots
INVENTED_NAME_RATE = 0.3
INVENTED_THING_RATE = 0.15
_ONSETS = ("b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "qu",
           "r", "s", "sh", "st", "t", "th", "tr", "v", "w", "y", "z", "")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ee", "ia", "io", "oo", "ou")
_CODAS = ("", "", "", "b", "ck", "d", "k", "l", "ll", "m", "n", "nd", "ng", "p", "r", "rt", "s", "t", "th", "x")
_TAKEN = frozenset(("the", "thee", "then", "there", "this", "that", "has", "how", "its", "one", "two", "all", "and"))
_THINGS = OBJECTS + FOODS
T = TypeVar("T")


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]  # four times as fast as rng.choice


def _syllables(rng: random.Random, count: int) -> str:
    return "".join([_pick(rng, _ONSETS) + _pick(rng, _VOWELS) for _ in range(count)]) + _pick(rng, _CODAS)


def _invented(rng: random.Random, max_syllables: int) -> str:
    word = ""
    while len(word) < 3 or word in _TAKEN:
        word = _syllables(rng, 1 + int(rng.random() * max_syllables))
    return word


def draw_name(rng: random.Random) -> str:
    """A name from the list, or an invented one such as "Talumor"."""
    if rng.random() < INVENTED_NAME_RATE:
        return _invented(rng, 3).capitalize()
    return _pick(rng, NAMES)


def draw_thing(rng: random.Random, food: bool = False) -> tuple[str, str]:
    """Singular and plural of a thing from the list, or of an invented one such as "flonk"."""
    if food:
        return _pick(rng, FOODS)
    if rng.random() < INVENTED_THING_RATE:
        noun = _invented(rng, 2)
        return noun, plural(noun)
    return _pick(rng, _THINGS)


def _distinct(draws: list[T], used: set[T], draw: T) -> bool:
    if draw in used:
        return False
    used.add(draw)
    draws.append(draw)
    return True


def draw_words(rng: random.Random, food: bool = False) -> dict[str, object]:
    """
    Draws a word for each slot of the forms.

    Args:
        rng (`random.Random`): Source of randomness.
        food (`bool`, *optional*, defaults to `False`): Whether what the story counts must be food.

    Returns:
        `dict[str, object]`: The words by slot. No two people have one name, and no two things.
    """
    names: list[str] = []
    things: list[tuple[str, str]] = []
    used_names: set[str] = set()
    used_things: set[tuple[str, str]] = set()
    while len(names) < len(PEOPLE):
        _distinct(names, used_names, draw_name(rng))
    while len(things) < 3:
        _distinct(things, used_things, draw_thing(rng, food))
    box, friend = _pick(rng, BOXES), _pick(rng, FRIENDS)
    day, color = int(rng.random() * 7), int(rng.random() * len(COLORS))
    return {
        **dict(zip(PEOPLE, names, strict=True)),
        "thing": things[0][0], "things": things[0][1],
        "thing2": things[1][0], "things2": things[1][1],
        "thing3": things[2][0], "things3": things[2][1],
        "box": box[0], "boxes": box[1], "friend": friend[0], "friends": friend[1],
        "day": DAYS[day], "day2": DAYS[(day + 1) % 7],
        "color": COLORS[color], "color2": COLORS[(color + 1 + int(rng.random() * (len(COLORS) - 1))) % len(COLORS)],
        "place": _pick(rng, PLACES),
    }  # fmt: skip
