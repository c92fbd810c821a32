"""Renders cards: turns one object of measured facts into the text of a README. No template holds a number."""

import html
import re
from collections.abc import Sequence
from importlib.metadata import requires
from typing import Any

import yaml
from huggingface_hub import (
    DatasetCardData,
    EvalResult,
    EvalResultEntry,
    ModelCardData,
    SpaceCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from packaging.requirements import Requirement

from .facts import ModelFacts, TaskArea, TaskResult, TrajectoryFacts


TAGS = ["d3llm", "masked-diffusion"]
CONTROL = re.compile(r"\s*[\x00-\x1f\x7f]+\s*")


def _as_text(value: Any) -> Any:
    """A value as plain text on one line of a card, whatever it holds. Markdown is passed through unchanged."""
    if isinstance(value, Markup) or not isinstance(value, (str, list, tuple, dict)):
        return value
    return html.escape(CONTROL.sub(" ", str(value)), quote=False).replace("|", "&#124;")


TEMPLATES = Environment(
    loader=PackageLoader(__package__, "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
    finalize=_as_text,
)


def is_hub_id(name: str | None) -> bool:
    """Whether a name has the form `owner/name` of a Hub repository."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return False
    return "/" in (name or "")


def model_card(facts: ModelFacts, repo_id: str = "...") -> str:
    """
    The card of a model.

    Args:
        facts ([`ModelFacts`]): The facts about the model.
        repo_id (`str`, *optional*): Its future id on the Hub, for the loading example.

    Returns:
        `str`: Text of README.md, with `model-index` in its metadata.

    Raises:
        `ValueError`: Without a licence.
    """
    _check_license(facts.license)
    data = [name for name in (facts.trajectories, facts.dataset) if name is not None and is_hub_id(name)]
    tags = [*TAGS, "custom_code", *([facts.recipe] if facts.recipe else []), *facts.tags]
    metadata = ModelCardData(
        license=facts.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(tags)),
        base_model=facts.base_model if is_hub_id(facts.base_model) else None,
        base_model_relation="finetune" if is_hub_id(facts.base_model) else None,
        datasets=data or None,
        model_name=facts.name if facts.results else None,
        eval_results=_model_index(facts) or None,
    )
    return _render(
        "model_card.md.jinja",
        metadata,
        facts=facts,
        with_rows=any(map(_rows, facts.results)),
        with_checks=any(result.further_accuracy for result in facts.results),
        repo_id=repo_id,
        shorten=shorten,
        is_hub_id=is_hub_id,
    )


def eval_results(facts: ModelFacts) -> dict[str, str]:
    """
    The results in the format for leaderboards of datasets on the Hub.

    Args:
        facts ([`ModelFacts`]): The measurements; results without a dataset on the Hub are skipped.

    Returns:
        `dict[str, str]`: Text by path in the repository, `.eval_results/TASK.yaml`.
    """
    files: dict[str, str] = {}
    for task in dict.fromkeys(result.task for result in facts.results):
        best = max((r for r in facts.results if r.task == task), key=lambda result: result.accuracy)
        if is_hub_id(best.dataset):
            parallelism = (
                "" if best.tokens_per_forward is None else f"TPF {best.tokens_per_forward:.2f}{_rows(best)}, "
            )
            entry = EvalResultEntry(
                dataset_id=best.dataset or "",
                task_id=task,
                value=round(100 * best.accuracy, 2),
                date=best.date,
                notes=f"{describe_decoding(best.decoding)}, {parallelism}n={best.samples}{_checks(best)}",
            )
            files[f".eval_results/{_free_name(slug(task) or 'task', files)}.yaml"] = yaml.safe_dump(
                eval_result_entries_to_yaml([entry]), sort_keys=False
            )
    return files


def trajectory_card(facts: TrajectoryFacts, repo_id: str = "...") -> str:
    """
    The card of a trajectory dataset.

    Args:
        facts ([`TrajectoryFacts`]): The facts about the dataset.
        repo_id (`str`, *optional*): Its future id on the Hub, for the loading example.

    Returns:
        `str`: Text of README.md, whose `configs` give the paths of the Parquet parts.

    Raises:
        `ValueError`: Without a licence.
    """
    _check_license(facts.license)
    metadata = DatasetCardData(
        license=facts.license,
        tags=[*TAGS, "pseudo-trajectories"],
        task_categories=["text-generation"],
        pretty_name=facts.name,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    return _render("trajectory_card.md.jinja", metadata, facts=facts, repo_id=repo_id, is_hub_id=is_hub_id)


def metric_card(repo_id: str, name: str, description: str, arguments: str) -> str:
    """
    The card of a metric's Space.

    Args:
        repo_id (`str`): Id of the Space on the Hub.
        name (`str`): Name of the metric's module.
        description (`str`), arguments (`str`): The module's texts about itself.
    """
    metadata = SpaceCardData(title=name.upper(), sdk="gradio", app_file="app.py", tags=["evaluate", "metric", "d3llm"])
    return _render(
        "metric_card.md.jinja",
        metadata,
        repo_id=repo_id,
        name=name,
        description=Markup(description),
        arguments=Markup(arguments),
    )


def space_card(models: Sequence[str]) -> str:
    """
    The card of a demo Space.

    Args:
        models (`Sequence[str]`): Hub ids of the models that it runs.
    """
    names = " and ".join(model.rpartition("/")[2] for model in models)
    title = f"{names} fill their canvases" if len(models) > 1 else f"{names} fills its canvas"
    metadata = SpaceCardData(title=title, sdk="gradio", app_file="app.py", models=[*models], tags=TAGS)
    return _render("space_card.md.jinja", metadata, title=title, models=models)


def custom_generate_card(repo_id: str) -> str:
    """
    The card of the repository with the decoder for other people's checkpoints.

    Args:
        repo_id (`str`): Id of the repository on the Hub.
    """
    metadata = ModelCardData(license="apache-2.0", library_name="transformers", tags=[*TAGS, "custom_generate"])
    return _render("custom_generate_card.md.jinja", metadata, repo_id=repo_id)


def describe_decoding(decoding: dict[str, Any]) -> str:
    """The decoding in a few words: the preset, then the fields that differ from it."""
    rest = [f"{name}={value}" for name, value in decoding.items() if name != "preset"]
    return ", ".join([decoding.get("preset") or "defaults", *rest])


def _free_name(name: str, files: dict[str, str]) -> str:
    """The name of another file of results, with a number if that is taken: HumanEval and HumanEval+ have one slug."""
    names = (name, *(f"{name}-{number}" for number in range(2, len(files) + 2)))
    return next(each for each in names if f".eval_results/{each}.yaml" not in files)


def slug(text: str) -> str:
    """A text in lower case, with hyphens instead of anything but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def shorten(number: int) -> str:
    """A count with three significant digits: 2.28M, 8.02B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _model_index(facts: ModelFacts) -> list[EvalResult]:
    rows = []
    for result in facts.results:
        decoding = describe_decoding(result.decoding)
        tpf, tps = result.tokens_per_forward, result.tokens_per_second
        measured = {"accuracy": (round(100 * result.accuracy, 2), f"accuracy{_by(result.judged_by)} ({decoding})")}
        if tpf is not None:
            measured["tokens_per_forward"] = round(tpf, 4), f"tokens per forward{_rows(result)} ({decoding})"
        if tps is not None:
            measured["tokens_per_second"] = round(tps, 2), f"tokens per second ({decoding}; {result.hardware})"
        rows += [_eval_result(result, kind, value, name) for kind, (value, name) in measured.items()]
        rows += [
            _eval_result(result, "accuracy", round(100 * accuracy, 2), f"accuracy{_by(check)} ({decoding})")
            for check, (accuracy, *_) in result.further_accuracy.items()
        ]
    for area in facts.areas:
        curve = ", ".join(filter(None, [area.preset, area.method, f"y_max {area.y_max:g}", f"{area.points} points"]))
        name = f"accuracy under parallelism ({curve})"
        rows.append(_eval_result(area, "aup", round(area.aup, 2), name))
    return rows


def _rows(result: TaskResult) -> str:
    """What tokens per forward do not say: how many rows a forward takes, if it is not one."""
    return f" at {result.rows_per_forward:.1f} rows per forward" if result.rows_per_forward > 1 else ""


def _by(check: str | None) -> str:
    return f" by {check}" if check else ""


def _checks(result: TaskResult) -> str:
    """Which check an accuracy is by, and what the others say."""
    others = [f"{100 * accuracy:.2f}{_by(check)}" for check, (accuracy, *_) in result.further_accuracy.items()]
    return "".join(f", {part}" for part in [_by(result.judged_by).strip(), *others] if part)


def _eval_result(row: TaskResult | TaskArea, kind: str, value: float, name: str) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        task_name="Text generation",
        dataset_type=row.dataset or slug(row.task) or "task",
        dataset_name=row.task,
        dataset_split=row.split,
        metric_type=kind,
        metric_name=name,
        metric_value=value,
    )


def _check_license(license: str) -> None:
    if not license.strip() or license.lower() in ("unknown", "none"):
        raise ValueError("A card needs a licence: give that of the base model or of the data (--license apache-2.0).")


def _render(template: str, metadata: Any, **values: Any) -> str:
    (transformers,) = [r for r in map(Requirement, requires("d3llm") or []) if r.name == "transformers"]
    (minimum,) = [bound.version for bound in transformers.specifier if bound.operator == ">="]
    return TEMPLATES.get_template(template).render(
        metadata=Markup(metadata.to_yaml().strip()),
        minimum_transformers=minimum,
        describe=describe_decoding,
        **values,
    )
