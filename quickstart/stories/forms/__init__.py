"""The sentence forms, as data: one file per kind of problem, each with `EVENTS`, a tuple of [`Event`].

How to add forms:

1. An event that exists: add lines to its `forms`. They are other wordings of the same fact with the same numbers; its
   solution stays. Write as for schoolchildren, repeat the name, never use he, she, his, her, they or it for a person.
2. A new event: `Event(takes, gives, solves, forms)`. An opening takes `None`; an event that asks the question gives
   `None`; a whole problem does both. Values between are "things" ({v} {things} of {name}), "pair" ({u} of {name} and
   {v} of {other}), "money" ({v} dollars of {name}), "cost" (a bill of {v} dollars), "minutes" (spent by {name}), "km"
   (that {name} travels), "cm" (of a rope), "people", "number" (calculation in words), "sum" (in signs). Any event may
   follow that takes what is given, of any kind, so each sentence must read well after all others.
3. Numbers are single letters in the form, `{x}`; the solution calculates with them, one equation a sentence:
   `"{name} has {v=v+x} {things} left."` New values are drawn so that all results are whole, from 2 to 1,000; `ranges`
   narrows a number, `{"x": (2, 12)}`. Constants of units (12, 60, 7, 24, 100, 1000, 2) stand as digits in the equation
   only; each form must name the unit (dozen, hours, week, double). `event.py` lists the word slots: {other} owns
   something, {third} only gives or takes, {bystander} belongs to asides. "{things}" may not begin a sentence.
4. Words of a solution: those of every form of its event, or fixed ones. Keep it short and in words already used.
   One solution per event: the same question must never have two. No digits outside equations.
5. Run `pytest tests/quickstart/test_stories.py`. One form in five is held out by a hash of its text: that is wanted.
"""

from ..event import FORM_SETS, Event, ParsedEvent, parse_event
from . import altogether, arithmetic, asides, boxes, comparison, gains, multiples, purchases, rates, sharing, units


_FILES = (altogether, arithmetic, boxes, comparison, gains, multiples, purchases, rates, sharing, units)


def _kind(module: object) -> str:
    return str(getattr(module, "__name__", "")).rpartition(".")[2]


EVENTS: tuple[ParsedEvent, ...] = tuple(parse_event(_kind(file), event) for file in _FILES for event in file.EVENTS)
# Sentences with a number that no step uses, by set of forms: each with the event that draws its number.
_ASIDES = tuple(parse_event("asides", event) for event in asides.ASIDES)
ASIDES = {name: tuple((aside, form) for aside in _ASIDES for form in aside.forms[name]) for name in FORM_SETS}

__all__ = ["ASIDES", "EVENTS", "Event"]
