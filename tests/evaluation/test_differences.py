"""Differences of two methods: paired resampling of problems and runs, and when one is called a difference."""

import json

import numpy as np
import pytest

from d3llm.commands.main import main
from d3llm.evaluation.differences import method_differences
from d3llm.evaluation.resampling import Estimate, Resampling
from tests.helpers.commands import run_fails
from tests.helpers.curves import point_of


PROBLEMS = 400
EASY = np.arange(PROBLEMS) % 10 < 9  # 90 % are right
RESAMPLING = Resampling(resamples=400)


def found(results, one="one", other="other", **options):
    options = {"resampling": RESAMPLING, "y_max": "own", **options}
    return {(d.quantity, d.point.get("threshold")): d for d in method_differences(results, one, other, **options)}


def test_problems_are_drawn_for_both_at_once():
    """Eight more problems right of 400 are far within the interval of either method, and still a difference."""
    better = EASY | (np.arange(PROBLEMS) % 50 == 9)
    results = [point_of(better, 30, threshold=0.5, method="one"), point_of(EASY, 30, threshold=0.5, method="other")]
    accuracy = found(results)["accuracy", 0.5]
    assert (accuracy.one, accuracy.other) == pytest.approx((92, 90))
    assert accuracy.difference.value == pytest.approx(2) and accuracy.shown
    deviation = 100 * (0.02 * 0.98 / PROBLEMS) ** 0.5  # of the share of problems that only one has right
    assert (accuracy.difference.low, accuracy.difference.high) == pytest.approx(
        (2 - 1.96 * deviation, 2 + 1.96 * deviation), abs=0.4
    )
    swapped = found(results, "other", "one")["accuracy", 0.5]
    assert swapped.difference.value == -accuracy.difference.value and swapped.shown


def test_without_a_difference_none_is_called_one():
    traded = np.roll(EASY, 1)  # others are right, as many
    results = [point_of(EASY, 30, threshold=0.5, method="one"), point_of(traded, 30, threshold=0.5, method="other")]
    accuracy = found(results)["accuracy", 0.5]
    assert accuracy.difference.value == 0 and accuracy.difference.low < 0 < accuracy.difference.high
    assert not accuracy.shown
    same = [point_of(EASY, 30, threshold=0.5, method=name) for name in ("one", "other")]
    assert {d.difference for d in found(same).values()} == {Estimate(0, 0, 0)}
    assert not any(d.shown for d in found(same).values())


def test_areas_and_points():
    results = [
        point_of(EASY, 20, threshold=0.1, method="one"),
        point_of(EASY, 60, threshold=0.5, method="one"),
        point_of(EASY, 70, threshold=0.7, method="one"),
        point_of(EASY, 10, threshold=0.1, method="other"),
        point_of(EASY, 40, threshold=0.5, method="other"),
        point_of(EASY, 8, method="teacher"),
    ]
    pair = found(results)
    assert set(pair) == {("AUP", None)} | {(what, at) for what in ("accuracy", "TPF") for at in (0.1, 0.5)}
    assert pair["AUP", None].difference.value == pytest.approx((7 - 4) * 90) and pair["AUP", None].shown
    of_forwards = pair["TPF", 0.5].difference
    assert (of_forwards.value, of_forwards.low, of_forwards.high) == pytest.approx((2, 2, 2))
    # a curve of one point is compared with every point
    assert set(found(results, other="teacher")) >= {("TPF", 0.1), ("TPF", 0.5), ("TPF", 0.7)}
    assert found(results, other="teacher")["TPF", 0.7].difference.value == pytest.approx(7 - 0.8)


def test_runs_are_drawn_with_the_problems():
    """Runs that differ much make an interval that no number of problems makes small; as pairs they may agree."""
    levels = (0.80, 0.85, 0.90, 0.95)
    runs = [
        point_of(np.arange(PROBLEMS) < level * PROBLEMS, 30, threshold=0.5, method=f"one-{seed}")
        for seed, level in enumerate(levels)
    ]
    others = [
        point_of(np.arange(PROBLEMS) < (level - 0.05) * PROBLEMS, 30, threshold=0.5, method=f"other-{seed}")
        for seed, level in enumerate(levels)
    ]
    accuracy = found([*runs, *others], "one-?", "other-?")["accuracy", 0.5]
    assert (accuracy.difference.value, accuracy.runs) == (pytest.approx(5), (4, 4))
    assert accuracy.shown and accuracy.difference.high < 9  # as pairs, each run is 5 points better
    unpaired = found([*runs, *others[:3]], "one-?", "other-?")["accuracy", 0.5]
    assert unpaired.runs == (4, 3) and not unpaired.shown
    alone = found([runs[0], others[3]], "one-0", "other-3")["accuracy", 0.5]
    assert alone.difference.value == pytest.approx(-10) and alone.runs == (1, 1)


def test_the_variance_of_a_mean_over_runs_is_unbiased():
    """Of three runs: that of the sample, over three. Three draws would make it two thirds of that."""
    values = np.array([1.0, 2.0, 4.0])
    means = values[Resampling(resamples=40_000).runs(3)].mean(axis=1)
    assert means.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.03)


def test_what_cannot_be_compared():
    one, other = point_of(EASY, 30, method="one"), point_of(EASY, 30, method="other")
    with pytest.raises(ValueError, match=r"no results of 'three-\*': expected one of one, other"):
        found([one, other], other="three-*")
    with pytest.raises(ValueError, match="one is both"):
        found([one, other], other="*")
    with pytest.raises(ValueError, match="different problems"):
        found([one, point_of(EASY, 30, method="other", data="others")])
    with pytest.raises(ValueError, match="no task in common"):
        found([one, point_of(EASY, 30, method="other", title="MATH")])
    with pytest.raises(ValueError, match="seed of at least 0"):
        Resampling(seed=-1)


def test_the_leaderboard_tells_differences(tmp_path, capsys):
    better = EASY | (np.arange(PROBLEMS) % 50 == 9)
    for name, right in (("one", better), ("other", EASY), ("third", np.roll(EASY, 1))):
        result = point_of(right, 30, threshold=0.5, method=name)
        (tmp_path / f"{name}.json").write_text(json.dumps(result.to_dict()))
    flags = ["leaderboard", str(tmp_path), "--resamples", "200", "--difference", "one", "other"]
    assert main([*flags, "--difference", "other", "third"]) == 0
    printed = capsys.readouterr().out
    first, second = printed[printed.index("one minus other") :].split("other minus third")
    (line,) = (line for line in first.splitlines() if "accuracy" in line)
    assert "threshold=0.5" in line and "+2.0 (+" in line and "a difference" in line
    assert "a difference" not in second and second.count("no difference shown") == 3
    assert main([*flags, "--seed", "5"]) == 0
    assert capsys.readouterr().out not in printed
    assert "measured results" in run_fails(capsys, "leaderboard", "--published", "--difference", "one", "other")
    assert "at least 1 resample" in run_fails(capsys, *flags, "--resamples", "0")
