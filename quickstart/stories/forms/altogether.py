"""What two people have together."""

from ..event import Event


EVENTS = (
    Event(None, "pair", (), (
        "{name} has {u} {things} and {other} has {v}.",
        "{name} has {u} {things}. {other} has {v} {things}.",
        "{name} and {other} collect {things}. {name} has {u} and {other} has {v}.",
        "{name} counts {u} {things}, and {other} counts {v}.",
    )),
    Event("pair", "pair", ("{name} now has {u=u+x} {things}.",), (
        "{name} buys {x} more.",
        "Then {name} finds {x} more {things}.",
        "{third} gives {name} {x} {things}.",
    )),
    Event("pair", "pair", ("{name} has {u=u-x} {things} left.",), (
        "{name} loses {x} {things}.",
        "{name} sells {x} of the {things}.",
        "{name} gives {x} {things} to {third}.",
    )),
    Event("pair", "pair", ("{other} now has {v=v+x} {things}.",), (
        "{other} buys {x} more.",
        "Then {other} finds {x} more {things}.",
        "{third} gives {other} {x} {things}.",
    )),
    Event("pair", "pair", ("{other} has {v=v-x} {things} left.",), (
        "{other} loses {x} {things}.",
        "{other} sells {x} of the {things}.",
        "{other} gives {x} {things} to {third}.",
    )),
    Event("pair", None, ("Together {name} and {other} have {v=u+v} {things}.",), (
        "How many {things} do {name} and {other} have altogether?",
        "How many {things} do {name} and {other} have together?",
        "How many {things} do {name} and {other} have in all?",
        "What is the total number of {things} that {name} and {other} have?",
    )),
    Event("things", None, ("Together {name} and {other} have {v=v+x} {things}.",), (
        "{other} has {x} {things}. How many {things} do {name} and {other} have altogether?",
        "{other} has {x} of them. How many {things} do {name} and {other} have together?",
        "Together with the {x} {things} of {other}, how many {things} do {name} and {other} have?",
    )),
)  # fmt: skip
