"""Chains of gain and loss: what one person has changes step by step."""

from ..event import Event


EVENTS = (
    # Openings without a step.
    Event(None, "things", (), (
        "{name} has {v} {things}.",
        "{name} starts the day with {v} {things}.",
        "{name} owns {v} {things}.",
        "There are {v} {things} on {name}'s shelf.",
        "{name} collects {things} and already has {v}.",
    )),
    Event(None, "money", (), (
        "{name} has {v} dollars.",
        "{name} has saved {v} dollars.",
        "There are {v} dollars in {name}'s wallet.",
        "{name} has ${v}.",
    )),
    # Gains and losses.
    Event("things", "things", ("{name} now has {v=v+x} {things}.",), (
        "{name} buys {x} more.",
        "Then {name} finds {x} more {things}.",
        "{third} gives {name} {x} more {things}.",
        "{name} gets {x} {things} from {third}.",
    )),
    Event("things", "things", ("{name} has {v=v-x} {things} left.",), (
        "{name} gives {x} {things} to {third}.",
        "Then {name} loses {x} of the {things}.",
        "{name} sells {x} {things}.",
        "{third} takes {x} of the {things}.",
    )),
    Event("money", "money", ("{name} now has {v=v+x} dollars.",), (
        "{name} earns {x} dollars more.",
        "{third} gives {name} {x} dollars.",
        "Then {name} finds {x} dollars.",
        "{name} gets ${x} for the birthday.",
    )),
    Event("money", "money", ("{name} has {v=v-x} dollars left.",), (
        "{name} spends {x} dollars.",
        "{name} pays {x} dollars for a {thing2}.",
        "Then {name} loses {x} dollars.",
        "{name} gives ${x} to {third}.",
    )),
    # Endings without a step.
    Event("things", None, (), (
        "How many {things} does {name} have now?",
        "How many {things} does {name} have in the end?",
        "How many {things} are there now?",
        "Find the number of {things} that {name} has now.",
    )),
    Event("money", None, (), (
        "How many dollars does {name} have now?",
        "How much money does {name} have in the end?",
        "How much does {name} have now?",
    )),
    # Whole problems.
    Event(None, None, ("{name} has {v=a+b} {things}.",), (
        "{name} has {a} {things} and buys {b} more. How many {things} does {name} have?",
        "If {name} has {a} {things} and gets {b} more, how many {things} does {name} have?",
    )),
    Event(None, None, ("{name} has {v=a-b} {things} left.",), (
        "{name} had {a} {things} and lost {b}. How many {things} are left?",
        "If {name} has {a} {things} and gives {b} away, how many {things} does {name} have left?",
    )),
)  # fmt: skip
