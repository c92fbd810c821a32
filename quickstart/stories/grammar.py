"""Which event may follow which: the kinds of value that events take and give, and the number of steps."""

from functools import cache

from .event import ParsedEvent
from .forms import EVENTS


KINDS = tuple(sorted({event.kind for event in EVENTS}))
# An event of the problem's own kind is this many times as likely as another.
OWN_KIND_WEIGHT = 3


@cache
def _told_in(form_set: str, takes: str | None) -> tuple[ParsedEvent, ...]:
    return tuple(event for event in EVENTS if event.event.takes == takes and event.forms[form_set])


@cache
def followers(
    form_set: str, kind: str, seen: bool, takes: str | None, steps: int
) -> tuple[tuple[ParsedEvent, ...], tuple[int, ...]]:
    """
    The events that can follow, so that the story still ends with the right number of steps.

    Args:
        form_set (`str`): `"train"` or `"held_out"`: events are left out that have no form of it.
        kind (`str`): The kind of problem: at least one of its events has this kind.
        seen (`bool`): Whether one of them has come already.
        takes (`str`, *optional*): The kind of value so far; `None` at the beginning.
        steps (`int`): Number of equations that are still to come.

    Returns:
        `tuple[tuple[ParsedEvent, ...], tuple[int, ...]]`: The events, and how likely each is, summed up so far.
    """
    allowed, weights, total = [], [], 0
    for event in _told_in(form_set, takes):
        left, own = steps - len(event.equations), event.kind == kind
        if left < 0:
            continue
        gives = event.event.gives
        if (left == 0 and (seen or own)) if gives is None else followers(form_set, kind, seen or own, gives, left)[0]:
            total += OWN_KIND_WEIGHT if own else 1
            allowed.append(event)
            weights.append(total)
    return tuple(allowed), tuple(weights)
