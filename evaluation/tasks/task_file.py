"""A task of one's own: a YAML file that names the data, the prompt, the answer and how two answers are compared."""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import regex
from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import AfterValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag
from typing_extensions import NotRequired, TypedDict

from ...common.fingerprints import fingerprint
from ...common.schema import check
from ...common.yaml_files import read_yaml
from ...generation.fields import suggestion
from ..answers import extract_boxed, extract_hash_answer, extract_number, numbers_match
from ..prompts import TEMPLATE_SECONDS, time_limit
from .data import HubData, Text, load_rows
from .task import Sample, Task


logger = logging.getLogger(__name__)

REGEX_SECONDS = 2.0  # for one text; expressions take milliseconds
REMEDY = 'see "Your own task" in docs/evaluation.md'
DATA_KEYS = ("data", "dataset", "dataset_config", "dataset_splits")
ROW = "row"  # in a template, all columns of a row


def _without_groups(pattern: str) -> str:
    try:
        groups = regex.compile(pattern).groups
    except regex.error as error:
        raise ValueError(f"expected a regular expression ({error})") from None
    if groups > 1:
        raise ValueError(f"it has {groups} groups: expected one at most; write (?:...) for the others")
    return pattern


Pattern = Annotated[str, StringConstraints(min_length=1), AfterValidator(_without_groups)]
TaskName = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,60}$")]


class RegexExtraction(TypedDict):
    """An answer is what the last match of an expression has in its group, or all of it."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    regex: Pattern


class PerSplit(TypedDict):
    """A name for each split: of a file, or what the dataset calls it."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    test: NotRequired[Text]
    validation: NotRequired[Text]


def _form(value: Any) -> str:
    return "names" if isinstance(value, dict) else "text"


def _either(text: Any, names: Any) -> Any:
    """A text or a mapping; an error is about the one that is there."""
    return Annotated[Annotated[text, Tag("text")] | Annotated[names, Tag("names")], Discriminator(_form)]


class TaskFile(TypedDict):
    """What a file says; `docs/evaluation.md` tells each key."""

    name: NotRequired[TaskName]
    title: NotRequired[Annotated[Text, StringConstraints(max_length=200)]]
    data: NotRequired[_either(Text, PerSplit)]  # type: ignore[valid-type]
    dataset: NotRequired[Text]
    dataset_config: NotRequired[Text]
    dataset_splits: NotRequired[PerSplit]
    prompt: Text
    answer: Text
    extract: NotRequired[_either(Literal["text", "number", "boxed", "hash"], RegexExtraction)]  # type: ignore
    metric: Literal["exact", "numeric"]
    chat: NotRequired[bool]
    stop_strings: NotRequired[list[Annotated[str, StringConstraints(min_length=1)]]]
    max_new_tokens: NotRequired[Annotated[int, Field(ge=1, lt=2**31)]]


Extract = Callable[[str], str | None]
EXTRACTIONS: dict[str, Extract] = {
    "text": str.strip,
    "number": extract_number,
    "boxed": extract_boxed,
    "hash": extract_hash_answer,
}


def texts_match(answer: str | None, reference: str) -> bool:
    """Whether two answers are the same text, but for white space around them."""
    return answer is not None and answer.strip() == reference


METRICS: dict[str, Callable[[str | None, str], bool]] = {"exact": texts_match, "numeric": numbers_match}


def load_task(path: str | os.PathLike) -> Task:
    """
    Reads a task from a YAML file; its data is read when the task's `load` is called.

    Args:
        path (`str` or `PathLike`): The file; see "Your own task" in `docs/evaluation.md`.

    Returns:
        [`Task`]: The task, for [`~d3llm.evaluation.measurer.measure`].

    Raises:
        `ValueError`: For a file that is not YAML, a key that is missing, unknown or of another type, an expression or
            template that cannot be compiled, and a template that names no column.
        `OSError`: For a file that is not there.

    Example:

    ```python
    >>> task = load_task("my_task.yaml")
    >>> samples = task.load(None, "test", None)
    >>> task.check(samples[0], "The answer is 7.")
    ```
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise OSError(f"The task file {path} {what}: give a YAML file ({REMEDY}).")
    if path.suffix == ".py":
        raise ValueError(f"{path} is Python: give a YAML file, or pass its `Task` to `d3llm.measure` ({REMEDY}).")
    values = read_yaml(path, "task")
    unknown = [key for key in values if key not in TaskFile.__annotations__]
    if unknown:
        hint = suggestion(unknown[0], TaskFile.__annotations__)
        raise ValueError(f"{path} has the unknown key {unknown[0]!r:.60}{hint}: {REMEDY}.")
    check(TaskFile, values, str(path), REMEDY)
    name = check(TaskName, values.get("name", path.stem), f"the name of {path}", "give the task another `name`")
    prompt, answer = (Template(values[key], key, path) for key in ("prompt", "answer"))
    extraction, metric = values.get("extract", "text"), values["metric"]
    extract = EXTRACTIONS.get(extraction) if isinstance(extraction, str) else _regex_extraction(extraction["regex"])
    assert extract is not None, "the schema has these names"
    hub, files = _data(values, path)
    return Task(
        name=name,
        title=values.get("title", name),
        source=str(hub or ", ".join(file.name for file in files.values())),
        load=partial(_load, path, hub, files, prompt, answer, metric),
        check=lambda sample, text: METRICS[metric](extract(text), sample.reference),
        chat=values.get("chat", False),
        stop_strings=tuple(values.get("stop_strings", ())),
        max_new_tokens=values.get("max_new_tokens", Task.max_new_tokens),
        checker=f"{metric}, of {extraction if isinstance(extraction, str) else 'a regex'}",
        definition=f"{path.name} {fingerprint(sorted((k, v) for k, v in values.items() if k not in DATA_KEYS))}",
    )


class Template:
    """
    A template of jinja that is filled in with the columns of a row.

    Args:
        text (`str`): The template.
        key (`str`): What it is for, in errors.
        path (`Path`): The file that has it, in errors.

    Raises:
        `ValueError`: For what is not a template, and one that names no column.
    """

    def __init__(self, text: str, key: str, path: Path):
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_present)
        environment.globals.clear()  # every name is a column
        self.where = f"`{key}` of {path}"
        try:
            self.template = environment.from_string(text)
            names = meta.find_undeclared_variables(environment.parse(text))
        except (TemplateError, RecursionError) as error:
            raise ValueError(f"{self.where} is not a template of jinja ({_line(error)}): {REMEDY}.") from error
        if not names:
            raise ValueError(f"{self.where} names no column: write it as {{{{ column }}}} ({REMEDY}).")
        self.columns = sorted(names - {ROW})

    def check_columns(self, where: str, row: dict[str, Any]) -> None:
        """Raises a `ValueError` when a row lacks a column."""
        missing = next((name for name in self.columns if name not in row), None)
        if missing is not None:
            raise ValueError(
                f"{where} has no column {missing!r}{suggestion(missing, row)}, which {self.where} names: its columns "
                f"are {', '.join(map(repr, row)):.100}."
            )

    def fill_in(self, where: str, row: dict[str, Any]) -> str:
        """The text for a row, at least a word; a `ValueError` for a row that lacks what the template needs."""
        try:
            with time_limit(TEMPLATE_SECONDS):
                text = self.template.render({ROW: row, **row})
        except Exception as error:  # a template can raise anything
            raise ValueError(f"{where}: {self.where} cannot be filled in ({_line(error)}).") from error
        if not text.strip():
            raise ValueError(f"{where}: {self.where} makes an empty text: leave the row out of the data.")
        return text


def _present(value: Any) -> Any:
    if value is None:
        raise ValueError("the row has no value there; leave it out of the data, or test with {% if column %}")
    return value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _regex_extraction(pattern: str) -> Extract:
    compiled = regex.compile(pattern)

    def extract(text: str) -> str | None:
        found = None
        try:
            for match in compiled.finditer(text, timeout=REGEX_SECONDS):
                found = match
        except TimeoutError:
            logger.warning(
                "The regex %r did not end within %s seconds on %.60r, which counts as wrong: write a simpler one.",
                pattern,
                REGEX_SECONDS,
                text,
            )
            return None
        return None if found is None else found[compiled.groups]

    return extract


def _data(values: dict[str, Any], path: Path) -> tuple[HubData | None, dict[str, Path]]:
    """The dataset, or the file of each split; relative to the folder of the task's file."""
    if ("data" in values) == ("dataset" in values):
        raise ValueError(f"{path} needs `data`, a file, or `dataset`, an id on the Hub: one of the two ({REMEDY}).")
    if "dataset" in values:
        splits = values.get("dataset_splits", {"test": "test", "validation": "validation"})
        return HubData(values["dataset"], (values.get("dataset_config"),), splits), {}
    misplaced = next((key for key in DATA_KEYS[2:] if key in values), None)
    if misplaced is not None:
        raise ValueError(f"{path} has `{misplaced}` without `dataset`: leave it out ({REMEDY}).")
    files = values["data"] if isinstance(values["data"], dict) else {"test": values["data"]}
    if not files:
        raise ValueError(f"{path} has `data` without a file: give one for `test` ({REMEDY}).")
    return None, {split: path.parent / file for split, file in files.items()}


def _load(
    path: Path,
    hub: HubData | None,
    files: dict[str, Path],
    prompt: Template,
    answer: Template,
    metric: str,
    file: Path | None,
    split: str,
    limit: int | None,
) -> list[Sample]:
    if file is None and hub is None:
        if split not in files:
            raise ValueError(f"{path} has no {split} split: give it a file in `data`, or use --data.")
        file = files[split]
    rows = load_rows(dict[str, Any], hub, file, split, limit)
    samples = []
    for number, (where, row) in enumerate(rows):
        for template in (prompt, answer):
            template.check_columns(where, row)
        reference = answer.fill_in(where, row).strip()
        if metric == "numeric" and not numbers_match(reference, reference):
            raise ValueError(f"{where} has the answer {reference!r:.60}, which is not a number: use `metric: exact`.")
        samples.append(Sample(str(number), prompt.fill_in(where, row), reference))
    return samples
