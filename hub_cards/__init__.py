"""What goes to the Hub: cards from measured facts, repositories that are whole, and the push itself."""

from .cards import eval_results, model_card, trajectory_card
from .facts import (
    MODEL_FACTS,
    TRAJECTORY_FACTS,
    ModelFacts,
    TaskArea,
    TaskResult,
    TrajectoryFacts,
    facts_json,
    read_facts,
)


__all__ = [
    "MODEL_FACTS",
    "TRAJECTORY_FACTS",
    "ModelFacts",
    "TaskArea",
    "TaskResult",
    "TrajectoryFacts",
    "eval_results",
    "facts_json",
    "model_card",
    "read_facts",
    "trajectory_card",
]
