"""AUP: the recorded values of the published implementation, its conventions, and the `evaluate` metric."""

import json

import pytest

from d3llm.evaluation.aup.aup import bootstrap_interval, compute_aup
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
