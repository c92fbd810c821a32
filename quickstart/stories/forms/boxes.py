"""Containers with the same number of things in each."""

from ..event import Event


EVENTS = (
    Event(None, "things", ("{name} has {v=a*b} {things}.",), (
        "{name} has {a} {boxes} with {b} {things} in each.",
        "{name} has {a} {boxes} of {b} {things}.",
        "{name} has {a} {boxes}, and each {box} holds {b} {things}.",
        "{name} buys {a} {boxes} with {b} {things} each.",
    )),
    Event("things", "things", ("The {boxes} hold {p=x*y} {things}.", "{name} now has {v=v+p} {things}."), (
        "{name} buys {x} {boxes} of {y} {things}.",
        "Then {name} gets {x} {boxes} with {y} {things} in each.",
        "{third} gives {name} {x} {boxes} that hold {y} {things} each.",
    )),
    Event("things", "things", ("The {boxes} hold {p=x*y} {things}.", "{name} has {v=v-p} {things} left."), (
        "{name} gives {x} {boxes} of {y} {things} to {third}.",
        "{name} sells {x} {boxes} with {y} {things} each.",
    )),
    Event("things", None, ("{name} needs {v=v/x} {boxes}.",), (
        "{name} puts them into {boxes} of {x}. How many {boxes} does {name} need?",
        "{name} packs {x} {things} into each {box}. How many {boxes} does {name} fill?",
        "Each {box} holds {x} {things}. How many {boxes} does {name} need?",
    )),
    Event("things", None, ("Each {box} holds {v=v/x} {things}.",), (
        "{name} packs them equally into {x} {boxes}. How many {things} are in each {box}?",
        "{name} puts the same number into each of {x} {boxes}. How many {things} does one {box} hold?",
    )),
)  # fmt: skip
