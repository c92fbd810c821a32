"""Reads what a model's folder and the result files of `d3llm eval` say, into the facts of its card."""

import dataclasses
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .cards import is_hub_id
from .facts import ModelFacts, TaskArea, TaskResult


LIBRARIES = ("d3llm", "torch", "transformers")


def model_facts(folder: Path, *, license: str, **known: Any) -> ModelFacts:
    """
    What the files of a model say of it.

    Args:
        folder (`Path`): As `save_pretrained` leaves it.
        license (`str`): SPDX id in lower case.
        known (`Any`): Further fields of [`ModelFacts`], such as `base_model` or `recipe`.

    Raises:
        `OSError`, `ValueError`: For a folder without config or weights, or with damaged ones.
    """
    if not folder.is_dir():
        raise OSError(f"There is no folder {folder}.")
    config = read_json(folder / "config.json")
    found: dict[str, Any] = {
        "name": folder.resolve().name,
        "architecture": (config.get("architectures") or ["?"])[0],
        "parameters": sum(math.prod(shape) for shape in tensor_shapes(folder).values()),
        "decoding": decoding_fields(_generation_config(folder)),
        "chat": (folder / "chat_template.jinja").is_file(),
        "versions": library_versions(),
    }
    return ModelFacts(license=license, **{**found, **known})


def with_results(facts: ModelFacts, folder: Path, paths: list[Path]) -> ModelFacts:
    """
    Adds measurements to the facts of a model.

    Args:
        facts ([`ModelFacts`]): What was known.
        folder (`Path`): The model's folder: what was measured must be what lies there.
        paths (`list[Path]`): Result files of `d3llm eval`, or folders of them. Several points of a task
            and a preset make a curve and an AUP, relative to its own best accuracy.

    Returns:
        [`ModelFacts`]: With these results in place of earlier ones.

    Raises:
        `OSError`, `ValueError`: For a file that is not there, is no result, or is one of another model.
    """
    from ..common.fingerprints import fingerprint_files
    from ..evaluation.result import read_result, result_files

    files = result_files(paths)
    if not files:
        raise ValueError(f"There is no result in {', '.join(map(str, paths))}.")
    model_type = read_json(folder / "config.json").get("model_type")
    weights = fingerprint_files([folder / "config.json", *sorted(folder.glob("*.safetensors"))])
    results = []
    for file in files:
        record = read_result(file)
        if record["weights"] != weights:
            raise ValueError(f"{file} measured other weights than those in {folder}: measure these (`d3llm eval`).")
        results.append(_task_result(record, model_type))
    curves: dict[tuple[str, str | None], list[TaskResult]] = {}
    for result in results:
        curves.setdefault((result.task, result.decoding.get("preset")), []).append(result)
    return dataclasses.replace(facts, results=results, areas=[_area(c) for c in curves.values() if len(c) > 1])


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """
    Names and shapes of the tensors in a folder's safetensors files.

    Args:
        folder (`Path`): The folder.

    Raises:
        `OSError`: Without such a file, or for a damaged one.
    """
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise OSError(f"{file} is damaged: {error}") from error
    if not shapes:
        raise OSError(f"{folder} has no weights (*.safetensors).")
    return shapes


def read_json(path: Path) -> dict[str, Any]:
    """
    A JSON object from a file.

    Raises:
        `OSError`: If there is no such file.
        `ValueError`: If it holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object.")
    return values


def _generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def library_versions() -> dict[str, str]:
    """The versions of what made a model."""
    return {name: version(name) for name in LIBRARIES}


def decoding_fields(generation_config: dict[str, Any]) -> dict[str, Any]:
    """
    How a model decodes.

    Args:
        generation_config (`dict[str, Any]`): The values of a generation_config.json.

    Returns:
        `dict[str, Any]`: Those that are set, without special tokens and notes of transformers.
    """
    return {
        name: value
        for name, value in generation_config.items()
        if value not in (None, False)
        and not name.endswith("_token_id")
        and not name.startswith(("transformers_", "output_", "_"))
    }


def _task_result(record: dict[str, Any], model_type: str | None) -> TaskResult:
    machine = record["hardware"]
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    processes = f", {machine['processes']} processes" if machine.get("processes", 1) > 1 else ""
    return TaskResult(
        task=record["title"],
        samples=record["num_samples"],
        accuracy=record["accuracy"],
        accuracy_interval=record["accuracy_interval"],
        tokens_per_forward=record["tokens_per_forward"] or 0.0,
        tokens_per_second=record["tokens_per_second"] or 0.0,
        hardware=f"{machine['device']}{threads}{processes}, batch size {record['batch_size']}",
        decoding=_differences(record["decoding"], model_type),
        dataset=record["source"] if is_hub_id(record["source"]) else None,
        split=record["split"],
    )


def _differences(decoding: dict[str, Any], model_type: str | None) -> dict[str, Any]:
    """The preset, and the fields of resolved decoding parameters in which they differ from it."""
    from ..generation.fields import METHOD_DEFAULTS
    from ..generation.presets import PRESETS
    from ..modeling import find_family

    family = find_family(model_type)
    preset = PRESETS.get(decoding.get("preset") or "")
    values = METHOD_DEFAULTS | (preset.values_for(family.preset_values if family else {}) if preset else {})
    different = {n: v for n, v in decoding.items() if n in METHOD_DEFAULTS and v is not None and v != values[n]}
    return {"preset": decoding.get("preset"), **different}


def _area(curve: list[TaskResult]) -> TaskArea:
    """The AUP of points that one preset reaches on one task."""
    from ..evaluation.aup.aup import compute_aup

    accuracies = [100 * result.accuracy for result in curve]
    area = compute_aup([result.tokens_per_forward for result in curve], accuracies)
    first = curve[0]
    return TaskArea(
        first.task, area, max(accuracies), len(curve), first.decoding.get("preset"), first.dataset, first.split
    )
