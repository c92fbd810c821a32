"""Sharing equally."""

from ..event import Event


EVENTS = (
    Event("things", None, ("Each {friend} gets {v=v/x} {things}.",), (
        "{name} shares the {things} equally among {x} {friends}. How many {things} does each {friend} get?",
        "{x} {friends} share them equally. How many {things} does each {friend} get?",
        "{name} deals them out to {x} {friends}. How many does each {friend} get?",
    )),
    Event("money", None, ("Each {friend} gets {v=v/x} dollars.",), (
        "{name} shares the money equally among {x} {friends}. How many dollars does each {friend} get?",
        "{x} {friends} share it equally. How much does each {friend} get?",
    )),
    Event("cost", None, ("Each {friend} pays {v=v/x} dollars.",), (
        "{x} {friends} share the bill equally. How much does each {friend} pay?",
        "The bill is split among {x} {friends}. How many dollars does each {friend} pay?",
    )),
    Event(None, "things", ("{name} gets {v=a/b} {things}.",), (
        "{b} {friends} share {a} {things} equally. {name} is one of them.",
        "{a} {things} are shared equally among {b} {friends}, and {name} is one of them.",
    )),
    Event(None, None, ("Each {friend} gets {v=a/b} {things}.",), (
        "{b} {friends} share {a} {things} equally. How many {things} does each {friend} get?",
        "If {a} {things} are shared equally among {b} {friends}, how many does each {friend} get?",
    )),
)  # fmt: skip
