"""A measured point: what a result file of `d3llm eval` says, its one reader and its one writer."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import NotRequired, TypedDict

from ..common.files import write_atomically
from ..common.schema import check
from .aup.aup import compute_aup
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
    row_forwards: NotRequired[Count]  # not in older files: then as many as `forwards`
    assistant_forwards: NotRequired[Count]  # of a diffusion model with an assistant
    further: NotRequired[dict[str, bool]]  # verdicts of further checks, by name
    seconds: Rate
    text: str


class Samples(TypedDict):
    """A list per quantity, with a value for each sample."""

    id: list[str]
    correct: list[bool]
    tokens: list[Count]
    forwards: list[Count]
    row_forwards: NotRequired[list[Count]]
    assistant_forwards: NotRequired[list[Count]]
    further: NotRequired[dict[str, list[bool]]]


class CheckAccuracy(TypedDict):
    """The accuracy by one check, a share of 1, with its interval."""

    accuracy: Share
    accuracy_interval: Annotated[list[Share], Field(min_length=2, max_length=2)]


class Decoding(TypedDict):
    """The fields of the decoder, of which readers take this one."""

    preset: NotRequired[str | None]


class Hardware(TypedDict):
    """What a measurement of time depends on."""

    device: str
    threads: NotRequired[AtLeastOne]
    processes: NotRequired[AtLeastOne]


@dataclass(frozen=True, kw_only=True)
class Result:
    """
    One measured point: a model, a task, a way of decoding. The fields are the keys of a result file, in its order; see
    `docs/evaluation.md` for each. Shares are of 1, as in the file; whoever needs percent takes the properties.

    Attributes:
        judged_by (`str`, *optional*): Name of the check that `accuracy` is by; `None` of a task with a single check.
        further_accuracy (`dict[str, dict]`, *optional*): `accuracy` and `accuracy_interval` by each further check of
            the task, by its name.
        left_out (`frozenset[str]`): Keys that its file does not have: not every measurement knows all of them.
        file (`Path`, *optional*): Where it was read from, for errors.
    """

    schema: Literal["d3llm-result-1"]
    task: Name
    title: Name
    checker: str
    judged_by: Name | None = None
    data: str
    num_samples: AtLeastOne
    batch_size: AtLeastOne
    method: Name
    model: str
    weights: str
    dtype: str
    assistant_model: str | None = None
    assistant_weights: str | None = None
    source: str
    definition: str | None = None
    split: str
    chat: bool | None = None
    seed: int | None = None
    point: dict[str, Any]
    decoding: Decoding
    accuracy: Share
    accuracy_interval: Annotated[list[Share], Field(min_length=2, max_length=2)]
    interval: str
    further_accuracy: dict[Name, CheckAccuracy] | None = None
    tokens_per_forward: Rate | None
    tokens_per_second: Rate | None
    tokens: Count
    forwards: Count
    row_forwards: Count
    assistant_forwards: Count | None = None
    seconds: Rate
    hardware: Hardware
    versions: dict[str, str]
    samples: Samples
    left_out: frozenset[str] = field(default=frozenset(), compare=False)
    file: Path | None = field(default=None, compare=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], file: Path | None = None) -> "Result":
        """
        A result of the keys of a result file.

        Args:
            values (`Mapping[str, Any]`): Its content; keys of other versions are left out. Without `row_forwards`,
                they are as many as `forwards`.
            file (`Path`, *optional*): Where it was read from.

        Returns:
            [`Result`]: The result.
        """
        known = {name: values[name] for name in KEYS if name in values}
        left_out = frozenset(KEYS) - known.keys()
        return cls(**{"row_forwards": values["forwards"], **known}, left_out=left_out, file=file)

    @property
    def accuracy_percent(self) -> float:
        """Accuracy from 0 to 100: what AUP, leaderboards and cards are in."""
        return 100 * self.accuracy

    @property
    def interval_percent(self) -> tuple[float, float]:
        """The interval of the accuracy, from 0 to 100."""
        low, high = self.accuracy_interval
        return 100 * low, 100 * high

    @property
    def differing_percent(self) -> dict[str, tuple[float, float, float]]:
        """Accuracy and its interval, from 0 to 100, by each further check that says other than the deciding one."""
        return {
            name: (100 * by["accuracy"], 100 * by["accuracy_interval"][0], 100 * by["accuracy_interval"][1])
            for name, by in (self.further_accuracy or {}).items()
            if by["accuracy"] != self.accuracy
        }

    def judged(self, by: str) -> "Result":
        """
        The same samples with another of the task's checks as the deciding one.

        Args:
            by (`str`): Name of the check.

        Returns:
            [`Result`]: The result by that check; what decided is one of its further checks.

        Raises:
            `ValueError`: If the samples were not judged by it.
        """
        further = dict(self.further_accuracy or {})
        if by == self.judged_by:
            return self
        if self.judged_by is None or by not in further:
            known = ", ".join(filter(None, [self.judged_by, *further])) or "no named check"
            raise ValueError(f"{self.file or short_name(self.method)} was not judged by {by!r}: it has {known}.")
        columns = self.samples["further"]
        own: CheckAccuracy = {"accuracy": self.accuracy, "accuracy_interval": self.accuracy_interval}
        return replace(
            self,
            judged_by=by,
            accuracy=further[by]["accuracy"],
            accuracy_interval=further[by]["accuracy_interval"],
            further_accuracy={self.judged_by: own} | {name: value for name, value in further.items() if name != by},
            samples={
                **self.samples,
                "correct": columns[by],
                "further": {self.judged_by: self.samples["correct"]}
                | {name: values for name, values in columns.items() if name != by},
            },
        )

    @property
    def rows_per_forward(self) -> float:
        """Row forwards over forwards: 1 without drafts and guidance."""
        return self.row_forwards / self.forwards if self.forwards else 1.0

    @property
    def preset(self) -> str | None:
        """The preset that decoded it."""
        return self.decoding.get("preset")

    @property
    def curve_key(self) -> tuple[str, str]:
        """Title of the task and name of the method: results that agree in them are points of one curve."""
        return self.title, self.method

    @property
    def problems(self) -> tuple[str, str, list[str]]:
        """What was asked: only results that agree in it may be points of one curve."""
        return self.task, self.data, self.samples["id"]

    def to_dict(self) -> dict[str, Any]:
        """The content of a result file."""
        return {name: getattr(self, name) for name in KEYS if name not in self.left_out}

    def write(self, file: Path) -> None:
        """
        Writes a result file, atomically: a line per quantity, and one per quantity of the samples.

        Args:
            file (`Path`): The file.

        Raises:
            `OSError`: If it cannot be written.
        """
        values = self.to_dict()
        samples = ",\n".join(f'  "{name}": {json.dumps(each)}' for name, each in values.pop("samples").items())
        head = json.dumps(values, indent=1)
        write_atomically(file, f'{head[:-2]},\n "samples": {{\n{samples}\n }}\n}}\n'.encode())


NOT_IN_FILE = ("left_out", "file")
KEYS = tuple(each.name for each in fields(Result) if each.name not in NOT_IN_FILE)
_FORM = {
    each.name: NotRequired[each.type] if each.default is None else each.type  # type: ignore[valid-type]
    for each in fields(Result)
    if each.name not in NOT_IN_FILE
} | {"chat": NotRequired[bool], "row_forwards": NotRequired[Count]}
ResultFile: Any = TypedDict("ResultFile", _FORM)  # type: ignore[misc]


def result_files(paths: Sequence[Path]) -> list[Path]:
    """
    The result files among paths.

    Args:
        paths (`Sequence[Path]`): Files, or folders of them.

    Returns:
        `list[Path]`: Every file that was named, and those of each folder that may be results; each once.
    """
    files = [file for path in paths for file in (_results_in(path) if path.is_dir() else [path])]
    first: dict[Path, Path] = {}
    for file in files:
        first.setdefault(file.resolve(), file)
    return list(first.values())


def _results_in(folder: Path) -> list[Path]:
    """Leaves out the settings of files of samples, and what lm-evaluation-harness said."""
    return sorted(
        file
        for file in folder.glob("*.json")
        if ".samples." not in file.name and not file.name.endswith(".lm_eval.json")
    )


def read_result(file: Path) -> Result:
    """
    Reads a result file.

    Args:
        file (`Path`): The file.

    Returns:
        [`Result`]: What it says; keys of other versions are left out.

    Raises:
        `ValueError`: For a file that is not of this form, or whose figures are not those of its samples.
        `OSError`: For a file that is not there.
    """
    if not file.is_file():
        raise OSError(f"No result file {file}.")
    try:
        values = json.loads(file.read_bytes())
        json.dumps(values, ensure_ascii=False).encode()  # half of a surrogate pair is not text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a result file of `d3llm eval`.") from error
    if not isinstance(values, dict) or "schema" not in values:
        raise ValueError(f"{file} is not a result file of `d3llm eval`.")
    check(ResultFile, values, str(file), WAY_OUT)
    _check_samples(values, str(file))
    return Result.from_dict(values, file)


def read_results(paths: Sequence[Path]) -> list[Result]:
    """
    Reads result files.

    Args:
        paths (`Sequence[Path]`): Result files of `d3llm eval`, or folders of them.

    Returns:
        `list[Result]`: Their results, at least one.

    Raises:
        `ValueError`, `OSError`: As [`read_result`], and for folders without results.
    """
    files = result_files(paths)
    if not files:
        raise ValueError(f"No results in {', '.join(map(str, paths))}: give result files of `d3llm eval`.")
    return [read_result(file) for file in files]


def by_curve(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """
    The curves that results make.

    Args:
        results (`Sequence[Result]`): The results; those that generated nothing are on no curve.

    Returns:
        `dict[tuple[str, str], list[Result]]`: The points of each curve by its `curve_key`, by rising TPF.

    Raises:
        `ValueError`: For points of one curve that are not on the same samples, and results of one task that were
            judged by different checks.
    """
    curves: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.tokens_per_forward is not None:
            curves.setdefault(result.curve_key, []).append(result)
    for (title, method), points in curves.items():
        if any(point.problems != points[0].problems for point in points):
            raise ValueError(
                f"{short_name(method)} was measured on {short_name(title)} with different samples: make a curve of "
                "one set of samples, or give the points different names (--method)."
            )
        judges = {point.judged_by or "its only check": point for point in _of_task(curves, title)}
        if len(judges) > 1:
            said = " and ".join(f"{short_name(point.method)} by {check}" for check, point in judges.items())
            raise ValueError(
                f"{short_name(title)} was judged by different checks, {said}: compare results by one of them, or "
                "measure again (`d3llm eval`)."
            )
        points.sort(key=lambda point: point.tokens_per_forward or 0.0)
    return curves


def _of_task(curves: Mapping[tuple[str, str], list[Result]], title: str) -> list[Result]:
    return [result for (task, _), results in curves.items() if task == title for result in results]


def area(curve: Sequence[Result], **anchor: Any) -> float:
    """
    AUP of points.

    Args:
        curve (`Sequence[Result]`): The points.
        anchor (`Any`): `y_max` and `baseline_accuracy`, in percent, and `floor_rule`; see [`compute_aup`].

    Returns:
        `float`: Percent times tokens per forward.
    """
    parallelism = [result.tokens_per_forward or 0.0 for result in curve]
    return compute_aup(parallelism, [result.accuracy_percent for result in curve], **anchor)


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    What the samples say together.

    Args:
        records (`Sequence[dict[str, Any]]`): One per sample, with `id`, `correct`, `tokens`, `forwards`, `seconds`,
            and `row_forwards` if they are not as many as `forwards`; `assistant_forwards` if there are any; `further`,
            the verdicts of further checks.

    Returns:
        `dict[str, Any]`: Accuracy (a share of 1) with its interval, TPF, TPS, sums, and a list per quantity with a
        value for each sample. TPF and TPS are ratios of sums; `None` when nothing was generated. `further_accuracy`
        and `assistant_forwards` if the records have theirs.
    """
    correct = sum(record["correct"] for record in records)
    samples = {name: [record[name] for record in records] for name in ("id", "correct", "tokens", "forwards")}
    samples["row_forwards"] = [record.get("row_forwards", record["forwards"]) for record in records]
    drafting: dict[str, int] = {}
    if any("assistant_forwards" in record for record in records):
        samples["assistant_forwards"] = [record.get("assistant_forwards", 0) for record in records]
        drafting = {"assistant_forwards": sum(samples["assistant_forwards"])}
    checks = records[0].get("further", {})
    further = {name: [record["further"][name] for record in records] for name in checks}
    tokens, forwards, seconds = sum(samples["tokens"]), sum(samples["forwards"]), sum(r["seconds"] for r in records)
    return {
        **_share(correct, len(records)),
        "interval": "95 % Wilson",
        **({"further_accuracy": {n: _share(sum(v), len(v)) for n, v in further.items()}} if further else {}),
        "tokens_per_forward": tokens / forwards if tokens else None,
        "tokens_per_second": tokens / seconds if tokens else None,
        "tokens": tokens,
        "forwards": forwards,
        "row_forwards": sum(samples["row_forwards"]),
        **drafting,
        "seconds": seconds,
        "samples": samples | ({"further": further} if further else {}),
    }


def _share(correct: int, total: int) -> dict[str, Any]:
    return {"accuracy": correct / total, "accuracy_interval": list(wilson_interval(correct, total))}


def short_name(name: str) -> str:
    """A name that fits a table or a legend: of a long one the beginning and the end."""
    half = LONGEST_NAME // 2 - 1
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}...{name[-half:]}"


def _check_samples(result: dict[str, Any], name: str) -> None:
    """Raises when the figures of a result are not what its samples say."""
    columns = {key: result["samples"][key] for key in Samples.__annotations__ if key in result["samples"]}
    further = columns.pop("further", {})
    counts = {key: len(values) for key, values in columns.items()}
    counts |= {f"further {check}": len(verdicts) for check, verdicts in further.items()}
    if set(counts.values()) != {result["num_samples"]}:
        raise ValueError(f"{name}['num_samples'] is {result['num_samples']}, and `samples` has {counts}: {WAY_OUT}.")
    records = [dict(zip(columns, values, strict=True), seconds=0.0) for values in zip(*columns.values(), strict=True)]
    records[0]["seconds"] = result["seconds"]  # of the samples together: their own are not in the file
    free = [record["id"] for record in records if record["tokens"] and not record["forwards"]]
    if free or (any(columns["tokens"]) and not result["seconds"]):
        raise ValueError(f"{name} has tokens that took no forward or no time: {WAY_OUT}.")
    if any(record.get("row_forwards", record["forwards"]) < record["forwards"] for record in records):
        raise ValueError(f"{name} has a sample with fewer row forwards than forwards: {WAY_OUT}.")
    _check_further(result, further, name)
    said, figures = summarize(records), {"row_forwards": result["forwards"], **result}
    sums = ("tokens", "forwards", "row_forwards", "assistant_forwards")
    for key in ("accuracy", *sums, "tokens_per_forward", "tokens_per_second"):
        if not _same(figures.get(key), said.get(key)):
            raise ValueError(f"{name}['{key}'] is {figures.get(key)}, and its samples say {said.get(key)}: {WAY_OUT}.")


def _check_further(result: dict[str, Any], further: dict[str, list[bool]], name: str) -> None:
    """Raises when what a result says by further checks is not what its samples say."""
    figures = {check: by["accuracy"] for check, by in (result.get("further_accuracy") or {}).items()}
    said = {check: sum(verdicts) / len(verdicts) for check, verdicts in further.items()}
    if figures.keys() != said.keys() or not all(_same(figures[check], said[check]) for check in said):
        raise ValueError(f"{name}['further_accuracy'] is {figures}, and its samples say {said}: {WAY_OUT}.")
    if figures and (result.get("judged_by") is None or result["judged_by"] in figures):
        raise ValueError(f"{name} has further checks, and no name of its own for the deciding one: {WAY_OUT}.")


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isclose(one, other, rel_tol=1e-6))
