"""The cards of the shipped models state what was measured of these very weights."""

import json

import pytest

from d3llm.common.fingerprints import fingerprint_checkpoint
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.comparison_plan import read_plan
from tests.helpers.paths import ROOT


RESULTS = ROOT / "docs/results"


def test_the_card_of_the_student_states_the_result_files():
    name, seed = read_plan().shipped
    card = (checkpoint_path("student") / "README.md").read_text()
    files = sorted((RESULTS / "student").glob(f"{name}-{seed}-prefix.*.json"))
    assert files
    for file in files:
        measured = json.loads(file.read_text())
        assert measured["weights"] == fingerprint_checkpoint(checkpoint_path("student"))
        low, high = measured["accuracy_interval"]
        accuracy = f"{measured['accuracy']:.1%} ({low:.1%} to {high:.1%})"
        assert f"| {measured['point']['threshold']} | {accuracy} | {measured['tokens_per_forward']:.2f} |" in card


@pytest.mark.parametrize(
    "name",
    ["student/teacher-one_token.json", "teacher/teacher.stories_forms.json", "teacher/teacher.stories_lengths.json"],
)
def test_the_card_of_the_teacher_states_the_result_files(name):
    measured = json.loads((RESULTS / name).read_text())
    assert measured["weights"] == fingerprint_checkpoint(checkpoint_path("teacher"))
    (low, high), further = measured["accuracy_interval"], measured["further_accuracy"]
    cells = [
        f"{measured['num_samples']:,}",
        f"{measured['accuracy']:.1%} ({low:.1%} to {high:.1%})",
        *(f"{further[check]['accuracy']:.1%}" for check in ("number", "names")),
        f"{measured['tokens_per_forward']:.2f}",
    ]
    assert f"| {' | '.join(cells)} |" in (checkpoint_path("teacher") / "README.md").read_text()
