"""AUP: the recorded values of the published implementation, its conventions, and the `evaluate` metric."""

import itertools
import json

import numpy as np
import pytest

from d3llm.evaluation.aup.aup import areas_of_curves, bootstrap_interval, compute_aup, pieces_above_floor, weight
from tests.helpers.paths import ROOT


NAMES = {"y_min_offset": "max_drop"}
# The published code stops at a last point below the floor; here it is dropped like any other.
DROPPED = {"last_point_too_low_raises": 72.0}


@pytest.fixture(scope="module")
def recorded(golden):
    return json.loads((golden / "aup.json").read_text())


def test_recorded_leaderboard(recorded):
    assert len(recorded["leaderboard"]) == 77
    for row in recorded["leaderboard"]:
        area = compute_aup(row["rho"], row["y"], y_max=row["y_max"])
        assert area == pytest.approx(row["aup"], rel=1e-9), row


@pytest.mark.filterwarnings("ignore:`accuracy` is expected in percent")
def test_recorded_edge_cases(recorded):
    for case in recorded["edge_cases"]:
        kwargs = {NAMES.get(name, name): value for name, value in case["kwargs"].items()}
        expected = DROPPED.get(case["name"], case["aup"])
        if expected is None:
            with pytest.raises(ValueError, match="tokens_per_forward"):
                compute_aup(case["rho"], case["y"], y_max=case["y_max"], **kwargs)
            continue
        area = compute_aup(case["rho"], case["y"], y_max=case["y_max"], **kwargs)
        assert area == pytest.approx(expected, rel=1e-9), case["name"]


def test_published_figures():
    llada = compute_aup([1, 9.11], [74.02, 73.09], y_max=74.98)
    dream = compute_aup([1, 4.94], [83.47, 81.36], y_max=83.94)
    assert (round(llada, 1), round(dream, 1)) == (637.7, 391.3)


def test_y_max_is_the_own_best_by_default():
    assert compute_aup([1, 3], [50, 52]) == compute_aup([1, 3], [50, 52], y_max=52)
    assert compute_aup([1, 3], [50, 52]) > compute_aup([1, 3], [50, 52], y_max=60)


def test_a_baseline_anchors_the_floor():
    points = [1, 4], [40, 39]  # loses everywhere against a baseline at 50
    assert compute_aup(*points) > 40
    assert compute_aup(*points, baseline_accuracy=50) == 0.0
    assert compute_aup(*points, baseline_accuracy=45) == 40.0
    assert compute_aup(*points, baseline_accuracy=44) == compute_aup(*points)


def test_no_accuracy_no_area():
    assert compute_aup([1, 5], [0, 0]) == 0.0


@pytest.mark.parametrize(
    ("points", "kwargs", "name"),
    [
        (([1, float("nan")], [50, 40]), {}, "tokens_per_forward"),
        (([1], [-1]), {}, "accuracy"),
        (([1], [50]), {"y_max": 0}, "y_max"),
        (([1], [50]), {"y_max": "75"}, "y_max"),
        (([1], [50]), {"y_max": True}, "y_max"),
        (([1], [50]), {"alpha": "steep"}, "alpha"),
        (([1], [50]), {"alpha": float("nan")}, "alpha"),
        (([1], [50]), {"max_drop": [1]}, "max_drop"),
        (([1], [50]), {"max_drop": -1}, "max_drop"),
        (([1], [50]), {"baseline_accuracy": "50"}, "baseline_accuracy"),
        ((1, 50), {}, "tokens_per_forward"),
        (([1], "5"), {}, "accuracy"),
        (([None], [50]), {}, "tokens_per_forward"),
    ],
)
def test_values_out_of_range(points, kwargs, name):
    with pytest.raises(ValueError, match=name):
        compute_aup(*points, **kwargs)


def test_fractions_are_warned_of():
    with pytest.warns(UserWarning, match="percent"):
        compute_aup([1, 2], [0.7, 0.69])


def test_bootstrap_interval_over_samples():
    tokens, forwards = [[30] * 200, [30] * 200], [[30] * 200, [10] * 200]
    correct = [[i % 10 < 8 for i in range(200)], [i % 10 < 7.5 for i in range(200)]]
    area = compute_aup([1, 3], [80, 80], y_max=90)
    low, high = bootstrap_interval(tokens, forwards, correct, y_max=90)
    assert low < area < high and high - low < 80
    assert bootstrap_interval(tokens, forwards, correct, y_max=90) == (low, high)
    wide = bootstrap_interval(*([row[:50] for row in rows] for rows in (tokens, forwards, correct)), y_max=90)
    assert wide[1] - wide[0] > 1.5 * (high - low)
    assert bootstrap_interval(tokens, forwards, [[True] * 200] * 2) == pytest.approx((300.0, 300.0))


@pytest.mark.parametrize(
    ("level", "quantile"), [({}, 1.959964), ({"level": 0.95}, 1.959964), ({"level": 0.8}, 1.281552)]
)
def test_bootstrap_interval_of_one_point_is_that_of_a_share(level, quantile):
    """Of TPF 1 the area is the accuracy, and its interval that of a share, by default of 95 %."""
    samples = 400
    ones, correct = [[1] * samples], [[i % 2 == 0 for i in range(samples)]]
    low, high = bootstrap_interval(ones, ones, correct, resamples=4000, **level)
    half = 100 * quantile * (0.25 / samples) ** 0.5
    assert (low, high) == pytest.approx((50 - half, 50 + half), abs=0.4)  # 90 % would be off by 0.79


@pytest.mark.parametrize("path", [ROOT / "evaluation" / "aup", ROOT / "evaluation" / "aup" / "aup.py"])
def test_evaluate_loads_it_by_path(path, tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path))
    metric = evaluate.load(str(path), cache_dir=str(tmp_path))
    points = {"tokens_per_forward": [9.11, 1.0], "accuracy": [73.09, 74.02]}
    area = metric.compute(**points, y_max=74.98, alpha=3.0, max_drop=5.0)
    assert area == {"aup": pytest.approx(637.6549264841269, rel=1e-12)}
    assert metric.compute(**points) == {"aup": pytest.approx(compute_aup([1.0, 9.11], [74.02, 73.09]))}
    with pytest.raises(ValueError, match="`y_max` must be a number above 0, got '75'"):
        metric.compute(**points, y_max="75")


def test_a_curve_is_cut_where_it_crosses_the_floor():
    """From (1, 100) to (5, 90) with the floor at 95: the line crosses it at 3."""
    assert compute_aup([1, 5], [100, 90]) == 100.0  # the published rule has none of it
    assert compute_aup([1, 5], [100, 90], floor_rule="cross") == pytest.approx(compute_aup([1, 3], [100, 95]))
    # above the floor the rules agree, and after a dip the curve counts again where it is above
    above = [1, 4, 6], [100, 97, 99]
    assert compute_aup(*above, floor_rule="cross") == compute_aup(*above)
    dip = compute_aup([1, 5, 9], [100, 90, 100], floor_rule="cross")
    assert dip == pytest.approx(2 * compute_aup([1, 3], [100, 95]) - 100)
    # a curve that starts below the floor counts from where it rises above it
    rising = compute_aup([1, 3], [90, 100], baseline_accuracy=100, y_max=95, floor_rule="cross")
    assert rising == pytest.approx(2 * 95 + (95 + 100) / 2)
    assert compute_aup([1, 3], [80, 90], baseline_accuracy=100, floor_rule="cross") == 0.0


def test_a_point_just_below_the_floor_does_not_change_the_cut_area_much():
    areas = {
        rule: [compute_aup([1, 5, 9], [100, 97, y], floor_rule=rule) for y in (95.01, 94.99)]
        for rule in ("drop", "cross")
    }
    assert areas["cross"][0] - areas["cross"][1] < 4 < 300 < areas["drop"][0] - areas["drop"][1]


@pytest.mark.parametrize("floor_rule", ["drop", "cross"])
@pytest.mark.parametrize("anchor", [{}, {"y_max": 99.0, "baseline_accuracy": 96.0}])
def test_many_curves_at_once_are_each_curve_alone(floor_rule, anchor):
    """The arrays of resampling, the single curve, and the pieces that pictures shade."""
    draws = np.random.default_rng(0)
    parallelism, accuracy = draws.uniform(0.5, 10, (200, 5)), draws.uniform(85, 100, (200, 5))
    areas = areas_of_curves(parallelism, accuracy, floor_rule=floor_rule, **anchor)
    floor = {name: value for name, value in anchor.items() if name != "y_max"}
    for area, *curve in zip(areas, parallelism.tolist(), accuracy.tolist(), strict=True):
        assert area == pytest.approx(compute_aup(*curve, floor_rule=floor_rule, **anchor))
        best = anchor.get("y_max", max(curve[1]))
        shaded = 0.0
        for number, piece in enumerate(pieces_above_floor(*curve, floor_rule=floor_rule, **floor)):
            shaded += piece[0][0] * piece[0][1] if number == 0 else 0.0
            for (start, low), (end, high) in itertools.pairwise(piece):
                shaded += (end - start) * (low * weight(low, best) + high * weight(high, best)) / 2
        assert shaded == pytest.approx(area)


def test_an_unknown_floor_rule():
    with pytest.raises(ValueError, match="`floor_rule` must be one of drop, cross, got 'cut'"):
        compute_aup([1], [50], floor_rule="cut")
