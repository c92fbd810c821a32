"""Publishing on the Hub: cards from measured facts, complete repositories, and the push itself."""

if __name__ != "d3llm.hub_cards":  # a second copy of every class
    raise ImportError("hub_cards is a part of d3llm: import d3llm.hub_cards.")

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
