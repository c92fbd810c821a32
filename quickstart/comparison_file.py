"""The form of a plan of a comparison, `comparison.yaml`."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import NotRequired, TypedDict

from ..common.field_types import Count, LongSeed, Positive, Seed, Weight


EXACT = ConfigDict(extra="forbid")
DType = Literal["float32", "bfloat16", "float16"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]  # parts of the name of a result file, which dashes separate


@with_config(EXACT)
class Problems(TypedDict):
    """Problems of the train split."""

    count: Count
    seed: LongSeed


@with_config(EXACT)
class Decoder(TypedDict):
    """A way to decode, and the points of its curve."""

    preset: str
    thresholds: NotRequired[Annotated[list[Weight], Field(min_length=1)]]
    fields: NotRequired[dict[str, Any]]


@with_config(EXACT)
class Measurement(TypedDict):
    """The problems that all models decode."""

    split: Literal["train", "validation", "test"]
    problems: Count
    seed: LongSeed
    batch_size: Count
    dtype: NotRequired[DType]


@with_config(EXACT)
class OrderModel(TypedDict):
    """The causal language model that an order is taken from; it is trained on the lessons themselves."""

    hidden_size: Count
    layers: Count
    heads: Count
    max_steps: Count
    batch_size: Count
    learning_rate: Positive


@with_config(EXACT)
class Student(TypedDict):
    """A student, in what it differs from the base."""

    start: NotRequired[Name]
    extraction: NotRequired[dict[str, Any]]
    training: NotRequired[dict[str, Any]]
    rounds: NotRequired[dict[str, Any]]
    rewards: NotRequired[dict[str, Any]]
    averaged_with: NotRequired[Name]
    decoders: NotRequired[Annotated[list[Name], Field(min_length=1)]]
    budget_note: NotRequired[Annotated[str, Field(min_length=1)]]


@with_config(EXACT)
class Shipped(TypedDict):
    """The student that comes with the package."""

    student: Name
    seed: Seed


@with_config(EXACT)
class ComparisonFile(TypedDict):
    """The content of `comparison.yaml`. Sections of type `dict` are checked by the configs that they become."""

    teacher: str
    seeds: Annotated[list[Seed], Field(min_length=1)]
    bf16: bool
    problems: Problems
    fresh_problems: Problems
    decoding: dict[str, Any]
    extraction: dict[str, Any]
    order_model: OrderModel
    measurement: Measurement
    decoders: Annotated[dict[Name, Decoder], Field(min_length=1)]
    teacher_decoders: Annotated[dict[Name, Decoder], Field(min_length=1)]
    default_decoders: Annotated[list[Name], Field(min_length=1)]
    training: dict[str, Any]
    rounds: dict[str, Any]
    rounds_training: dict[str, Any]
    rewards: dict[str, Any]
    base: Name
    shipped: Shipped
    students: Annotated[dict[Name, Student], Field(min_length=1)]
