"""Sentences with a number that the problem does not need."""

from ..event import Event


ASIDES = (
    Event(None, None, (), (
        "{name} is {a} years old.",
        "{name} turned {a} last week.",
        "{bystander} is {a} years old.",
        "{name}'s cousin {bystander} is {a} years old.",
    ), ranges={"a": (5, 80)}),
    Event(None, None, (), (
        "{name} lives at number {a}.",
        "{name} lives {a} km away from {bystander}.",
        "{bystander} has {a} {things3}.",
        "There are also {a} {things3} in the room.",
        "{name}'s favorite number is {a}.",
        "{bystander} has read {a} pages of a book.",
    )),
)  # fmt: skip
