"""Twice, half, three times as many."""

from ..event import Event


EVENTS = (
    Event(None, "pair", ("{other} has {v=u*x} {things}.",), (
        "{name} has {u} {things}. {other} has {x} times as many {things} as {name}.",
        "{name} has {u} {things}, and {other} has {x} times as many.",
        "{other} has {x} times as many {things} as {name}, who has {u}.",
    )),
    Event(None, "pair", ("{other} has {v=u*2} {things}.",), (
        "{name} has {u} {things}. {other} has twice as many {things} as {name}.",
        "{name} has {u} {things}, and {other} has twice as many.",
        "{name} has {u} {things}, and {other} has double that number.",
    )),
    Event(None, "pair", ("{other} has {v=u/2} {things}.",), (
        "{name} has {u} {things}. {other} has half as many {things} as {name}.",
        "{name} has {u} {things}, and {other} has half as many.",
    )),
    Event("things", "things", ("{name} now has {v=v*2} {things}.",), (
        "Then {name} doubles the number of {things}.",
        "A week later {name} has twice as many {things}.",
    )),
    Event("things", "things", ("{name} now has {v=v*x} {things}.",), (
        "A year later {name} has {x} times as many {things}.",
        "Soon {name} has {x} times as many.",
    )),
    Event("things", "things", ("{name} has {v=v/2} {things} left.",), (
        "{name} gives half of the {things} to {third}.",
        "Then {name} loses half of the {things}.",
        "{name} sells half of them.",
    )),
    Event("things", None, ("{other} has {v=v*x} {things}.",), (
        "{other} has {x} times as many {things} as {name}. How many {things} does {other} have?",
        "{other} has {x} times as many. How many {things} does {other} have?",
    )),
    Event("pair", None, ("{name} has {v=u/v} times as many {things}.",), (
        "How many times as many {things} does {name} have as {other}?",
    )),
)  # fmt: skip
