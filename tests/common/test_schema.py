"""The one check of what comes from outside: what passes, and what the error says."""

import math
import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict

from d3llm.common.schema import check


class Row(TypedDict):
    answer: str
    tests: list[str]


class Options(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")


def unknown(text: str) -> str:
    raise ValueError("there is no such name.")


Named = Annotated[str, AfterValidator(unknown)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Count, 1),
        (Count | None, None),
        (Share, 0),
        (Literal["a", "b"], "b"),
        (list[Count], [1, 2]),
        (Row, {"answer": "4", "tests": []}),
    ],
)
def test_what_fits_passes(kind: Any, value: Any):
    assert check(kind, value, "`field`") == value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Count, 0, "`field` is 0: expected greater than or equal to 1."),
        (Count, True, "`field` is True: expected a valid integer."),
        (Count, "3", "`field` is '3': expected a valid integer."),
        (Share, math.nan, "`field` is nan: expected a finite number."),
        (Literal["a", "b"], "c", "`field` is 'c': expected 'a' or 'b'."),
        (list[Count], "text", "`field` is 'text': expected a valid list."),
        (list[Count], [1, 0], "`field`[1] is 0: expected greater than or equal to 1."),
        (int | str, 1.5, "`field` is 1.5: expected a valid integer or a valid string."),
        (int | Named, "x", "`field` is 'x': expected a valid integer; there is no such name."),
        (Options, {"a": 1}, "`field`['a'] is 1: there is no such name."),
        (Row, {"answer": 4, "tests": []}, "`field`['answer'] is 4: expected a valid string."),
        (Row, {"answer": "4"}, "`field`['tests'] is missing."),
        (str, list(range(100)), f"`field` is {str(list(range(100)))[:60]}...: expected a valid string."),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(kind: Any, value: Any, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check(kind, value, "`field`")


def test_an_error_ends_with_the_remedy():
    with pytest.raises(ValueError, match=r"\['answer'\] is missing: name the column with --answer-column\.$"):
        check(Row, {}, "rows.jsonl, row 3", "name the column with --answer-column")
    with pytest.raises(ValueError, match=r"expected a valid string; name the column with --answer-column\.$"):
        check(Row, {"answer": 1, "tests": []}, "rows.jsonl, row 3", "name the column with --answer-column")


def test_of_a_large_value_no_more_is_written_than_is_shown():
    class Loud(str):
        def __repr__(self) -> str:
            raise AssertionError("the whole value is written")

    nested: Any = Loud("x" * 10**6)
    for _ in range(3):
        nested = [nested] * 10**5
    for value in (nested, {0: nested}, b"x" * 10**7):
        with pytest.raises(ValueError, match=r"\A.{,119}\Z"):
            check(int, value, "`field`")
    with pytest.raises(ValueError, match="`field` is a value of type int: expected a valid string"):
        check(str, 10**5000, "`field`")  # Python does not write so many digits
