"""How many more, how many fewer."""

from ..event import Event


EVENTS = (
    Event(None, "pair", ("{other} has {v=u+x} {things}.",), (
        "{name} has {u} {things}. {other} has {x} more {things} than {name}.",
        "{name} has {u} {things}, and {other} has {x} more than {name}.",
        "{name} has {u} {things}, which is {x} fewer than {other} has.",
    )),
    Event(None, "pair", ("{other} has {v=u-x} {things}.",), (
        "{name} has {u} {things}. {other} has {x} fewer {things} than {name}.",
        "{name} has {u} {things}, and {other} has {x} fewer than {name}.",
        "{name} has {u} {things}, which is {x} more than {other} has.",
    )),
    Event("pair", None, ("{name} has {v=u-v} more {things}.",), (
        "How many more {things} does {name} have than {other}?",
        "How many more does {name} have than {other}?",
        "By how many {things} does {name} have more than {other}?",
    )),
    Event("pair", None, ("{name} has {v=v-u} fewer {things}.",), (
        "How many fewer {things} does {name} have than {other}?",
        "How many fewer does {name} have than {other}?",
        "How many {things} does {name} need to have as many as {other}?",
    )),
    Event("things", None, ("{name} has {v=v-x} more {things}.",), (
        "{other} has {x} {things}. How many more {things} does {name} have than {other}?",
        "{other} only has {x} {things}. How many more does {name} have?",
    )),
    Event("things", None, ("{name} has {v=x-v} fewer {things}.",), (
        "{other} has {x} {things}. How many fewer {things} does {name} have than {other}?",
        "{other} has {x} {things}. How many more {things} does {other} have than {name}?",
    )),
)  # fmt: skip
