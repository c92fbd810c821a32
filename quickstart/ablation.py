"""Ablation of the student's recipe: changes one part at a time, and measures each variant on unseen problems."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ..common.plan import keep_plan
from ..common.yaml_files import read_yaml
from ..evaluation.aup.aup import bootstrap_areas
from ..evaluation.result import Result, area, read_results
from .distill_student import RECIPE_FILE, REMEDY, extract, measure_methods, train
from .student_recipe import read_student_recipe, training_config


ABLATION = Path(__file__).resolve().parent / "ablation.yaml"
TEACHER = "teacher"
BASELINE = "llada"  # the teacher's preset with one token per forward


def run_ablation(
    output: Path,
    ablation_path: Path | None = None,
    recipe_path: Path | None = None,
    seeds: Sequence[int] | None = None,
) -> Path:
    """
    Runs the missing parts of an ablation.

    Args:
        output (`Path`): Folder for trajectories, students and result files.
        ablation_path (`Path`, *optional*): Seeds, variants and decoders; by default `ablation.yaml`.
        recipe_path (`Path`, *optional*): The recipe that the variants change; by default `student.yaml`.
        seeds (`Sequence[int]`, *optional*): Which of the file's seeds to run; by default all.

    Returns:
        `Path`: The folder of result files, for [`ablation_rows`].

    Raises:
        `ValueError`: For a folder that holds another run, seeds that are not in the file, and variants with values
            that training refuses.
    """
    recipe = read_student_recipe(recipe_path)
    ablation = read_yaml(ablation_path or ABLATION)
    unknown = sorted(set(seeds or []) - set(ablation["seeds"]))
    if unknown:
        raise ValueError(f"The ablation has the seeds {ablation['seeds']}, not {unknown}: choose among them.")
    for changes in ablation["variants"].values():
        training_config(_changed(recipe, ablation, changes), output)
    keep_plan(output / RECIPE_FILE, recipe | {"ablation": ablation}, REMEDY)
    results = output / "results"
    decoders = [
        {"model": TEACHER, **decoder, "thresholds": ablation["teacher_thresholds"]}
        for decoder in ablation["decoders"].values()
    ]
    baseline = {"model": TEACHER, "preset": BASELINE}
    measure_methods(_measuring(recipe, [baseline, *decoders]), {}, results)
    trajectories = extract(recipe, output / "trajectories")
    for variant, changes in ablation["variants"].items():
        for seed in seeds or ablation["seeds"]:
            name = f"{variant.replace(' ', '_')}-{seed}"
            changed = _changed(recipe, ablation, changes) | {"seed": seed}
            student = train(changed, trajectories, output / "training" / name, output / "students" / name)
            decoders = [{"model": name, **decoder} for decoder in ablation["decoders"].values()]
            measure_methods(_measuring(recipe, decoders), {name: student}, results)
    return results


def _changed(recipe: dict[str, Any], ablation: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return recipe | {"training": recipe["training"] | ablation["training"] | changes}


def _measuring(recipe: dict[str, Any], methods: list[dict[str, Any]]) -> dict[str, Any]:
    return recipe | {"measurement": recipe["measurement"] | {"methods": methods}}


def ablation_rows(results: Path, ablation_path: Path | None = None, floor_rule: str = "drop") -> list[dict[str, Any]]:
    """
    Summarises the result files, one row per variant and decoder.

    AUP is relative to the teacher with one token per forward: `y_max` is the best accuracy of all rows, and points
    that are more than 5 percentage points below the teacher are dropped. A student that is worse everywhere thus gains
    nothing.

    Args:
        results (`Path`): Folder of the result files.
        ablation_path (`Path`, *optional*): As for [`run_ablation`].
        floor_rule (`str`, *optional*, defaults to `"drop"`): As for [`compute_aup`]; `"cross"` cuts the curves where
            they cross the floor instead.

    Returns:
        `list[dict[str, Any]]`: `variant`, `decoder`, `aup_of_seeds`, `aup` (their mean), `aup_interval` (95 %, by
        bootstrap over problems and seeds), and `points`, the mean accuracy in percent and the mean TPF for each
        threshold.
    """
    ablation = read_yaml(ablation_path or ABLATION)
    found = read_results([results])
    baseline = next((result for result in found if result.method == f"{TEACHER}-{BASELINE}"), None)
    if baseline is None:
        raise ValueError(f"{results} has no result of {TEACHER}-{BASELINE}: measure it first (`run_ablation`).")
    best = max(result.accuracy_percent for result in found)
    anchor: dict[str, Any] = {
        "y_max": best,
        "baseline_accuracy": baseline.accuracy_percent,
        "floor_rule": floor_rule,
    }
    rows = [_row("teacher, one token per forward", "sequential", [[baseline]], anchor)]
    for variant in (TEACHER, *ablation["variants"]):
        seeds = [""] if variant == TEACHER else [f"-{seed}" for seed in ablation["seeds"]]
        for decoder, settings in ablation["decoders"].items():
            thresholds = ablation["teacher_thresholds"] if variant == TEACHER else settings["thresholds"]
            methods = [f"{variant.replace(' ', '_')}{seed}-{settings['preset']}" for seed in seeds]
            curves = [_curve(found, method, thresholds) for method in methods]
            curves = [curve for curve in curves if len(curve) == len(thresholds)]
            if curves:
                rows.append(_row(variant, decoder, curves, anchor))
    return rows


def _curve(results: Sequence[Result], method: str, thresholds: Sequence[float]) -> list[Result]:
    """The results of a method, one per threshold in the given order; thresholds that were not measured are skipped."""
    points = {result.point.get("threshold"): result for result in results if result.method == method}
    return [points[threshold] for threshold in thresholds if threshold in points]


def _row(variant: str, decoder: str, curves: list[list[Result]], anchor: dict[str, Any]) -> dict[str, Any]:
    """One row of the table, from curves of results (seeds, points)."""
    areas = [area(curve, **anchor) for curve in curves]
    resampled = np.stack(
        [
            bootstrap_areas(
                [point.samples["tokens"] for point in curve],
                [point.samples["forwards"] for point in curve],
                [point.samples["correct"] for point in curve],
                **anchor,
            )
            for curve in curves
        ]
    )
    # Each resample of the problems also draws one of the seeds.
    picks = np.random.default_rng(0).integers(len(curves), size=resampled.shape)
    means = np.take_along_axis(resampled, picks, axis=0).mean(axis=0)
    return {
        "variant": variant,
        "decoder": decoder,
        "aup": mean(areas),
        "aup_of_seeds": areas,
        "aup_interval": np.quantile(means, [0.025, 0.975]).tolist(),
        "points": [
            {
                **points[0].point,
                "accuracy": mean(point.accuracy_percent for point in points),
                "tokens_per_forward": mean(point.tokens_per_forward or 0.0 for point in points),
            }
            for points in zip(*curves, strict=True)
        ],
    }


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table: AUP, and accuracy in percent @ TPF at each threshold."""
    thresholds = sorted({point.get("threshold", 0.0) for row in rows for point in row["points"]})
    heads = [f"{threshold} nats" if threshold else "no threshold" for threshold in thresholds]
    cells = []
    for row in rows:
        low, high = row["aup_interval"]
        seeds = ", ".join(f"{area:.0f}" for area in row["aup_of_seeds"])
        own = [row["variant"], row["decoder"], seeds, f"{row['aup']:.0f} ({low:.0f} to {high:.0f})"]
        cells.append([*own, *point_cells(row["points"], thresholds)])
    return markdown_lines(["recipe", "decoding", "AUP of each seed", "AUP (95 % interval)", *heads], cells)


def point_cells(points: list[dict[str, Any]], thresholds: Sequence[float]) -> list[str]:
    """Accuracy in percent @ TPF at each threshold; nothing where there is no point."""
    at = {point.get("threshold", 0.0): point for point in points}
    return [
        f"{at[threshold]['accuracy']:.1f} @ {at[threshold]['tokens_per_forward']:.2f}" if threshold in at else ""
        for threshold in thresholds
    ]


def markdown_lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
