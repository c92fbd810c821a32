"""A result file of `d3llm eval`: its form, and the one function that reads it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import NotRequired, TypedDict

from ..common.schema import check
from .decoding import wilson_interval


SCHEMA = "d3llm-result-1"
LONGEST_NAME = 48  # characters of a name in tables and pictures
WAY_OUT = "leave the file out, or measure again (`d3llm eval`)"


def _printable(name: str) -> str:
    """Holds no line break and nothing that moves a terminal's cursor."""
    if not name.strip() or not name.isprintable():
        raise ValueError("expected a name of printable characters")
    return name


Name = Annotated[str, AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0, lt=2**40)]
AtLeastOne = Annotated[int, Field(ge=1, lt=2**40)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Record(TypedDict):
    """A line of the file of samples."""

    id: str
    correct: bool
    tokens: Count
    forwards: Count
    seconds: Rate
    text: str


class Samples(TypedDict):
    """A list per quantity, with a value for each sample."""

    id: list[str]
    correct: list[bool]
    tokens: list[Count]
    forwards: list[Count]


class Decoding(TypedDict):
    """The fields of the decoder, of which readers take this one."""

    preset: NotRequired[str | None]


class Hardware(TypedDict):
    """What a measurement of time depends on."""

    device: str
    threads: NotRequired[AtLeastOne]
    processes: NotRequired[AtLeastOne]


class Result(TypedDict):
    """One point, see `docs/evaluation.md`."""

    schema: Literal["d3llm-result-1"]
    task: Name
    title: Name
    checker: str
    data: str
    num_samples: AtLeastOne
    batch_size: AtLeastOne
    method: Name
    model: str
    weights: str
    dtype: str
    assistant_model: NotRequired[str | None]
    source: str
    split: str
    chat: NotRequired[bool]
    point: dict[str, Any]
    decoding: Decoding
    accuracy: Share
    accuracy_interval: Annotated[list[Share], Field(min_length=2, max_length=2)]
    interval: str
    tokens_per_forward: Rate | None
    tokens_per_second: Rate | None
    tokens: Count
    forwards: Count
    seconds: Rate
    hardware: Hardware
    versions: dict[str, str]
    samples: Samples


def result_files(paths: Sequence[Path]) -> list[Path]:
    """
    The result files among paths.

    Args:
        paths (`Sequence[Path]`): Files, or folders of them.

    Returns:
        `list[Path]`: Every file that was named, and those of each folder that may be results.
    """
    return [file for path in paths for file in (_results_in(path) if path.is_dir() else [path])]


def _results_in(folder: Path) -> list[Path]:
    """Leaves out the settings of files of samples, and what lm-evaluation-harness said."""
    return sorted(
        file
        for file in folder.glob("*.json")
        if ".samples." not in file.name and not file.name.endswith(".lm_eval.json")
    )


def read_result(file: Path) -> dict[str, Any]:
    """
    Reads a result file.

    Args:
        file (`Path`): The file.

    Returns:
        `dict[str, Any]`: A [`Result`] with all that is in the file.

    Raises:
        `ValueError`: For a file that is not of this form, or whose figures are not those of its samples.
        `OSError`: For a file that is not there.
    """
    if not file.is_file():
        raise OSError(f"No result file {file}.")
    try:
        result = json.loads(file.read_bytes())
        json.dumps(result, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no result file of `d3llm eval`.") from error
    if not isinstance(result, dict) or "schema" not in result:
        raise ValueError(f"{file} is no result file of `d3llm eval`.")
    check(Result, result, str(file), WAY_OUT)
    _check_samples(result, str(file))
    return result


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    What the samples say together.

    Args:
        records (`Sequence[dict[str, Any]]`): One per sample, with `id`, `correct`, `tokens`, `forwards`, `seconds`.

    Returns:
        `dict[str, Any]`: Accuracy (a share of 1) with its interval, TPF, TPS, sums, and a list per quantity with a
        value for each sample. TPF and TPS are ratios of sums; `None` when nothing was generated.
    """
    correct = sum(record["correct"] for record in records)
    tokens, forwards, seconds = (sum(record[name] for record in records) for name in ("tokens", "forwards", "seconds"))
    return {
        "accuracy": correct / len(records),
        "accuracy_interval": list(wilson_interval(correct, len(records))),
        "interval": "95 % Wilson",
        "tokens_per_forward": tokens / forwards if tokens else None,
        "tokens_per_second": tokens / seconds if tokens else None,
        "tokens": tokens,
        "forwards": forwards,
        "seconds": seconds,
        "samples": {name: [record[name] for record in records] for name in ("id", "correct", "tokens", "forwards")},
    }


def short_name(name: str) -> str:
    """A name that fits a table or a legend: of a long one the beginning and the end."""
    half = LONGEST_NAME // 2 - 1
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}...{name[-half:]}"


def _check_samples(result: dict[str, Any], name: str) -> None:
    """Raises when the figures of a result are not what its samples say."""
    columns = {key: result["samples"][key] for key in Samples.__annotations__}
    counts = {key: len(values) for key, values in columns.items()}
    if set(counts.values()) != {result["num_samples"]}:
        raise ValueError(f"{name}['num_samples'] is {result['num_samples']}, and `samples` has {counts}: {WAY_OUT}.")
    records = [dict(zip(columns, values, strict=True), seconds=0.0) for values in zip(*columns.values(), strict=True)]
    records[0]["seconds"] = result["seconds"]  # of the samples together: their own are not in the file
    free = [record["id"] for record in records if record["tokens"] and not record["forwards"]]
    if free or (any(columns["tokens"]) and not result["seconds"]):
        raise ValueError(f"{name} has tokens that took no forward or no time: {WAY_OUT}.")
    said = summarize(records)
    for key in ("accuracy", "tokens", "forwards", "tokens_per_forward", "tokens_per_second"):
        if not _same(result[key], said[key]):
            raise ValueError(f"{name}['{key}'] is {result[key]}, and its samples say {said[key]}: {WAY_OUT}.")


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isclose(one, other, rel_tol=1e-6))
