"""Plain arithmetic, in signs and in words."""

from ..event import Event


SMALL = {"a": (0, 1000), "b": (0, 1000)}

EVENTS = (
    Event(None, None, ("The sum is {v=a+b}.",), (
        "What is {a} + {b}?",
        "{a} + {b} = ?",
        "Calculate {a} + {b}.",
        "What is {a} plus {b}?",
        "Add {a} and {b}.",
    ), ranges=SMALL, smallest=0),
    Event(None, None, ("The difference is {v=a-b}.",), (
        "What is {a} - {b}?",
        "{a} - {b} = ?",
        "Calculate {a} - {b}.",
        "What is {a} minus {b}?",
    ), ranges=SMALL, smallest=0),
    Event(None, None, ("The product is {v=a*b}.",), (
        "What is {a} * {b}?",
        "{a} * {b} = ?",
        "Calculate {a} * {b}.",
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
    ), ranges={"a": (0, 100), "b": (0, 20)}, smallest=0),
    Event(None, None, ("The quotient is {v=a/b}.",), (
        "What is {a} / {b}?",
        "{a} / {b} = ?",
        "Calculate {a} / {b}.",
        "What is {a} divided by {b}?",
    ), ranges={"b": (2, 20)}, smallest=0),
    # Sums of any length, in signs.
    Event(None, "sum", ("First, {v=a+b}.",), ("What is {a} + {b}", "How much is {a} + {b}")),
    Event(None, "sum", ("First, {v=a-b}.",), ("What is {a} - {b}", "How much is {a} - {b}")),
    Event("sum", "sum", ("Then {v=v+x}.",), ("+ {x}",)),
    Event("sum", "sum", ("Then {v=v-x}.",), ("- {x}",)),
    Event("sum", None, ("Then {v=v+x}.",), ("+ {x}?",)),
    Event("sum", None, ("Then {v=v-x}.",), ("- {x}?",)),
    # A number that is changed, in words.
    Event(None, "number", (), (
        "Start with {v}.",
        "{name} thinks of the number {v}.",
        "Take the number {v}.",
    )),
    Event("number", "number", ("That gives {v=v+x}.",), (
        "Add {x}.",
        "Then add {x}.",
        "Increase it by {x}.",
    ), smallest=0),
    Event("number", "number", ("That gives {v=v-x}.",), (
        "Subtract {x}.",
        "Take away {x}.",
        "Decrease it by {x}.",
    ), smallest=0),
    Event("number", "number", ("That gives {v=v*x}.",), (
        "Multiply by {x}.",
        "Then multiply the result by {x}.",
    ), smallest=0),
    Event("number", "number", ("That gives {v=v/x}.",), (
        "Divide by {x}.",
        "Then divide the result by {x}.",
    ), smallest=0),
    Event("number", None, (), (
        "What is the result?",
        "What number is it now?",
        "What do you get?",
    )),
)  # fmt: skip
