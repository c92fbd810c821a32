"""So many an hour, a day, a week; minutes and hours."""

from ..event import Event


EVENTS = (
    Event(None, "things", ("{name} makes {v=a*b} {things}.",), (
        "{name} makes {a} {things} an hour and works for {b} hours.",
        "{name} makes {a} {things} a day for {b} days.",
        "In one hour {name} makes {a} {things}. {name} works for {b} hours.",
    )),
    Event(None, "money", ("{name} earns {v=a*b} dollars.",), (
        "{name} earns {a} dollars an hour and works for {b} hours.",
        "{name} works {b} hours for ${a} an hour.",
        "{name} gets {a} dollars a week for {b} weeks.",
    )),
    Event(None, "minutes", ("That is {v=a*b} minutes.",), (
        "{name} reads {a} minutes a day for {b} days.",
        "{name} practices the drums for {a} minutes each day, {b} days long.",
    )),
    Event(None, "minutes", ("That is {v=a*60} minutes.",), (
        "{name} works for {a} hours.",
        "{name} spends {a} hours at {place}.",
    ), ranges={"a": (2, 12)}),
    Event("minutes", "minutes", ("That is {v=v+x} minutes.",), (
        "Then {name} spends {x} minutes more.",
        "{name} adds {x} minutes.",
    )),
    Event("minutes", None, (), (
        "How many minutes is that in all?",
        "How many minutes does {name} spend in all?",
    )),
    Event("minutes", None, ("That is {v=v/60} hours.",), (
        "How many hours is that?",
    )),
    Event(None, "km", ("{name} travels {v=a*b} km.",), (
        "{name} drives {a} km an hour for {b} hours.",
        "{name} rides {a} km a day for {b} days.",
    )),
    Event("km", "km", ("{name} travels {v=v+x} km.",), (
        "Then {name} walks {x} km.",
        "{name} goes {x} km further.",
    )),
    Event("km", None, (), (
        "How many km does {name} travel?",
        "How far does {name} get, in km?",
    )),
    Event("things", None, ("It takes {v=v/x} days.",), (
        "{name} uses {x} {things} a day. How many days do they last?",
        "{name} paints {x} {things} a day. How many days does it take to paint all of them?",
    )),
)  # fmt: skip
