"""Purchases, prices and change."""

from ..event import Event


PRICES = {"b": (2, 60), "d": (2, 60), "y": (2, 60), "a": (2, 12), "c": (2, 12), "x": (2, 12)}

EVENTS = (
    Event(None, "cost", ("The {things} cost {v=a*b} dollars.",), (
        "{name} buys {a} {things} for {b} dollars each.",
        "{name} buys {a} {things} at ${b} each.",
        "{name} wants {a} {things}. Each {thing} costs {b} dollars.",
        "A {thing} costs {b} dollars, and {name} buys {a} {things}.",
    ), ranges=PRICES),
    Event(None, "cost", (
        "The {things} cost {p=a*b} dollars.",
        "The {things2} cost {q=c*d} dollars.",
        "Together that is {v=p+q} dollars.",
    ), (
        "{name} buys {a} {things} for {b} dollars each and {c} {things2} for {d} dollars each.",
        "{name} buys {a} {things} at ${b} each and {c} {things2} at ${d} each.",
    ), ranges=PRICES),
    Event("cost", "cost", ("The {things3} cost {p=x*y} dollars.", "Together that is {v=v+p} dollars."), (
        "{name} also buys {x} {things3} for {y} dollars each.",
        "{name} adds {x} {things3} at ${y} each.",
    ), ranges=PRICES),
    Event("cost", "cost", ("Together that is {v=v+x} dollars.",), (
        "Shipping costs {x} dollars more.",
        "{name} also buys a drink for {x} dollars.",
        "{name} pays {x} dollars more for a gift card.",
    )),
    Event("cost", "cost", ("That leaves {v=v-x} dollars to pay.",), (
        "A coupon takes {x} dollars off.",
        "{name} gets a discount of {x} dollars.",
    )),
    Event("cost", None, (), (
        "How much does {name} pay?",
        "How many dollars does {name} pay in all?",
        "What is the total in dollars?",
    )),
    Event("cost", None, ("The change is {v=x-v} dollars.",), (
        "{name} pays with {x} dollars. How much change does {name} get?",
        "{name} gives the cashier ${x}. How many dollars does {name} get back?",
        "{name} had {x} dollars. How many dollars does {name} have left?",
    )),
    Event("things", "money", ("{name} gets {v=v*x} dollars.",), (
        "{name} sells all of them for {x} dollars each.",
        "Then {name} sells the {things} at ${x} each.",
    )),
)  # fmt: skip
