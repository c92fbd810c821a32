"""On-policy rounds from the command line, for `d3llm distill --rounds N`."""

import sys
from collections.abc import Sequence

from ..common.yaml_files import read_yaml
from .distill import find_recipe, parse_arguments, split_recipe
from .pseudo_trajectory_config import PseudoTrajectoryConfig
from .rounds import Round, train_rounds
from .rounds_config import RoundsConfig


OPTIONS = ("rounds", "prompts")  # which only rounds have


def is_meant(argv: Sequence[str]) -> bool:
    """Whether the command line, or the recipe that it names, asks for rounds."""
    recipe, rest = split_recipe(argv)
    named = {argument.partition("=")[0].removeprefix("--") for argument in rest if argument.startswith("--")}
    if recipe is not None:
        named |= read_yaml(find_recipe(recipe)).keys()
    return not named.isdisjoint(OPTIONS)


def main(argv: Sequence[str]) -> None:
    """
    Trains a student in rounds, and prints a line for each.

    Args:
        argv (`Sequence[str]`): The arguments.

    Raises:
        `ValueError`, `OSError`: As from [`~d3llm.trainers.rounds.train_rounds`].
    """
    if any(argument.partition("=")[0] == "--trajectories" for argument in argv):
        raise ValueError("--trajectories is for a training without rounds, which decode --prompts: omit one of them.")
    config, args, model_args = parse_arguments(list(argv), RoundsConfig, PseudoTrajectoryConfig)
    train_rounds(model_args, args, config, on_round=_print)


def _print(finished: Round) -> None:
    sys.stdout.write(f"{finished.describe()}; student in {finished.student}\n")
    sys.stdout.flush()
