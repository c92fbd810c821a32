"""People who come and go: on buses and ships, at parties."""

from ..event import Event


EVENTS = (
    Event(None, "people", (), (
        "There are {v} people on a bus.",
        "A train leaves the station with {v} people.",
        "{v} people are at a party.",
        "There are {v} people at {place}.",
        "A ferry carries {v} people.",
        "{v} people wait in line.",
        "In the morning {v} people are on a ship.",
    )),
    Event("people", "people", ("Now there are {v=v+x} people.",), (
        "{x} people get on.",
        "Then {x} more people come.",
        "{x} more people join them.",
        "Another {x} people arrive.",
        "A group of {x} people joins them.",
        "Next {x} more people show up.",
    )),
    Event("people", "people", ("That leaves {v=v-x} people.",), (
        "{x} people get off.",
        "Then {x} people leave.",
        "{x} of them go home.",
        "After that {x} people go away.",
        "Next {x} people walk away.",
        "{x} of the people leave early.",
    )),
    Event("people", None, (), (
        "How many people are there now?",
        "How many people are there in the end?",
        "How many people are left?",
        "Find the number of people that are there now.",
        "What is the number of people now?",
    )),
)  # fmt: skip
