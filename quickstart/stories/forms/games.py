"""Points of a game."""

from ..event import Event


EVENTS = (
    Event(None, "points", (), (
        "{name} has {v} points in a game.",
        "In a game {name} has {v} points.",
        "{name} starts a game with {v} points.",
        "{name} scores {v} points in the first round of a game.",
        "{name} plays a game and gets {v} points.",
    )),
    Event("points", "points", ("{name} now has {v=v+x} points.",), (
        "{name} scores {x} points.",
        "{name} wins {x} points.",
        "In the next round {name} gets {x} points more.",
        "Then {name} earns {x} more points.",
        "A bonus gives {name} {x} points.",
        "{name} lands on a lucky field and gets {x} points.",
    )),
    Event("points", "points", ("{name} now has {v=v-x} points.",), (
        "{name} loses {x} points.",
        "A mistake costs {name} {x} points.",
        "In the next round {name} loses {x} points.",
        "Then {x} points are taken away from {name}.",
        "{name} pays {x} points for a hint.",
    )),
    Event("points", None, (), (
        "How many points does {name} have now?",
        "How many points does {name} have in the end?",
        "With how many points does {name} end the game?",
        "What is {name}'s score now?",
        "What is the final score of {name}?",
    )),
)  # fmt: skip
