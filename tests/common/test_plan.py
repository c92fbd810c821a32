"""The plan of a run: kept beside its results, compared by value, never overwritten by another."""

import json

import pytest

from d3llm.common.plan import check_plan, compare_plans, keep_plan, plan_values, read_plan


REMEDY = "give another folder"
PLAN = {"rows": 3, "decoding": {"preset": "d3llm", "threshold": 0.5}, "sizes": (8, 16)}


@pytest.mark.parametrize("name", ["plan.json", "recipe.yaml"])
def test_a_plan_is_read_as_it_was_written(tmp_path, name):
    path = tmp_path / "run" / name
    assert read_plan(path, REMEDY) is None
    keep_plan(path, {**PLAN, "sizes": [8, 16]}, REMEDY)
    before = path.read_bytes()
    keep_plan(path, PLAN, REMEDY)
    assert path.read_bytes() == before
    assert check_plan(path, PLAN, REMEDY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 4}, r"run holds another run \(rows was 3, is 4\): give another folder\.$"),
        ({"decoding": {"preset": "d3llm", "threshold": 0.9}}, r"\(threshold was 0\.5, is 0\.9\)"),
        ({"seed": 1}, r"\(seed was null, is 1\)"),
        (dict.fromkeys("abcdefgh", 1), r"\(a was null, is 1; .*e was null, is 1; and 3 more\)"),
    ],
)
def test_another_plan_is_refused_with_what_differs(tmp_path, change, message):
    path = tmp_path / "run" / "plan.json"
    keep_plan(path, PLAN, REMEDY)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        keep_plan(path, PLAN | change, REMEDY)
    assert path.read_bytes() == before
    compare_plans(plan_values(PLAN), PLAN | change, path.parent, REMEDY, names=["sizes"])


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["plan.json", "recipe.yaml"])
def test_a_damaged_plan_is_an_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged: give another folder"):
        check_plan(path, PLAN, REMEDY)
    assert path.read_bytes() == content


def test_values_that_json_writes_alike_are_the_same(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"sizes": [8, 16], "decoding": {"threshold": 0.5, "preset": "d3llm"}, "rows": 3}))
    assert check_plan(path, PLAN, REMEDY)
