"""Units: dozens, pairs, weeks, meters, hours."""

from ..event import Event


EVENTS = (
    Event(None, "things", ("{name} has {v=a*12} {things}.",), (
        "{name} has {a} dozen {things}.",
        "{name} buys {a} dozen {things}.",
        "There are {a} dozen {things} on {name}'s table.",
    )),
    Event(None, "things", ("That is {p=a*7} days.", "{name} collects {v=p*b} {things}."), (
        "{name} collects {b} {things} a day for {a} weeks.",
        "Every day for {a} weeks {name} collects {b} {things}.",
    )),
    Event(None, "cm", ("That is {v=a*100} cm.",), (
        "{name} has a rope of {a} m.",
        "{name} buys {a} meters of ribbon.",
    )),
    Event(None, "cm", (), (
        "{name} has a rope of {v} cm.",
        "{name} has {v} cm of wire.",
    )),
    Event("cm", "cm", ("That leaves {v=v-x} cm.",), (
        "{name} cuts off {x} cm.",
        "Then {name} uses {x} cm.",
    )),
    Event("cm", "cm", ("That makes {v=v+x} cm.",), (
        "{name} adds a piece of {x} cm.",
        "{third} gives {name} {x} cm more.",
    )),
    Event("cm", None, (), (
        "How many cm does {name} have now?",
        "How long is it now, in cm?",
    )),
    Event("cm", None, ("Each piece is {v=v/x} cm long.",), (
        "{name} cuts it into {x} equal pieces. How many cm long is each piece?",
    )),
    Event("things", None, ("That is {v=v/12} dozen.",), (
        "How many dozen {things} does {name} have?",
    )),
    Event(None, None, ("That is {v=a*60} minutes.",), (
        "How many minutes are {a} hours?",
        "How many minutes are there in {a} hours?",
    ), ranges={"a": (2, 16)}),
)  # fmt: skip
