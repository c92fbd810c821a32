"""Checks of files and arguments against types that state their ranges.

A field is declared once, as a type: `Annotated[int, Field(ge=1)]`, `Literal["a", "b"]`, or a `TypedDict` of these.
Python, the command line and YAML then get the same check and the same error.
"""

import reprlib
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError


SHOWN = 60  # characters of a faulty value in an error
EXPECTED = "expected "
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxdict = SHOWN // 2
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 3 * SHOWN


def check(kind: Any, value: Any, name: str, remedy: str = "") -> Any:
    """
    Checks a value against a type.

    Args:
        kind (`type`): The type, with its ranges and choices. Text is not converted to a number, nor a number to text
            or to a truth value.
        value (`Any`): The value.
        name (`str`): The name of the value in an error: an argument, or a file and its line.
        remedy (`str`, *optional*): What to do about it, for the end of the error.

    Returns:
        `Any`: The value; for a `TypedDict`, only the declared keys. An `int` becomes a `float` where one is declared.

    Raises:
        `ValueError`: In one line, for the first part of the value that is invalid.

    Example:

    ```python
    >>> check(Annotated[int, Field(ge=1)], 0, "`max_steps`")
    ValueError: `max_steps` is 0: expected greater than or equal to 1.
    ```
    """
    try:
        return _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    # The first fault, with all that was expected in its place: a union has one fault for each alternative.
    place, shown, missing = _place(value, faults[0])
    expected = dict.fromkeys(_expected(fault) for fault in faults if _place(value, fault)[0] == place)
    what = f"{name}{place} is missing" if missing else f"{name}{place} is {_short(shown)}"
    ending = f": {remedy}." if remedy and missing else f"; {remedy}." if remedy else "."
    raise ValueError(what + ("" if missing else f": {_joined(expected)}") + ending)


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _place(value: Any, fault: Any) -> tuple[str, Any, bool]:
    """The place of a fault in the value, written as in Python; the value there; and whether it is missing."""
    place = ""
    for part in fault["loc"]:  # some parts name an alternative of a union, not a place
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            place, value = f"{place}[{part!r}]", value[part]
        elif fault["type"] == "missing" and part == fault["loc"][-1]:
            return f"{place}[{part!r}]", None, True
    return place, value, False


def _expected(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "there is no such name"
    text = fault["msg"].removeprefix("Value error, ")
    return text.replace("Input should be ", EXPECTED) if text.startswith("Input") else text[:1].lower() + text[1:]


def _joined(expected: Iterable[str]) -> str:
    """All alternatives in one sentence: first what is expected, then what is wrong."""
    kinds = [text.removeprefix(EXPECTED) for text in expected if text.startswith(EXPECTED)]
    others = [text.rstrip(".") for text in expected if not text.startswith(EXPECTED)]
    return "; ".join([*([EXPECTED + " or ".join(kinds)] if kinds else []), *others])


def _short(value: Any) -> str:
    """The start of a value's representation, without building the rest of it."""
    try:
        text = _REPR.repr(bytes(value[:SHOWN]) if isinstance(value, bytes | bytearray) else value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
