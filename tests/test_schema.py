"""The one check of what comes from outside: what passes, and what the error says."""

import math
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from typing_extensions import TypedDict

from d3llm.common.schema import check


class Row(TypedDict):
    answer: str
    tests: list[str]


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
        (int | str, 1.5, "`field` is 1.5: expected a valid integer or expected a valid string."),
        (Row, {"answer": 4, "tests": []}, "`field`['answer'] is 4: expected a valid string."),
        (Row, {"answer": "4"}, "`field`['tests'] is missing."),
        (str, list(range(100)), f"`field` is {str(list(range(100)))[:60]}...: expected a valid string."),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(kind: Any, value: Any, message: str):
    with pytest.raises(ValueError) as error:
        check(kind, value, "`field`")
    assert str(error.value) == message


def test_an_error_ends_with_the_way_out():
    with pytest.raises(ValueError, match=r"\['answer'\] is missing: name the column with --answer-column\.$"):
        check(Row, {}, "rows.jsonl, row 3", "name the column with --answer-column")
    with pytest.raises(ValueError, match=r"expected a valid string; name the column with --answer-column\.$"):
        check(Row, {"answer": 1, "tests": []}, "rows.jsonl, row 3", "name the column with --answer-column")
