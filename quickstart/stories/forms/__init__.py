"""The sentence forms, as data: one file per kind of problem, each with `EVENTS`, a tuple of [`Event`].

How to add forms:

1. An event that exists: add lines to its `forms`. They are other wordings of the same fact with the same numbers; its
   solution stays. Write as for schoolchildren and repeat the name, never he, she, his, her, they or it for a person:
   a share of the stories puts he or she for the name by itself.
2. A new event: `Event(takes, gives, solves, forms)`. An opening takes `None`; an event that asks the question gives
   `None`; a whole problem does both. Values between are "things" ({v} {things} of {name}), "pair" ({u} of {name} and
   {v} of {other}), "money" ({v} dollars of {name}), "purses" ({u} and {v} dollars of the two), "cost" (a bill of {v}
   dollars), "cents" (to pay), "minutes" (spent by {name}), "hours" (worked), "km" (that {name} travels), "pages" (that
   {name} reads), "cm" (of a rope), "g" and "kg" (that {name} carries), "ml" (of juice), "people", "points" (a game),
   "number" (calculation in words), "sum" (in signs). Any event may follow that takes what is given, of any kind, so
   each sentence must read well after all others. Openings of what people own say {name}, and {other} of two.
3. Numbers are single letters in the form, `{x}`; the solution calculates with them, one equation a sentence:
   `"{name} has {v=v+x} {things} left."` New values are drawn so that all results are whole, from 2 to 1,000; `ranges`
   narrows a number, `{"x": (2, 12)}`. Constants of units (12, 60, 7, 24, 100, 1000, 2) stand as digits in the equation
   only; each form must name the unit (dozen, hours, week, double: `NAMED` in `checker.py`).
4. `event.py` lists the word slots. {other} owns something, {third} only gives or takes, {bystander} belongs to asides.
   {boxes}, {things3} are drawn anew for each event. "{things}" may not begin a sentence.
5. Words of a solution: those of every form of its event, or fixed ones. Keep it short and in words already used.
   One solution per event: the same question must never have two. No digits outside equations.
6. Run `pytest tests/quickstart/test_stories.py`. One form in five is held out by a hash of its text: that is wanted.
   When all forms are there, `python -m d3llm.quickstart.stories.tokenizer` trains the packaged tokenizer anew.
"""

from ..event import FORM_SETS, Event, ParsedEvent, parse_event
from . import (
    altogether,
    arithmetic,
    asides,
    boxes,
    comparison,
    crowds,
    gains,
    games,
    multiples,
    purchases,
    rates,
    sharing,
    units,
)


_FILES = (altogether, arithmetic, boxes, comparison, crowds, gains, games, multiples, purchases, rates, sharing, units)


def _kind(module: object) -> str:
    return str(getattr(module, "__name__", "")).rpartition(".")[2]


EVENTS: tuple[ParsedEvent, ...] = tuple(parse_event(_kind(file), event) for file in _FILES for event in file.EVENTS)
# Sentences with a number that no step uses, by set of forms: each with the event that draws its number.
_ASIDES = tuple(parse_event("asides", event) for event in asides.ASIDES)
ASIDES = {name: tuple((aside, form) for aside in _ASIDES for form in aside.forms[name]) for name in FORM_SETS}

__all__ = ["ASIDES", "EVENTS", "Event"]
