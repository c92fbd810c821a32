"""Times the AUP of the teacher with one token per forward, told apart by decoder and distillation."""

import json

import pytest

from d3llm.commands.main import main
from d3llm.evaluation.factors import curve_factors
from d3llm.evaluation.resampling import Resampling
from tests.helpers.commands import run_fails
from tests.helpers.curves import point_of


RIGHT = [True] * 90 + [False] * 10  # on which all agree, so that areas differ by tokens per forward alone
RESAMPLING = Resampling(resamples=200)
TEACHER = {"weights": "teacher", "model": "teacher"}


def results(**changes) -> list:
    one_token = point_of(RIGHT, 8, decoding={"preset": "llada", "block_size": 32}, method="teacher-llada", **TEACHER)
    return [
        one_token,  # 8 tokens in 10 forwards
        point_of(RIGHT, 20, threshold=0.1, method="teacher-d3llm", **TEACHER),
        point_of(RIGHT, 40, threshold=0.5, method="teacher-d3llm", **TEACHER),
        point_of(RIGHT, 60, threshold=0.1, method="student-d3llm", **changes),
        point_of(RIGHT, 80, threshold=0.3, method="student-d3llm", **changes),
    ]


def test_the_factor_is_decoder_times_distillation():
    teacher, student = curve_factors(results(), "teacher-llada", resampling=RESAMPLING)
    assert (teacher.method, student.method) == ("teacher-d3llm", "student-d3llm")
    assert student.area.value == pytest.approx(8 * 90)
    assert student.total.own.value == pytest.approx(8 / 0.8) and student.total.paper.value == pytest.approx(8)
    assert student.decoder_method == "teacher-d3llm"
    assert student.decoder.own.value == pytest.approx(4 / 0.8) and student.decoder.paper.value == pytest.approx(4)
    assert student.distillation.value == pytest.approx(2)
    assert (teacher.decoder, teacher.distillation) == (None, None)
    assert teacher.total.own == student.decoder.own
    assert (student.baseline_accuracy, student.baseline_tokens_per_forward) == (90, 0.8)


def test_problems_are_resampled_together():
    """All curves answer the same problems rightly, so that no resample changes a factor; the area varies."""
    (_, student) = curve_factors(results(), "teacher-llada", y_max="own", resampling=RESAMPLING)
    assert student.area.high - student.area.low > 20
    for factor in (student.total.own, student.total.paper, student.decoder.own, student.distillation):
        assert (factor.low, factor.high) == pytest.approx((factor.value, factor.value))
    again = curve_factors(results(), "teacher-llada", y_max="own", resampling=Resampling(200, seed=1))[1]
    assert again.area.value == student.area.value and again.area.low != student.area.low


def test_another_decoder_of_the_teacher_is_not_the_decoder():
    other = {"decoding": {"preset": "d3llm", "block_size": 16, "threshold": 0.1}}
    student = curve_factors(results(**other), "teacher-llada", resampling=RESAMPLING)[1]
    assert (student.decoder_method, student.decoder, student.distillation) == (None, None, None)
    assert student.total.paper.value == pytest.approx(8)


def test_a_baseline_that_cannot_be_one():
    with pytest.raises(ValueError, match="'teacher-dream' has no results"):
        curve_factors(results(), "teacher-dream")
    with pytest.raises(ValueError, match="measured on different problems"):
        curve_factors(results(data="others"), "teacher-llada")
    wrong = point_of([False] * 100, 8, method="wrong")
    with pytest.raises(ValueError, match="wrong has no right answer"):
        curve_factors([wrong, *results()], "wrong")


def test_the_leaderboard_takes_a_method_or_files_as_baseline(tmp_path, capsys):
    students, teachers = tmp_path / "students", tmp_path / "teachers"
    for folder in (students, teachers):
        folder.mkdir()
    for number, result in enumerate(results()):
        folder = teachers if result.weights == "teacher" else students
        (folder / f"{number}.json").write_text(json.dumps(result.to_dict()))
    flags = ["leaderboard", str(students), "--resamples", "100", "--baseline"]
    assert main([*flags, str(teachers)]) == 0
    of_files = capsys.readouterr().out
    assert "Times the AUP of teacher-llada on GSM8K-CoT (90.0% at TPF 0.80" in of_files
    (line,) = (line for line in of_files.splitlines()[8:] if "student-d3llm" in line)
    assert all(f"{factor:.2f} (" in line for factor in (10, 8, 5, 4, 2))
    assert main([flags[0], str(teachers), *flags[1:], "teacher-llada"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(of_files.splitlines())
    assert "'nobody' has no points" in run_fails(capsys, *flags, "nobody")
    assert main([flags[0], str(teachers), *flags[1:], str(teachers), "--floor-rule", "both"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Times the AUP") == 2 and printed.count("cut at the floor") == 1
