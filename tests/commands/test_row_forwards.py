"""Wherever forwards are told, a forward of several rows is not told as one: eval, leaderboard, tune, generate."""

import json
from pathlib import Path

import pytest

from d3llm.commands.main import main
from d3llm.evaluation.result import read_result, read_results, result_files
from tests.commands.test_terminal import run_in_terminal
from tests.helpers.commands import run_fails
from tests.helpers.results import whole_result


DRAFTS = ["--draft-states", "4"]


def measure_stories(checkpoint: Path, folder: Path, *flags) -> int:
    common = ["--model", checkpoint, "--tasks", "stories", "--limit", 2, "--max-new-tokens", 8, "--block-size", 8]
    common += ["--device", "cpu", "--preset", "llada", "--early-stop", "false", "--output", folder]
    return main([str(flag) for flag in ["eval", *common, *flags]])


def with_rows(rows: int, **changes) -> dict:
    """A result whose forwards take so many rows each."""
    result = whole_result(**changes)
    result["samples"] |= {"row_forwards": [rows * forwards for forwards in result["samples"]["forwards"]]}
    return result | {"row_forwards": rows * result["forwards"]}


def test_samples_results_and_tables_count_rows(tmp_path, tiny_checkpoint, capsys):
    assert measure_stories(tiny_checkpoint, tmp_path) == 0
    plain = capsys.readouterr().out
    assert measure_stories(tiny_checkpoint, tmp_path / "drafted", *DRAFTS) == 0
    drafted = capsys.readouterr().out
    assert "row forwards" in drafted and "row forwards" not in plain
    (one,), (several,) = (map(read_result, result_files([folder])) for folder in (tmp_path, tmp_path / "drafted"))
    assert one.row_forwards == one.forwards == 16 and one.rows_per_forward == 1
    assert several.forwards < 16 < several.row_forwards <= 4 * several.forwards
    assert str(several.row_forwards) in drafted
    lines = [json.loads(line) for line in next((tmp_path / "drafted").glob("*.samples.jsonl")).open()]
    assert [line["row_forwards"] for line in lines] == several.samples["row_forwards"]
    assert sum(several.samples["row_forwards"]) == several.row_forwards


def test_files_from_before_rows_were_counted_are_read(tmp_path, tiny_checkpoint):
    old = whole_result()
    old["samples"] = {name: values for name, values in old["samples"].items() if name != "row_forwards"}
    del old["row_forwards"]
    file = tmp_path / "old.json"
    file.write_text(json.dumps(old))
    result = read_result(file)
    assert result.row_forwards == result.forwards and result.to_dict() == old
    # and half a file of samples is resumed
    folder = tmp_path / "resumed"
    assert measure_stories(tiny_checkpoint, folder) == 0
    (samples,) = folder.glob("*.samples.jsonl")
    whole = [json.loads(line) for line in samples.open()]
    first = {name: value for name, value in whole[0].items() if name != "row_forwards"}
    samples.write_text(json.dumps(first) + "\n")
    assert measure_stories(tiny_checkpoint, folder) == 0
    (result,) = map(read_result, result_files([folder]))
    assert result.samples["row_forwards"] == result.samples["forwards"] == [line["forwards"] for line in whole]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_forwards": 1001}, "['row_forwards'] is 1001, and its samples say 2000"),
        ({"row_forwards": ...}, "['row_forwards'] is 1000, and its samples say 2000"),
        ({"row_forwards": None}, "['row_forwards'] is None"),
        ({"samples": whole_result()["samples"] | {"row_forwards": [9] * 100}}, "fewer row forwards than forwards"),
        ({"samples": whole_result()["samples"] | {"row_forwards": [20]}}, "'row_forwards': 1"),
        ({"assistant_forwards": 5}, "['assistant_forwards'] is 5, and its samples say None"),
        (
            {"samples": with_rows(2)["samples"] | {"assistant_forwards": [1] * 100}},
            "['assistant_forwards'] is None, and its samples say 100",
        ),
    ],
)
def test_rows_that_do_not_add_up_are_refused(tmp_path, capsys, changes, message):
    result = {name: value for name, value in (with_rows(2) | changes).items() if value is not ...}
    (tmp_path / "x.json").write_text(json.dumps(result))
    assert message in run_fails(capsys, "leaderboard", tmp_path / "x.json")


def test_the_leaderboard_tells_rows_per_forward_beside_areas(tmp_path, capsys):
    (tmp_path / "plain.json").write_text(json.dumps(whole_result(method="plain")))
    assert main(["leaderboard", str(tmp_path)]) == 0
    assert "forward" not in capsys.readouterr().out
    (tmp_path / "two.json").write_text(json.dumps(with_rows(2, tokens_per_forward=4.0)))
    (tmp_path / "eight.json").write_text(json.dumps(with_rows(8, tokens_per_forward=6.0)))
    assert main(["leaderboard", str(tmp_path), "--published"]) == 0
    (drafted,) = (line for line in capsys.readouterr().out.splitlines() if "ours" in line)
    assert "2.0 to 8.0" in drafted
    from d3llm.evaluation.leaderboard import make_boards, result_curves
    from d3llm.evaluation.plots import label

    (board,) = make_boards(result_curves(read_results(result_files([tmp_path]))))
    assert label(board, "ours") == "ours (2.0 to 8.0 rows per forward)" and label(board, "plain") == "plain"


def test_tune_tells_what_its_choice_costs(tmp_path, tiny_checkpoint, capsys):
    flags = ["tune", "--model", tiny_checkpoint, "--tasks", "stories", "--limit", 2, "--max-new-tokens", 8]
    flags += ["--device", "cpu", "--preset", "dparallel", "--early-stop", "false"]
    flags += ["--sweep", "threshold=0.01", "--output", tmp_path, "--dry-run"]
    assert main([str(flag) for flag in [*flags, "--draft-states", 4]]) == 0
    assert " rows per forward, accuracy" in capsys.readouterr().out


def test_lines_of_generate_count_rows(tmp_path, tiny_checkpoint):
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "one plus two"}\n')
    flags = ["--preset", "llada", "--max-new-tokens", "8", "--early-stop", "false"]
    given = ["generate", "--model", str(tiny_checkpoint)]
    assert main([*given, "--input", str(prompts), "--output", str(output), *flags, *DRAFTS]) == 0
    line = json.loads(output.read_text())
    assert line["row_forwards"] > line["forwards"]
    written = run_in_terminal([*given, "--prompt", "one plus two", *flags, *DRAFTS])
    assert f"in {line['forwards']} forwards ({line['row_forwards']} row forwards), TPF" in written
