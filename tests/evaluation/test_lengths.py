"""`d3llm leaderboard --by-length`: what a method gains over another, by the length of the answer."""

import json
from pathlib import Path

import pytest
from PIL import Image

from d3llm.commands.leaderboard import with_interval
from d3llm.commands.main import main
from d3llm.evaluation.lengths import LengthGains, length_gains
from d3llm.evaluation.result import Result, read_results, summarize
from tests.helpers.commands import run_fails
from tests.helpers.paths import ROOT
from tests.helpers.results import whole_result


def point(method: str, samples: list[tuple[int, int, bool]], threshold: float = 0.4, **changes) -> dict:
    """The content of a result file of these tokens, forwards and verdicts."""
    records = [
        {"id": str(index), "correct": correct, "tokens": tokens, "forwards": forwards, "seconds": 0.1}
        for index, (tokens, forwards, correct) in enumerate(samples)
    ]
    counted = {"num_samples": len(records), **summarize(records)}
    return {**whole_result(), "method": method, "point": {"threshold": threshold}, **counted, **changes}


def compare(one: list[tuple[int, int, bool]], other: list[tuple[int, int, bool]], **options) -> LengthGains:
    results = [Result.from_dict(point(method, samples)) for method, samples in (("one", one), ("other", other))]
    (gains,) = length_gains(results, "one", "other", **options)
    return gains


# 20 answers within one block, which both decode alike, and 20 of two blocks, which one decodes in fewer forwards.
SLOW = [(30, 10, True)] * 20 + [(60, 20, True)] * 20
FAST = [(30, 10, True)] * 20 + [(60, 10 + index % 3, index > 4) for index in range(20)]


def write(folder: Path, method: str, samples: list[tuple[int, int, bool]], threshold: float = 0.4, **changes) -> None:
    (folder / f"{method}-{threshold}.json").write_text(json.dumps(point(method, samples, threshold, **changes)))


def test_a_group_is_compared_problem_by_problem():
    gains = compare(FAST, SLOW)
    assert (gains.one, gains.other, gains.point) == ("one", "other", {"threshold": 0.4})
    short, long = gains.groups
    assert (short.range, short.problems, short.tokens) == ("1 to 32", 20, 30.0)
    assert (short.gain, short.gain_interval, short.change_interval) == (1.0, (1.0, 1.0), (0.0, 0.0))
    forwards = sum(sample[1] for sample in FAST[20:])
    assert (long.range, long.one, long.other) == ("33 to 64", 20 * 60 / forwards, 3.0)
    assert long.gain == pytest.approx(400 / forwards) and long.change == -25.0
    low, high = long.gain_interval
    assert 400 / 240 < low < long.gain < high < 2.0
    low, high = long.change_interval
    assert -50 < low < -25 < high < 0


def test_problems_are_drawn_for_both_methods_together():
    varied = [(60, forwards, True) for forwards in range(5, 45)]
    half = [(60, 2 * forwards, True) for _, forwards, _ in varied]
    assert compare(varied, half).groups[0].gain_interval == pytest.approx(
        (2.0, 2.0)
    )  # of each problem, so of each resample


def test_groups_are_those_of_the_other_answer_and_few_problems_have_no_interval():
    slow = [(32, 10, True), (33, 10, True), (500, 10, True)]
    fast = [(500, 10, True), (500, 10, True), (1, 10, True)]
    gains = compare(fast, slow, edges=[32, 64])
    assert [(group.range, group.problems, group.one) for group in gains.groups] == [
        ("1 to 32", 1, 50.0),
        ("33 to 64", 1, 50.0),
        ("from 65", 1, 0.1),
    ]
    assert all(group.gain_interval is None and group.change_interval is None for group in gains.groups)


def test_points_of_the_same_values_are_compared(tmp_path, capsys):
    for threshold in (0.1, 0.5):
        write(tmp_path, "fast", FAST, threshold)
        write(tmp_path, "slow", SLOW, threshold)
    write(tmp_path, "slow", SLOW, 0.9)
    folder = tmp_path / "pictures"
    assert main(["leaderboard", str(tmp_path), "--by-length", "fast", "slow", "--output", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"threshold={value}") == times for value, times in ((0.1, 2), (0.5, 2), (0.9, 0)))
    assert "1.00 (1.00 to 1.00)" in printed and "-25.0 (" in printed
    assert {path.name for path in folder.iterdir()} == {"lengths.png", "lengths.svg"}
    with Image.open(folder / "lengths.png") as image:
        assert image.width > 500 and len(image.convert("L").getcolors(256)) > 10
    assert main(["leaderboard", str(tmp_path), "--by-length", "fast", "slow", "--lengths", "100"]) == 0
    assert "1 to 100" in capsys.readouterr().out


def test_the_table_on_the_page_states_the_result_files():
    results = read_results([ROOT / "docs/results/student"])
    names = [f"block_states_averaged-0-{decoder}" for decoder in ("d3llm", "one_block")]
    gains = length_gains(results, *names, edges=[64, 96, 128])
    (shown,) = (gain for gain in gains if gain.point == {"threshold": 0.1})
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    for group in shown.groups:
        gain = with_interval(group.gain, group.gain_interval, "{:.2f}")
        change = with_interval(group.change, group.change_interval, "{:+.1f}")
        row = [group.range, str(group.problems), f"{group.one:.2f}", f"{group.other:.2f}", gain, change]
        assert f"| {' | '.join(row)} |\n" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["{tmp}", "--by-length", "fast", "nobody"], "no results of 'nobody': expected one of"),
        (["{tmp}", "--by-length", "fast", "slow"], "no point in common"),
        (["{tmp}", "--by-length", "fast", "others"], "different problems"),
        (["{tmp}", "--by-length", "fast", "others", "--lengths", "64,32"], "rise from 1 on"),
        (["{tmp}", "--by-length", "fast", "others", "--lengths", "0"], "rise from 1 on"),
        (["{tmp}", "--by-length", "fast", "others", "--lengths", "a"], "--lengths must be whole numbers"),
        (["{tmp}", "--lengths", "32"], "--by-length"),
        (["{tmp}", "--by-length", "fast", "slow", "--baseline", "x"], "--by-length takes no --baseline"),
        (["{tmp}", "--by-length", "fast", "slow", "--floor-rule", "both"], "--by-length takes no --floor-rule"),
        (["{tmp}", "--by-length", "fast", "slow", "--y-max", "own"], "--by-length takes no --y-max"),
        (["{tmp}", "--by-length", "fast", "slow", "--judged-by", "style"], "was not judged by 'style'"),
        (["{tmp}", "--by-length", "fast", "slow", "--resamples", "0"], "at least 1 resample"),
        (["{tmp}", "--by-length", "fast", "slow", "--resamples", "-3"], "at least 1 resample"),
        (["{tmp}", "--by-length", "fast", "slow", "--seed", "-1"], "a seed of at least 0"),
        (["--by-length", "fast", "slow"], "give their files"),
    ],
)
def test_mistakes(tmp_path, capsys, flags, message):
    write(tmp_path, "fast", FAST, 0.1)
    write(tmp_path, "slow", SLOW, 0.5)
    write(tmp_path, "others", SLOW, 0.1, data="4567")
    assert message in run_fails(capsys, "leaderboard", *(flag.format(tmp=tmp_path) for flag in flags))
