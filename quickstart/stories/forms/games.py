"""Points of a game."""

from ..event import Event


_ROUNDS = {"x": (2, 30), "y": (2, 12), "a": (2, 30), "b": (2, 12)}

EVENTS = (
    Event(None, "points", (), (
        "{name} has {v} points in a game.",
        "In a game {name} has {v} points.",
        "{name} starts a game with {v} points.",
        "{name} scores {v} points in the first round of a game.",
        "{name} plays a game and gets {v} points.",
        "{name}'s score in a game is {v} points.",
        "In a quiz {name} gets {v} points.",
        "{name} begins a quiz with {v} points.",
        "{name} plays darts and has {v} points.",
        "{name} scores {v} points on {day}.",
        "After one round {name} has {v} points.",
    )),
    Event(None, "points", ("{name} has {v=a+b} points.",), (
        "{name} scores {a} points in the first round and {b} in the second.",
        "{name} gets {a} points on {day} and {b} points on {day2}.",
        "In a quiz {name} gets {a} points and a bonus of {b}.",
        "{name} has {a} points for the jump and {b} points for the run.",
        "With the first dart {name} scores {a} points, with the second {b}.",
    )),
    Event(None, "points", ("{name} has {v=a*b} points.",), (
        "{name} scores {a} points in each of {b} rounds.",
        "{name} hits the target {b} times, for {a} points each.",
        "For each of {b} right answers {name} gets {a} points.",
        "{name} wins {b} games and gets {a} points for each.",
        "A goal counts {a} points, and {name} scores {b} goals.",
    ), ranges=_ROUNDS),
    Event("points", "points", ("{name} now has {v=v+x} points.",), (
        "{name} scores {x} points.",
        "{name} wins {x} points.",
        "In the next round {name} gets {x} points more.",
        "Then {name} earns {x} more points.",
        "A bonus gives {name} {x} points.",
        "{name} lands on a lucky field and gets {x} points.",
        "A right answer brings {name} {x} points.",
        "{name} scores again and gets {x} points.",
        "After that {name} scores another {x} points.",
        "{name} finds a star that is worth {x} points.",
        "{third} gives {name} {x} points.",
    )),
    Event("points", "points", ("{name} has {v=v-x} points left.",), (
        "{name} loses {x} points.",
        "A mistake costs {name} {x} points.",
        "In the next round {name} loses {x} points.",
        "Then {x} points are taken away from {name}.",
        "{name} pays {x} points for a hint.",
        "A wrong answer costs {name} {x} points.",
        "{name} falls into a trap and loses {x} points.",
        "After that {name} loses {x} of the points.",
        "{third} wins {x} points from {name}.",
        "{name} gets a penalty of {x} points.",
    )),
    Event("points", "points", ("{name} now has {v=v+x} points.", "{name} has {v=v-y} points left."), (
        "{name} wins {x} points but then loses {y}.",
        "In the next round {name} gets {x} points and loses {y}.",
        "A right answer brings {name} {x} points, and a wrong one costs {y}.",
        "{name} scores {x} points, but {y} are taken away.",
    )),
    Event("points", "points", ("That is {p=x*y} points.", "{name} now has {v=v+p} points."), (
        "In each of the next {y} rounds {name} gets {x} points.",
        "{name} gives {y} right answers for {x} points each.",
        "{name} finds {y} stars, and each is worth {x} points.",
        "{y} more times {name} scores {x} points.",
    ), ranges=_ROUNDS),
    Event("points", "points", ("{name} now has {v=v*2} points.",), (
        "A joker doubles the points of {name}.",
        "Then {name} doubles the score.",
        "{name} finds a card that doubles all points.",
    )),
    Event("points", "points", ("{name} has {v=v/2} points left.",), (
        "{name} loses half of the points.",
        "A bad card costs {name} half of the points.",
        "Then {name} has to give up half of the points.",
    )),
    Event("points", None, (), (
        "How many points does {name} have now?",
        "How many points does {name} have in the end?",
        "With how many points does {name} end the game?",
        "What is {name}'s score now?",
        "What is the final score of {name}?",
        "How many points is that?",
        "How many points does {name} end up with?",
        "Find the number of points that {name} has now.",
    )),
    Event("points", None, ("{name} needs {v=x-v} more points.",), (
        "{name} needs {x} points to win. How many points are missing?",
        "The record is {x} points. How many more points does {name} need to reach it?",
        "How many more points does {name} need to have {x}?",
        "{name} wants to reach {x} points. How many more points does {name} need?",
    )),
    Event("points", None, ("{name} has {v=v-x} more points.",), (
        "{other} has {x} points. How many more points does {name} have?",
        "{other} scores only {x} points. By how many points does {name} win?",
        "How many more points does {name} have than {other}, who has {x}?",
    )),
    Event("points", None, ("Together {name} and {other} have {v=v+x} points.",), (
        "{other} has {x} points. How many points do {name} and {other} have together?",
        "{name} and {other}, who has {x} points, are a team. How many points does the team have?",
        "With the {x} points of {other}, how many points do {name} and {other} have in all?",
    )),
)  # fmt: skip
