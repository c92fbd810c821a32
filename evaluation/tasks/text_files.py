"""Rows of JSON and CSV files with every value as it was written: no text becomes a date, no number loses its zeros."""

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any


GZIP = b"\x1f\x8b"  # how such a file begins
LARGEST_FIELD = 2**31 - 1  # characters in a field of CSV; Python's own limit is 131072
NO_SPACE = re.compile(r"\S")
TRUTH = {"True": True, "False": False}


def read_json(file: Path) -> list[dict[str, Any]]:
    """
    Rows of JSON lines, of objects one after another, or of an array of objects.

    Args:
        file (`Path`): The file, also compressed with gzip.

    Returns:
        `list[dict[str, Any]]`: The rows. All have the same columns: what a row lacks is `None`.

    Raises:
        `ValueError`: For what is not such a file, with its line or row.
        `OSError`: For a file that cannot be read.
    """
    text = _text(file)
    rows: list[dict[str, Any]] = []
    decoder, place = json.JSONDecoder(), _word(text, 0)
    while place < len(text):
        value, end = decoder.raw_decode(text, place)
        rows += value if isinstance(value, list) and not rows else [value]
        place = _word(text, end)
    for number, row in enumerate(rows, 1):
        _check_row(row, number)
    columns = {name: None for row in rows for name in row}
    return [columns | row for row in rows]


def read_csv(file: Path) -> list[dict[str, Any]]:
    """
    Rows of a CSV file, whose first line names the columns.

    A column of numbers or truth values is one only if each is rendered as it was written: `7` and `1.5`, but not `007`
    or `1.50`. Everything else is text, and an empty field is `None`.

    Args:
        file (`Path`): The file, also compressed with gzip.

    Returns:
        `list[dict[str, Any]]`: The rows.

    Raises:
        `ValueError`: For what is not such a file, with its line.
        `OSError`: For a file that cannot be read.
    """
    csv.field_size_limit(LARGEST_FIELD)
    lines = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        names = next(lines, [])
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"two columns have the name {double!r:.60}")
        rows = []
        for fields in filter(None, lines):
            if len(fields) > len(names):
                raise ValueError(f"line {lines.line_num}: expected {len(names)} fields, found {len(fields)}")
            rows.append(fields + [""] * (len(names) - len(fields)))
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num}: {error}") from None
    columns = [_as_written(column) for column in zip(*rows, strict=True)]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _text(file: Path) -> str:
    content = file.read_bytes()
    return (gzip.decompress(content) if content.startswith(GZIP) else content).decode("utf-8-sig")


def _word(text: str, place: int) -> int:
    """The place of the next character that is not white space, or the end."""
    found = NO_SPACE.search(text, place)
    return len(text) if found is None else found.start()


def _check_row(row: Any, number: int) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"row {number}: expected an object with a value per column")
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # which no tokenizer takes
        raise ValueError(f"row {number}: there is half of a surrogate pair in a text") from None


def _as_written(column: tuple[str, ...]) -> list[Any]:
    """The values of a column: numbers or truth values where all of them are, and are rendered as they were written."""
    for read in (_number, TRUTH.__getitem__):
        try:
            values = [read(text) if text else None for text in column]
        except (ValueError, KeyError):
            continue
        if all(value is None or str(value) == text for value, text in zip(values, column, strict=True)):
            return values
    return [text or None for text in column]


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
