"""What README, docs/training.md and the card say of the shipped student is in its result files."""

import json

from d3llm.evaluation.differences import Difference, method_differences
from d3llm.evaluation.result import Result, read_results
from d3llm.quickstart.comparison_table import by_check, difference_cell
from tests.helpers.paths import ROOT


FOLDER = ROOT / "docs" / "results" / "student"
SEQUENTIAL = "teacher-one_token"
STUDENT = "block_states_averaged-0"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def results_by_check() -> dict[str, list[Result]]:
    return dict(by_check(read_results([FOLDER])))


def sequential_differences(results: list[Result], method: str) -> dict[tuple[str, float | None], Difference]:
    """What a method has more of than the teacher with one token per forward, by quantity and threshold."""
    found = method_differences(results, method, SEQUENTIAL)
    return {(each.quantity, each.point.get("threshold")): each for each in found if each.quantity != "AUP"}


def points_cell(found: Difference) -> str:
    return difference_cell(found, 1).strip("*")


def test_each_point_of_the_table_is_that_of_its_result_file():
    results, page = results_by_check(), read("docs/training.md")
    methods = sorted({result.method for result in results["solution"]} - {SEQUENTIAL})
    assert len(methods) == 8
    for method in methods:
        name, _, decoder = method.rpartition("-")
        by_solution, by_number = (sequential_differences(results[check], method) for check in ("solution", "number"))
        for quantity, threshold in by_solution:
            if quantity == "accuracy":
                solution, number = by_solution[quantity, threshold], by_number[quantity, threshold]
                cells = [
                    f"{name} | `{decoder}` | {'' if threshold is None else threshold}",
                    f"{solution.one:.1f}% | {points_cell(solution)}",
                    f"{number.one:.1f}% | {points_cell(number)}",
                    f"{by_solution['TPF', threshold].one:.2f}",
                ]
                assert f"| {' | '.join(cells)} |\n" in page


def test_the_first_page_says_what_was_measured():
    results, page = results_by_check()["solution"], " ".join(read("README.md").split())
    verified = sequential_differences(results, f"{STUDENT}-lossless")
    unverified = sequential_differences(results, f"{STUDENT}-prefix")
    points = {0.1: unverified["accuracy", 0.1], None: verified["accuracy", None]}
    said = {at: points_cell(found).replace(" (", " points (") for at, found in points.items()}
    assert f"the student commits {verified['TPF', None].one:.2f} tokens per forward" in page
    assert f"at {said[None]} of whole solutions" in page
    assert f"commits {unverified['TPF', 0.1].one:.2f} at {said[0.1]}" in page


def test_verifying_takes_the_rows_that_were_counted():
    result = json.loads((FOLDER / f"{STUDENT}-lossless.json").read_text(encoding="utf-8"))
    rows = f"{result['row_forwards'] / result['tokens']:.2f} rows per token"
    for page in ("README.md", "quickstart/student/README.md"):
        assert rows in " ".join(read(page).split())
