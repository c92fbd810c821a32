"""`d3llm leaderboard`: published figures, measured results, pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d3llm.commands.leaderboard import parse_y_max
from d3llm.commands.main import main
from d3llm.evaluation.aup.aup import compute_aup
from d3llm.evaluation.leaderboard import Curve, Point, make_boards, published, published_curves, result_curves
from d3llm.evaluation.plots import draw, speed_points
from d3llm.evaluation.result import read_results
from tests.helpers.commands import run_fails
from tests.helpers.results import whole_result


def write_result(folder: Path, name: str, tokens_per_forward: int, correct: int, **changes) -> Path:
    result = whole_result(correct, tokens_per_forward, **changes)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result))
    return path


def test_published_figures_come_out_again(capsys):
    boards = {board.table: board for board in make_boards(published_curves())}
    assert list(boards) == ["LLaDA", "Dream", "Coder"]
    assert round(boards["LLaDA"].areas["d3LLM-LLaDA", "GSM8K-CoT"], 1) == 637.7
    assert round(boards["Dream"].areas["d3LLM-Dream", "GSM8K-CoT"], 1) == 391.3
    assert round(boards["LLaDA"].average("d3LLM-LLaDA"), 1) == 274.3
    assert round(boards["Dream"].average("d3LLM-Dream"), 1) == 221.7
    assert boards["LLaDA"].methods[0] == "d3LLM-LLaDA" and boards["Dream"].methods[:2] == ["EAGLE-3", "d3LLM-Dream"]
    assert main(["leaderboard", "--published"]) == 0
    printed = capsys.readouterr().out
    assert all(figure in printed for figure in ("637.7", "391.3", "274.3", "221.7"))
    assert "quoted" in printed and all(name in printed for name in published()["closed"])


def test_all_published_rows(golden):
    recorded = json.loads((golden / "aup.json").read_text())["leaderboard"]
    tables = {"LLaDA": "data_llada.yaml", "Dream": "data_dream.yaml", "Coder": "data_dream_coder.yaml"}
    areas = {
        (tables[board.table], task, method): area
        for board in make_boards(published_curves())
        for (method, task), area in board.areas.items()
    }
    assert areas == {(row["file"], row["task"], row["method"]): pytest.approx(row["aup"]) for row in recorded}


def test_a_result_that_is_named_twice_counts_once(tmp_path):
    file = write_result(tmp_path, "one", 5, 78)
    (tmp_path / "link").symlink_to(tmp_path)
    (found,) = read_results([file, tmp_path, tmp_path / "link", tmp_path / "." / file.name])
    assert found.file == file


def test_measured_results(tmp_path, capsys):
    write_result(tmp_path, "fast", 5, 78)
    write_result(tmp_path, "slow", 1, 80)
    for name in ("fast.samples.jsonl.settings", "fast.lm_eval"):  # what lies beside results is none
        (tmp_path / f"{name}.json").write_text("{}")
    (curve,) = result_curves(read_results([tmp_path]))
    assert [(point.tokens_per_forward, point.accuracy) for point in curve.points] == [(1.0, 80.0), (5.0, 78.0)]
    assert curve.measured and curve.points[0].tokens_per_second == pytest.approx(100)
    (board,) = make_boards([curve])
    area = compute_aup([1, 5], [80, 78])
    assert board.areas["ours", "GSM8K-CoT"] == board.average("ours") == area
    low, high = board.intervals["ours", "GSM8K-CoT"]
    assert low < area < high
    assert main(["leaderboard", str(tmp_path)]) == 0
    assert f"{area:.1f} ({low:.1f} to {high:.1f})" in capsys.readouterr().out


def test_results_join_a_published_table(tmp_path, capsys):
    write_result(tmp_path, "slow", 1, 90)
    assert main(["leaderboard", str(tmp_path), "--published", "--join", "LLaDA"]) == 0
    printed = capsys.readouterr().out
    assert "y_max 90.00" in printed and "637.7" not in printed  # a better competitor lowers the others
    assert main(["leaderboard", str(tmp_path), "--published", "--join", "LLaDA", "--y-max", "own"]) == 0
    assert "659.6" in capsys.readouterr().out


def test_y_max_of_tasks_whose_titles_have_commas():
    assert parse_y_max("GSM8K-CoT=80,Stories, held-out forms=100") == {"GSM8K-CoT": 80, "Stories, held-out forms": 100}
    with pytest.raises(ValueError, match="--y-max must be table, own or TASK=PERCENT"):
        parse_y_max("GSM8K-CoT=80,MATH")


def test_conventions_of_y_max():
    curves = [
        Curve("t", "A", "strong", (Point(1.0, 90.0),)),
        Curve("t", "A", "weak", (Point(1.0, 50.0), Point(3.0, 48.0))),
        Curve("t", "B", "strong", (Point(1.0, 60.0),)),
    ]

    def weak(**kwargs) -> float:
        return make_boards(curves, **kwargs)[0].areas["weak", "A"]

    assert weak() == compute_aup([1, 3], [50, 48], y_max=90)
    assert weak(y_max="own") == compute_aup([1, 3], [50, 48])
    assert weak(y_max={"A": 55, "B": 70}) == compute_aup([1, 3], [50, 48], y_max=55)
    (board,) = make_boards(curves)
    assert board.average("weak") is None and board.methods == ["strong", "weak"]
    with pytest.raises(ValueError, match="task B"):
        weak(y_max={"A": 55})
    with pytest.raises(ValueError, match="'own-best'"):
        weak(y_max="own-best")
    assert make_boards(curves[:2], baseline="strong")[0].areas["weak", "A"] == 0.0
    # the floor is five points below where the baseline starts, not below where it ends
    falling = [
        Curve("t", "A", "strong", (Point(1.0, 90.0), Point(3.0, 80.0))),
        Curve("t", "A", "weak", (Point(2.0, 84.0),)),
    ]
    assert make_boards(falling, baseline="strong")[0].areas["weak", "A"] == 0.0
    with pytest.raises(ValueError, match="'weak' has no points on B"):
        weak(baseline="weak")


def test_pictures(tmp_path):
    write_result(tmp_path, "fast", 5, 78)
    write_result(tmp_path, "slow", 1, 80)
    folder = tmp_path / "pictures"
    assert main(["leaderboard", str(tmp_path), "--output", str(folder)]) == 0
    board = next(board for board in make_boards(published_curves()) if board.table == "Coder")
    draw(board, folder, published()["speed"], published()["closed"])
    expected = {"measured": "curves bars speed", "Coder": "curves bars radar"}
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{n}-{t}{s}" for t, ns in expected.items() for n in ns.split() for s in (".png", ".svg")}
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 500 and len(image.convert("L").getcolors(256)) > 10
    for path in folder.glob("*.svg"):
        assert path.read_text().startswith("<?xml")


def test_speed_is_compared_on_one_hardware_only():
    board = next(board for board in make_boards(published_curves()) if board.table == "LLaDA")
    points = speed_points(board, published()["speed"])
    assert set(points) == {"H100", "A100"}
    assert ("d3LLM-LLaDA", 288.89, 73.09) in points["H100"] and len(points["A100"]) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Nothing to show"),
        (["missing.json"], "missing.json"),
        (["{tmp}/text.json"], "not a result file"),
        (["{tmp}/old.json"], "schema"),
        (["{tmp}/empty"], "No results"),
        (["{tmp}/a.json", "{tmp}/b.json"], "different samples"),
        (["{tmp}/a.json", "--join", "LLaDA"], "--published"),
        (["--published", "--join", "GPT"], "LLaDA, Dream, Coder"),
        (["--published", "--y-max", "GSM8K-CoT=high"], "--y-max"),
        (["--published", "--y-max", "GSM8K-CoT=90"], "MATH"),
        (["--published", "--output", "{tmp}/a.json"], "a.json is not a folder"),
        (["{tmp}/a.json", "--by-length", "a", "b", "--output", "{tmp}/a.json/x"], "a.json is not a folder"),
    ],
)
def test_mistakes(tmp_path, capsys, flags, message):
    (tmp_path / "text.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    write_result(tmp_path, "a", 1, 80)
    write_result(tmp_path, "b", 2, 80, data="4567")
    write_result(tmp_path, "old", 1, 80, schema="d3llm-result-0")
    assert message in run_fails(capsys, "leaderboard", *(flag.format(tmp=tmp_path) for flag in flags))


def test_the_floor_of_a_measured_baseline_is_resampled_with_the_curve():
    random = np.random.default_rng(0)
    hard = random.random(200)

    def curve(method: str) -> Curve:
        points = []
        for forwards, ease in ((10, 0.9), (2, 0.87)):
            correct = (hard < ease).tolist()
            samples = {"id": list(range(200)), "tokens": [10] * 200, "forwards": [forwards] * 200, "correct": correct}
            points.append(Point(10 / forwards, 100 * sum(correct) / 200, samples=samples))
        return Curve("measured", "task", method, tuple(points), measured=True)

    alone, with_base = (make_boards([curve("one")], "own", base) for base in (None, "one"))
    assert alone[0].intervals == with_base[0].intervals  # a curve cannot fall below the floor that it sets itself
