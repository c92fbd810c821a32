"""Collects the facts of a model's card from its folder and from the result files of `d3llm eval`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..common.schema import check
from .cards import is_hub_id
from .facts import ModelFacts, TaskArea, TaskResult
from .serving import sglang_serving


if TYPE_CHECKING:
    from ..evaluation.result import Result

LIBRARIES = ("d3llm", "torch", "transformers")


def model_facts(folder: Path, *, license: str, **known: Any) -> ModelFacts:
    """
    The facts stated by the files of a model.

    Args:
        folder (`Path`): A folder written by `save_pretrained`.
        license (`str`): SPDX id in lower case.
        known (`Any`): Further fields of [`ModelFacts`], such as `base_model` or `recipe`.

    Raises:
        `OSError`, `ValueError`: For a folder without config or weights, or with damaged ones.
    """
    if not folder.is_dir():
        raise OSError(f"There is no folder {folder}.")
    config = read_json(folder / "config.json")
    name = f"`architectures` in {folder / 'config.json'}"
    architectures = check(list[str] | None, config.get("architectures"), name)
    decoding = decoding_fields(_generation_config(folder))
    found: dict[str, Any] = {
        "name": folder.resolve().name,
        "architecture": (architectures or ["?"])[0],
        "parameters": sum(math.prod(shape) for shape in tensor_shapes(folder).values()),
        "decoding": decoding,
        "serving": sglang_serving(config, decoding),
        "chat": has_chat_template(folder),
        "versions": library_versions(),
    }
    return ModelFacts(license=license, **{**found, **known})


def with_results(facts: ModelFacts, folder: Path, results: Sequence[Result]) -> ModelFacts:
    """
    Adds measurements to the facts of a model.

    Args:
        facts ([`ModelFacts`]): The known facts.
        folder (`Path`): The model's folder, which must hold the measured weights.
        results (`Sequence[Result]`): Results from [`read_results`]. A curve of several points gives an AUP, relative
            to its own best accuracy. The curves are the same as in the leaderboard and its pictures.

    Returns:
        [`ModelFacts`]: The facts with these results, which replace earlier ones.

    Raises:
        `ValueError`: For a result of other weights, and for points of one curve on different samples.
    """
    from ..common.fingerprints import fingerprint_checkpoint
    from ..evaluation.result import by_curve

    model_type = read_json(folder / "config.json").get("model_type")
    weights = fingerprint_checkpoint(folder)
    for result in results:
        if result.weights != weights:
            raise ValueError(
                f"{result.file} measured other weights than those in {folder}: run `d3llm eval` on this folder."
            )
    curves = [curve for curve in by_curve(results).values() if len(curve) > 1]
    return dataclasses.replace(
        facts, results=[_task_result(result, model_type) for result in results], areas=_areas(curves)
    )


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
            # opened here first, since safetensors says of a file without permission that there is none
            with file.open("rb"), safe_open(file, framework="np") as tensors:
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
        raise ValueError(f"{path} does not hold a JSON object.")
    return values


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer of a folder has a chat template, in a file of its own or, as older ones, in its config."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_json(config).get("chat_template"))


def _generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def library_versions() -> dict[str, str]:
    """The versions of the libraries that make a model."""
    return {name: version(name) for name in LIBRARIES}


def decoding_fields(generation_config: dict[str, Any]) -> dict[str, Any]:
    """
    The decoding parameters of a model.

    Args:
        generation_config (`dict[str, Any]`): The values of a generation_config.json.

    Returns:
        `dict[str, Any]`: The values that are set, without special tokens and the internal fields of transformers.
    """
    return {
        name: value
        for name, value in generation_config.items()
        if value is not None
        and not name.endswith("_token_id")
        and not name.startswith(("transformers_", "output_", "_"))
    }


def _task_result(result: Result, model_type: str | None) -> TaskResult:
    machine = result.hardware
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    processes = f", {machine['processes']} processes" if machine.get("processes", 1) > 1 else ""
    return TaskResult(
        task=result.title,
        samples=result.num_samples,
        accuracy=result.accuracy,
        accuracy_interval=result.accuracy_interval,
        tokens_per_forward=result.tokens_per_forward,
        tokens_per_second=result.tokens_per_second,
        rows_per_forward=result.rows_per_forward,
        judged_by=result.judged_by,
        further_accuracy={name: [each / 100 for each in by] for name, by in result.differing_percent.items()},
        hardware=f"{machine['device']}{threads}{processes}, batch size {result.batch_size}",
        decoding=_differences(dict(result.decoding), model_type),
        dataset=_dataset(result),
        split=result.split,
    )


def _dataset(result: Result) -> str | None:
    from ..evaluation.tasks.data import ON_THE_HUB

    source = result.source.removesuffix(ON_THE_HUB)
    return source if is_hub_id(source) else None


def _differences(decoding: dict[str, Any], model_type: str | None) -> dict[str, Any]:
    """The preset, and those of the resolved decoding parameters that differ from it."""
    from ..generation.fields import METHOD_DEFAULTS, RUN_DEFAULTS
    from ..generation.presets import PRESETS
    from ..modeling import find_family

    family = find_family(model_type)
    preset = PRESETS.get(decoding.get("preset") or "")
    run = {name: RUN_DEFAULTS.get(name) for name in ("temperature", "top_k", "top_p", "cfg_scale")}
    values = METHOD_DEFAULTS | run | (preset.values_for(family.preset_values if family else {}) if preset else {})
    different = {n: v for n, v in decoding.items() if n in values and v is not None and v != values[n]}
    return {"preset": decoding.get("preset"), **different}


def _areas(curves: Sequence[list[Result]]) -> list[TaskArea]:
    """The AUP of each curve, with the name of its method if another curve has the same task and preset."""
    from ..evaluation.result import area

    names = [(curve[0].title, _common_preset(curve)) for curve in curves]
    return [
        TaskArea(
            task=task,
            aup=area(curve),
            y_max=max(result.accuracy_percent for result in curve),
            points=len(curve),
            preset=preset,
            dataset=_dataset(curve[0]),
            split=curve[0].split,
            method=curve[0].method if names.count((task, preset)) > 1 else None,
        )
        for curve, (task, preset) in zip(curves, names, strict=True)
    ]


def _common_preset(curve: Sequence[Result]) -> str | None:
    presets = {result.preset for result in curve}
    return curve[0].preset if len(presets) == 1 else None
