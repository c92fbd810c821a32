"""docs/recipes.md states the result files: its tables are made from them again."""

from pathlib import Path

import pytest

from d3llm.evaluation.differences import method_differences
from d3llm.evaluation.result import Result, read_results
from d3llm.quickstart.comparison_plan import read_plan
from d3llm.quickstart.comparison_table import (
    BASELINE,
    ComparisonResults,
    area_table,
    by_check,
    difference_cell,
    markdown_lines,
    point_tables,
)
from tests.helpers.paths import ROOT


PAGE = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
AT = {"threshold": 0.02}
PARTS = {  # the paper's gain in tokens per forward on LLaDA, and what is without the part: a student and its decoder
    "the teacher's order (pseudo-trajectory)": ("+18 %", "no_trajectory", "d3llm"),
    "rising noise": ("+12 %", "no_noise_curriculum", "d3llm"),
    "growing windows": ("+8 %", "no_window_curriculum", "d3llm"),
    "several blocks at once": ("+30 %", "d3llm", "one_block"),
    "early stop": ("+5 %", "d3llm", "no_early_stop"),
    "all training": ("", "teacher", "d3llm"),
}


def results_by_check() -> dict[str, list[Result]]:
    return dict(by_check(read_results([ROOT / "docs/results/recipes"])))


def part_table(results: list[Result]) -> str:
    comparison, lines = ComparisonResults(read_plan(Path("recipes")), results), []
    for part, (published, student, decoder) in PARTS.items():
        seeds = comparison.seeds_of("d3llm", "d3llm")
        if student != "teacher":  # which has none
            seeds = [seed for seed in comparison.seeds_of(student, decoder) if seed in seeds]
        of_both = f"[{''.join(map(str, seeds))}]"
        one = f"d3llm-{of_both}-d3llm"
        other = f"{student}-{decoder}" if student == "teacher" else f"{student}-{of_both}-{decoder}"
        found = {
            (each.quantity, each.point == AT): each
            for each in method_differences(results, one, other, baseline=BASELINE, floor_rule="cross")
        }
        speed = found["TPF", True]
        gains = [
            difference_cell(speed, 0, 100 / speed.other, " %"),
            difference_cell(found["accuracy", True], 1),
            difference_cell(found["AUP", False], 0),
        ]
        lines.append([part, ", ".join(map(str, seeds)), published, *gains])
    heads = ["part", "seeds", "paper, LLaDA: TPF", "here: TPF", "points of whole solutions", "AUP, cut at the floor"]
    return markdown_lines(heads, lines)


@pytest.mark.parametrize("check", ["solution", pytest.param("number", marks=pytest.mark.slow)])
def test_the_tables_are_those_of_the_result_files(check):
    results = results_by_check()[check]
    rows = ComparisonResults(read_plan(Path("recipes")), results).rows()
    tables = [area_table(rows), *(point_tables(rows) if check == "solution" else ())]
    for table in tables:
        assert table in PAGE


def test_the_parts_are_worth_what_the_result_files_say():
    assert part_table(results_by_check()["solution"]) in PAGE
