"""The facts on cards: measured, typed, and saved as JSON next to the rendered card."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..common.schema import check


MODEL_FACTS = "model_facts.json"
TRAJECTORY_FACTS = "trajectory_facts.json"


@dataclass(frozen=True)
class TaskResult:
    """
    One measured point: a model, a task and a decoding.

    Attributes:
        task (`str`): Name of the task.
        samples (`int`): Number of decoded problems.
        accuracy (`float`): Share of correct answers, 0 to 1.
        accuracy_interval (`list[float]`): Its 95 % interval.
        tokens_per_forward (`float`, *optional*): TPF; `None` where nothing was generated.
        tokens_per_second (`float`, *optional*): TPS, which is meaningless without `hardware`.
        hardware (`str`): The hardware of the run.
        decoding (`dict[str, Any]`): Preset and fields of `DiffusionGenerationConfig`.
        dataset (`str`, *optional*): Hub id of the dataset.
        split (`str`, *optional*): Its split.
        date (`str`, *optional*): Day of the run, ISO 8601.
        rows_per_forward (`float`, *optional*, defaults to 1.0): Row forwards over forwards: more than 1 with drafts
            and guidance.
        judged_by (`str`, *optional*): Name of the check that the accuracy is by, if the task has several.
        further_accuracy (`dict[str, list[float]]`): Accuracy and the ends of its interval, 0 to 1, by each further
            check that says other than the deciding one.
    """

    task: str
    samples: int
    accuracy: float
    accuracy_interval: list[float]
    tokens_per_forward: float | None
    tokens_per_second: float | None
    hardware: str
    decoding: dict[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    split: str | None = None
    date: str | None = None
    rows_per_forward: float = 1.0
    judged_by: str | None = None
    further_accuracy: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskArea:
    """
    Accuracy under parallelism on one task.

    Attributes:
        task (`str`): Name of the task.
        aup (`float`): Percent times tokens per forward.
        y_max (`float`): Accuracy in percent that the weight is relative to.
        points (`int`): Number of points of the curve.
        preset (`str`, *optional*): The preset, if all points have the same.
        dataset (`str`, *optional*): Hub id of the dataset.
        split (`str`, *optional*): Its split.
        method (`str`, *optional*): Name of the curve, if another has the same task and preset.
    """

    task: str
    aup: float
    y_max: float
    points: int
    preset: str | None = None
    dataset: str | None = None
    split: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """
    How a model was made and what it measured.

    Attributes:
        name (`str`): Title of the card.
        license (`str`): SPDX id in lower case, that of the base model.
        architecture (`str`): Class name, as in `config.architectures`.
        parameters (`int`): Number of parameters.
        base_model (`str`, *optional*): Hub id of the model that training started from. A name that is not a Hub id is
            not written to the metadata.
        teacher (`str`, *optional*): The model that produced the trajectories.
        trajectories (`str`, *optional*): Trajectory dataset.
        dataset (`str`, *optional*): Dataset of prompts and completions, for a training without trajectories.
        conversion (`dict[str, Any]`): Facts of an untrained conversion: `source`, the autoregressive class;
            `mask_token` and `mask_row`, the mask token and where its row comes from; `recipe`, one that trains the
            model.
        recipe (`str`, *optional*): Name of the recipe.
        hyperparameters (`dict[str, Any]`): The hyperparameters of the run.
        training_tasks (`list[str]`): The subjects of the training data; nothing else was taught.
        decoding (`dict[str, Any]`): Fields set in generation_config.json.
        results (`list[TaskResult]`), areas (`list[TaskArea]`): The measurements.
        picture (`str`, *optional*): File in the repository that shows accuracy against parallelism.
        chat (`bool`): Whether the tokenizer has a chat template.
        versions (`dict[str, str]`): Versions of the libraries that made the model.
        tags (`list[str]`): Further tags of the card.
        serving (`dict[str, Any]`): How SGLang decodes it, if it serves the model: `algorithm` and `config`.
    """

    name: str
    license: str
    architecture: str
    parameters: int
    base_model: str | None = None
    teacher: str | None = None
    trajectories: str | None = None
    dataset: str | None = None
    conversion: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    training_tasks: list[str] = field(default_factory=list)
    decoding: dict[str, Any] = field(default_factory=dict)
    results: list[TaskResult] = field(default_factory=list)
    areas: list[TaskArea] = field(default_factory=list)
    picture: str | None = None
    chat: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    serving: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrajectoryFacts:
    """
    How a trajectory dataset was made, and what it contains.

    Attributes:
        name (`str`): Title of the card.
        license (`str`): SPDX id in lower case, that of the prompts.
        teacher (`str`): The model whose order was recorded.
        source (`str`): Source of the order.
        rows (`int`): Number of rows.
        prompt_tokens, response_tokens (`int`): Number of tokens in all rows.
        forwards (`int`): Forwards of the teacher for all rows.
        cut (`int`): Responses that `max_new_tokens` truncated.
        checked (`int`), correct (`int`): Rows whose answer was checked, and those among them that are correct.
        mask_token_id (`int`, *optional*): The mask token of teacher and student; an autoregressive model has none.
        decoding (`dict[str, Any]`): The teacher's decoding parameters.
        prompts (`str`, *optional*): Dataset of the prompts.
        row_forwards (`int`, *optional*): Rows of the forwards: more with drafts and guidance.
    """

    name: str
    license: str
    teacher: str
    source: str
    rows: int
    prompt_tokens: int
    response_tokens: int
    forwards: int
    cut: int
    checked: int
    correct: int
    mask_token_id: int | None
    decoding: dict[str, Any] = field(default_factory=dict)
    prompts: str | None = None
    row_forwards: int | None = None


Facts = TypeVar("Facts")


def facts_from_dict(kind: type[Facts], values: dict[str, Any], where: str = "facts") -> Facts:
    """
    Builds facts from JSON values.

    Args:
        kind (`type`): One of the classes in this file.
        values (`dict[str, Any]`): Its fields.
        where (`str`, *optional*): The name of the values in errors.

    Raises:
        `ValueError`: For a missing or unknown field, or one of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected an object, got {type(values).__name__}")
    fields = {part.name: part for part in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    unknown = sorted(values.keys() - fields.keys())
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - values.keys())
    if unknown or missing:
        raise ValueError(f"{where}: " + (f"unknown field {unknown[0]!r}" if unknown else f"no {missing[0]!r}"))
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    (item, *_) = typing.get_args(hint) or (None,)
    if isinstance(item, type) and dataclasses.is_dataclass(item):  # strict checks take no object for one
        entries = check(list[dict[str, Any]], value, where)
        return [facts_from_dict(item, entry, f"{where}[{i}]") for i, entry in enumerate(entries)]
    return check(hint, value, where)


def read_facts(kind: type[Facts], path: Path) -> Facts:
    """
    Reads the facts saved next to a card.

    Args:
        kind (`type`): [`ModelFacts`] or [`TrajectoryFacts`].
        path (`Path`): The JSON file.

    Raises:
        `ValueError`: If the file is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return facts_from_dict(kind, values, str(path))


def facts_json(facts: ModelFacts | TrajectoryFacts) -> str:
    """The text of the JSON file for these facts."""
    return json.dumps(dataclasses.asdict(facts), indent=2, ensure_ascii=False) + "\n"
