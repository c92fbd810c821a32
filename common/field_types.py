"""Types of fields with their ranges, for configs, recipes and data, and the check of a dataclass against them."""

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, Field

from .schema import check


LARGEST = 2**31 - 1
_MARKUP = re.compile(r"[\x00-\x1f\x7f<>|]|\]\(")

Whole = Annotated[int, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
LongSeed = Annotated[int, Field(ge=0, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
ProperShare = Annotated[float, Field(ge=0, lt=1)]
Steps = Annotated[float, Field(gt=0, le=LARGEST)]  # below 1, a share of the training


def _name(text: str) -> str:
    if _MARKUP.search(text):
        raise ValueError("expected a name in one line, without markup: it is printed on cards")
    return text


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_name)]
License = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+$")]


def check_fields(instance: Any, kinds: Mapping[str, Any] = MappingProxyType({})) -> None:
    """
    Checks every field of a dataclass against its type. An `int` becomes a `float` where one is declared.

    Args:
        instance (`Any`): The dataclass.
        kinds (`Mapping[str, Any]`, *optional*): Types by field name, used instead of the annotations.

    Raises:
        `ValueError`: In one line, for the first field with an invalid value.
    """
    hints = _hints(instance.__class__)
    for field in fields(instance):
        if field.init:
            kind = kinds.get(field.name) or hints[field.name]
            object.__setattr__(instance, field.name, check(kind, getattr(instance, field.name), f"`{field.name}`"))


@cache
def _hints(dataclass: type) -> dict[str, Any]:
    return get_type_hints(dataclass, include_extras=True)
