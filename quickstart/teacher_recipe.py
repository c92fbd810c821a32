"""The recipe of the shipped teacher, read and checked."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import NotRequired, TypedDict

from ..common.field_types import Count, LongSeed, Positive, ProperShare, Share, Weight, Whole
from ..common.schema import check
from ..common.yaml_files import read_yaml
from ..generation.configuration_diffusion import DiffusionGenerationConfig
from .stories.problem import MAX_STEPS


DEFAULT_RECIPE = Path(__file__).resolve().parent / "teacher.yaml"
EXACT = ConfigDict(extra="forbid")
RULES = ("llada", "window", "frontier")  # of masking; each row has one
ROUNDING = 1e-6  # of a sum of shares
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]


@with_config(EXACT)
class Shape(TypedDict):
    """Fields of `LLaDAConfig`."""

    d_model: Count
    n_layers: Count
    n_heads: Count
    mlp_hidden_size: Count
    rope_theta: Positive
    max_sequence_length: Count
    attention_block_size: Count


@with_config(EXACT)
class CopyingHeads(TypedDict):
    """Initial attention heads; see [`set_copying_heads`]."""

    neighbour_sharpness: Positive
    match_sharpness: Positive
    output_gain: Positive


@with_config(EXACT)
class Optimizer(TypedDict):
    """Settings of both optimizers; see `teacher.yaml`."""

    max_steps: Count
    learning_rate_schedule: Annotated[
        list[Annotated[list[Weight], Field(min_length=2, max_length=2)]], Field(min_length=2)
    ]
    learning_rate: Weight
    betas: Annotated[list[ProperShare], Field(min_length=2, max_length=2)]
    weight_decay: Weight
    muon_momentum: ProperShare
    muon_iterations: Count
    max_grad_norm: Positive


@with_config(EXACT)
class Masking(TypedDict):
    """Shares and weights up to a step; see `teacher.yaml`."""

    until: Count | None
    clean_blocks: NotRequired[Share]
    llada: Share
    window: Share
    frontier: Share
    ending: NotRequired[Share]
    filled: NotRequired[Share]
    after_weight: NotRequired[Weight]
    min_ratio: Share
    window_size: Count
    number_weight: Weight
    result_weight: Weight
    tail_weight: Weight


@with_config(EXACT)
class Logging(TypedDict):
    """Intervals of logging, evaluating and saving, in steps and minutes."""

    log_every: Count
    eval_every: Count
    eval_problems: Count
    save_every_minutes: Weight


@with_config(EXACT)
class Sizes(TypedDict):
    """Rows per batch, by kind of batch."""

    drill: Count
    copy: Count
    short: Count
    medium: Count
    long: Count
    full: Count


@with_config(EXACT)
class Steps(TypedDict):
    """Smallest and largest number of steps, by kind of batch."""

    short: Pair
    medium: Pair
    long: Pair
    full: Pair


@with_config(EXACT)
class Phase(TypedDict):
    """Shares of the kinds of batches up to a step."""

    until: Count | None
    drill: Share
    short: Share
    medium: Share
    long: Share
    full: Share
    copy: Share


@with_config(EXACT)
class Limit(TypedDict):
    """The largest of something up to a step."""

    until: Count | None
    largest: Whole


@with_config(EXACT)
class Invented(TypedDict):
    """[`~.stories.words.InventedShares`] up to a step."""

    until: Count | None
    names: Share
    things: Share


StoryKind = Literal[
    "altogether",
    "arithmetic",
    "boxes",
    "comparison",
    "crowds",
    "gains",
    "games",
    "multiples",
    "purchases",
    "rates",
    "sharing",
    "units",
]


@with_config(EXACT)
class KindWeights(TypedDict):
    """How many times as likely kinds of problems are up to a step; 1 by default."""

    until: Count | None
    weights: dict[StoryKind, Count]


@with_config(EXACT)
class TeacherRecipe(TypedDict):
    """The content of `teacher.yaml`."""

    seed: LongSeed
    model: Shape
    copying_heads: NotRequired[CopyingHeads]
    generation: dict[str, Any]
    optimizer: Optimizer
    batch_size: Sizes
    steps: Steps
    drill_length: Count
    drill_operations: Annotated[str, Field(pattern=r"^[-+*/]+$")]
    drill_values: Annotated[list[Limit], Field(min_length=1)]
    copy_sentences: Count
    copy_mask_ratio: Annotated[list[Share], Field(min_length=2, max_length=2)]
    tail: Annotated[list[Limit], Field(min_length=1)]
    canvas_tail: Whole
    invented_words: Annotated[list[Invented], Field(min_length=1)]
    kind_weights: Annotated[list[KindWeights], Field(min_length=1)]
    block_sizes: Annotated[list[Count], Field(min_length=1)]
    plain_prompt_rate: Share
    curriculum: Annotated[list[Phase], Field(min_length=1)]
    masking: Annotated[list[Masking], Field(min_length=1)]
    logging: Logging


def load_recipe(recipe_path: str | os.PathLike | None = None) -> dict[str, Any]:
    """
    Reads a recipe.

    Args:
        recipe_path (`str` or `PathLike`, *optional*): YAML file; by default the shipped one.

    Returns:
        `dict[str, Any]`: Its sections.

    Raises:
        `ValueError`: For a file that is not a recipe, and for the first missing or invalid value.
        `OSError`: If there is no such file.
    """
    path = recipe_path or DEFAULT_RECIPE
    recipe = read_yaml(path)
    check(TeacherRecipe, recipe, str(path), f"start from {DEFAULT_RECIPE}")
    for phases in ("curriculum", "masking", "drill_values", "tail", "invented_words", "kind_weights"):
        *ends, last = (phase["until"] for phase in recipe[phases])
        if last is not None:
            raise ValueError(f"{path}: the last phase of `{phases}` must have no end: give it `until: null`.")
        if None in ends or not _rises(ends):
            raise ValueError(f"{path}: the phases of `{phases}` end at {ends}: put them in order.")
    _check_shares(recipe, str(path))
    _check_ranges(recipe, str(path))
    try:
        DiffusionGenerationConfig(**recipe["generation"])
    except ValueError as error:
        raise ValueError(f"{path}: `generation` is invalid: {error}") from error
    return recipe


def _check_shares(recipe: dict[str, Any], name: str) -> None:
    """Raises a `ValueError` for rules of masking that are not those of all rows, and a phase without batches."""
    for phase in recipe["masking"]:
        total = sum(phase[rule] for rule in RULES)
        if abs(total - 1) > ROUNDING:
            raise ValueError(f"{name}: the shares {', '.join(RULES)} of `masking` sum to {total:g}: expected 1.")
    for phase in recipe["curriculum"]:
        if not any(phase[kind] for kind in Sizes.__annotations__):
            raise ValueError(f"{name}: a phase of `curriculum` has no kind of batches: give one a share.")


def _check_ranges(recipe: dict[str, Any], name: str) -> None:
    """Raises a `ValueError` for a schedule or a range that goes backwards, and for more steps than stories have."""
    points = [step for step, _ in recipe["optimizer"]["learning_rate_schedule"]]
    if points[0] != 0 or not _rises(points):
        raise ValueError(f"{name}: `learning_rate_schedule` has points at {points}: expected rising steps, from 0.")
    pairs = {f"`steps` of {kind}": pair for kind, pair in recipe["steps"].items()}
    for what, (low, high) in {**pairs, "`copy_mask_ratio`": recipe["copy_mask_ratio"]}.items():
        if low > high:
            raise ValueError(f"{name}: {what} is from {low} to {high}: put the smaller one first.")
    most = max(high for _, high in recipe["steps"].values())
    if most > MAX_STEPS:
        raise ValueError(f"{name}: `steps` go up to {most}: a story has at most {MAX_STEPS}.")


def _rises(numbers: list[Any]) -> bool:
    return all(one < other for one, other in pairwise(numbers))
