"""`d3llm demo` on the shipped models."""

import json

import pytest

from d3llm.commands.main import main
from d3llm.evaluation import wilson_interval
from d3llm.quickstart import checkpoint_path
from tests.helpers.commands import run_fails
from tests.helpers.forks import Fork


PROBLEMS = ["demo", "--problems", "2", "--seed", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The report, the picture and what was printed of one small run."""
    folder = tmp_path_factory.mktemp("demo")
    command = [*PROBLEMS, "--batch-size", "2", "--json", "demo.json", "--svg", "demo.svg"]
    result = Fork(main, command, cwd=folder).wait()
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert {path.name for path in folder.iterdir()} == {"demo.json", "demo.svg"}  # no temporary file is left
    return json.loads((folder / "demo.json").read_text()), (folder / "demo.svg").read_text(), result.stdout


def test_the_report(run):
    report, _, _ = run
    methods = [("teacher", "llada"), ("teacher", "d3llm"), ("student", "d3llm")]
    assert [(row["model"], row["preset"]) for row in report["rows"]] == methods
    for row in report["rows"]:
        assert row["accuracy_interval"] == list(wilson_interval(round(2 * row["accuracy"]), 2))
        assert row["tokens_per_forward"] == pytest.approx(row["tokens"] / row["forwards"])
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
    llada, d3llm, student = report["rows"]
    assert llada["tokens_per_forward"] <= 1.0 < min(row["tokens_per_forward"] for row in (d3llm, student))
    assert (report["problems"], report["seed"], report["batch_size"], report["split"]) == (2, 1, 2, "test")
    assert set(report["versions"]) == {"python", "d3llm", "torch", "transformers"}


def test_what_is_printed_without_a_terminal(run):
    report, _, printed = run
    assert "\x1b" not in printed and "░" not in printed
    for row in report["rows"]:
        assert f"{row['tokens_per_forward']:.2f}" in printed and str(row["forwards"]) in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_the_picture(run):
    _, picture, _ = run
    assert picture.startswith("<svg") and "░░" in picture and "sure&#160;tokens&#160;from" in picture


def test_the_same_seed_gives_the_same_problems_and_answers(run, tmp_path):
    report, _, _ = run
    assert main([*PROBLEMS, "--batch-size", "1", "--json", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again").read_text())
    for row, other in zip(report["rows"], again["rows"], strict=True):
        assert (row["accuracy"], row["tokens"], row["forwards"]) == (
            other["accuracy"],
            other["tokens"],
            other["forwards"],
        )


def test_two_files_of_one_name_are_refused(capsys, tmp_path):
    said = run_fails(capsys, *PROBLEMS, "--json", str(tmp_path / "out"), "--svg", str(tmp_path / "." / "out"))
    assert "--json and --svg are one file" in said and not (tmp_path / "out").exists()


def test_an_installation_without_the_checkpoint(capsys, monkeypatch, tmp_path):
    import d3llm.quickstart

    monkeypatch.setattr(d3llm.quickstart, "checkpoint_path", lambda name: tmp_path)
    assert str(tmp_path) in run_fails(capsys, *PROBLEMS)


def test_generate_takes_the_shipped_teacher_by_default(capsys):
    prompt = "Tom buys 3 boxes of 4 pens and gives 5 pens away. How many pens does Tom have now?"
    arguments = ["generate", "--prompt", prompt, "--preset", "llada", "--max-new-tokens", "96"]
    assert main(arguments) == 0
    by_default = capsys.readouterr().out
    assert main([*arguments, "--model", str(checkpoint_path("teacher"))]) == 0
    assert capsys.readouterr().out == by_default
    assert "#### 7" in by_default
