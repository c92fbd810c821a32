"""Sentences with a number that the problem does not need."""

from ..event import Event


ASIDES = (
    Event(None, None, (), (
        "{name} is {a} years old.",
        "{name} turned {a} last week.",
        "{name} will be {a} next month.",
        "{bystander} is {a} years old.",
        "{name}'s cousin {bystander} is {a} years old.",
        "{name}'s aunt is {a} years old.",
        "{name}'s teacher is {a}.",
        "{name} lives on the street with {bystander}, who is {a}.",
    ), ranges={"a": (5, 80)}),
    Event(None, None, (), (
        "It is {a} degrees outside.",
        "It takes {name} {a} minutes to walk to {place}.",
        "{name} gets up at {a} o'clock.",
        "{name} has lived in the town for {a} years.",
        "{name} has a family of {a}.",
        "{bystander} comes by at {a} o'clock.",
        "{name} wears shirts of size {a}.",
    ), ranges={"a": (4, 12)}),
    Event(None, None, (), (
        "{name} lives at number {a}.",
        "{name} lives in house number {a}.",
        "{name} lives {a} km away from {bystander}.",
        "{name} takes bus number {a} every day.",
        "{bystander} has {a} {things3}.",
        "{bystander} likes {things3} better and has {a} of those.",
        "There are also {a} {things3} in the room.",
        "There are {a} {things3} at {place}.",
        "{name}'s favorite number is {a}.",
        "{bystander} has read {a} pages of a book.",
        "{name} is on page {a} of a book.",
        "The room has number {a}.",
        "{name} is {a} cm tall.",
        "{bystander} weighs {a} pounds.",
        "{name} saw {a} birds on the way.",
        "{name}'s school has {a} students.",
        "{bystander} counted {a} cars.",
        "{bystander} knows {a} songs.",
    )),
)  # fmt: skip
