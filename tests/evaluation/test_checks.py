"""Tasks with several checks: which decides, what is written and read back, and where both are shown."""

import json
from pathlib import Path

import pytest

from d3llm.commands.eval import print_table
from d3llm.commands.main import main
from d3llm.evaluation import wilson_interval
from d3llm.evaluation.batches import DecodedBatch, DecodedRow
from d3llm.evaluation.measurement import measure_samples
from d3llm.evaluation.result import read_result, summarize
from d3llm.evaluation.tasks import Sample, Task
from d3llm.hub_cards import ModelFacts, model_card
from d3llm.hub_cards.from_results import with_results
from tests.helpers.commands import run_fails
from tests.helpers.results import settings, whole_result, write_result


SAMPLES = [Sample(str(index), "?", index) for index in range(4)]
TEXTS = ["steps 0", "steps 1", "2", "7"]  # the third has the number without the steps


def number_right(sample: Sample, text: str) -> bool:
    return text.split()[-1] == str(sample.reference)


def solution_right(sample: Sample, text: str) -> bool:
    return text.startswith("steps") and number_right(sample, text)


def task(**changes) -> Task:
    checks = {"check": solution_right, "verdict": "solution", "further_checks": {"number": number_right}} | changes
    return Task("t", "T", "drawn", lambda *_: SAMPLES, **checks)


def measure(folder: Path, of: Task, texts=TEXTS, **options):
    def decode(batch_size, done):
        rows = [DecodedRow(n, 0, text, 4, 2, 2, [0], [1]) for n, text in enumerate(texts) if n not in done]
        yield DecodedBatch(rows, 1.0)

    return measure_samples(folder / "r.json", of, SAMPLES, [[0]] * 4, decode, settings(), **options)


def with_checks(solutions: int, numbers: int, **changes) -> dict:
    """A result of 100 samples by `solution`, and by `number` beside it."""
    plain = whole_result(solutions, **changes)
    columns = plain["samples"]
    records = [
        {"seconds": 0.1, "further": {"number": index < numbers}}
        | {name: values[index] for name, values in columns.items()}
        for index in range(100)
    ]
    return plain | {"judged_by": "solution"} | summarize(records)


def test_every_check_is_written_and_read_back(tmp_path):
    result = measure(tmp_path, task())
    assert (result.accuracy, result.judged_by) == (0.5, "solution")
    by_number = {"accuracy": 0.75, "accuracy_interval": list(wilson_interval(3, 4))}
    assert result.further_accuracy == {"number": by_number}
    assert result.samples["correct"] == [True, True, False, False]
    assert result.samples["further"] == {"number": [True, True, True, False]}
    assert read_result(tmp_path / "r.json") == result
    (tmp_path / "r.samples.jsonl").unlink()
    (tmp_path / "r.samples.jsonl.settings.json").unlink()
    assert measure(tmp_path, task(), texts=[]) == result  # read, not decoded again


def test_samples_of_other_checks_are_not_resumed(tmp_path):
    measure(tmp_path, task())
    with pytest.raises(ValueError, match='judged_by was "solution", is null'):
        measure(tmp_path, task(verdict=None, further_checks={}))
    with pytest.raises(ValueError, match="further_checks"):
        measure(tmp_path, task(further_checks={}))
    for file in tmp_path.glob("*.samples.*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"is not this measurement: .*--overwrite"):
        measure(tmp_path, task(further_checks={}))
    (tmp_path / "r.json").unlink()
    again = measure(tmp_path, task(further_checks={}))
    assert again.further_accuracy is None and again.judged_by == "solution"  # the kept result was not taken for it


def test_a_task_with_one_check_is_as_before(tmp_path):
    result = measure(tmp_path, task(verdict=None, further_checks={}))
    said = json.loads((tmp_path / "r.json").read_text())
    assert not {"judged_by", "further_accuracy"} & said.keys() and "further" not in said["samples"]
    assert "further" not in json.loads((tmp_path / "r.samples.jsonl").open().readline())
    assert "judged_by" not in json.loads((tmp_path / "r.samples.jsonl.settings.json").read_text())
    assert read_result(tmp_path / "r.json") == result and result.differing_percent == {}


@pytest.mark.parametrize("changes", [{"verdict": None}, {"verdict": "number"}])
def test_a_deciding_check_needs_a_name_of_its_own(changes):
    with pytest.raises(ValueError, match="further checks number"):
        task(**changes)


def test_another_check_may_decide(tmp_path):
    result = measure(tmp_path, task())
    by_number = result.judged("number")
    assert (by_number.accuracy, by_number.judged_by) == (0.75, "number")
    assert by_number.further_accuracy["solution"]["accuracy"] == 0.5
    assert by_number.samples["further"] == {"solution": result.samples["correct"]}
    assert by_number.judged("solution") == result
    with pytest.raises(ValueError, match="not judged by 'style': it has solution, number"):
        result.judged("style")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"further_accuracy": {"number": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}}}, "further_accuracy"),
        ({"further_accuracy": {"number": {"accuracy": 2.0, "accuracy_interval": [0.4, 0.6]}}}, "is 2.0"),
        ({"further_accuracy": None}, "further_accuracy"),
        ({"judged_by": None}, "no name of its own"),
        ({"judged_by": "number"}, "no name of its own"),
    ],
)
def test_checks_that_do_not_add_up_are_refused(tmp_path, changes, message):
    (tmp_path / "r.json").write_text(json.dumps(with_checks(90, 95) | changes))
    with pytest.raises(ValueError, match=message):
        read_result(tmp_path / "r.json")


def test_tables_show_both_where_they_differ(tmp_path, capsys):
    for name, numbers in (("differs", 95), ("agrees", 90)):
        (tmp_path / f"{name}.json").write_text(json.dumps(with_checks(90, numbers, method=name)))
    differs, agrees = (read_result(tmp_path / f"{name}.json") for name in ("differs", "agrees"))
    print_table([differs, agrees])
    printed = capsys.readouterr().out
    assert "by other checks" in printed and ") by solution" in printed
    assert printed.count("by number") == 1 and "95.0%" in printed
    print_table([agrees])
    assert "other checks" not in capsys.readouterr().out
    assert main(["leaderboard", str(tmp_path), "--y-max", "own"]) == 0
    printed = capsys.readouterr().out
    assert "AUP, table measured, by solution" in printed and "AUP, table measured, by number" in printed
    assert "270.0" in printed and "285.0" in printed  # 3 tokens per forward at 90 and at 95 %
    assert main(["leaderboard", str(tmp_path / "agrees.json")]) == 0
    assert "by number" not in capsys.readouterr().out
    assert main(["leaderboard", str(tmp_path / "differs.json"), "--judged-by", "number"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("by number") < printed.index("by solution")


def test_results_by_different_checks_are_not_compared(tmp_path, capsys):
    (tmp_path / "one.json").write_text(json.dumps(with_checks(90, 95, method="one")))
    (tmp_path / "other.json").write_text(json.dumps(whole_result(95, method="other")))
    said = run_fails(capsys, "leaderboard", tmp_path)
    assert "judged by different checks, one by solution and other by its only check" in said
    assert "not judged by 'number'" in run_fails(capsys, "leaderboard", tmp_path, "--judged-by", "number")


def test_cards_show_both_where_they_differ(tmp_path, tiny_checkpoint):
    samples = with_checks(90, 95)
    kept = ("judged_by", "samples", "accuracy", "accuracy_interval", "further_accuracy", "tokens", "forwards")
    changes = {name: samples[name] for name in (*kept, "row_forwards", "tokens_per_forward")}
    file = write_result(tmp_path / "r.json", tiny_checkpoint, num_samples=100, tokens_per_second=300.0, **changes)
    facts = ModelFacts(name="m", license="mit", architecture="LLaDAModelLM", parameters=1)
    card = model_card(with_results(facts, tiny_checkpoint, [read_result(file)]))
    assert "| accuracy (interval) | by other checks | TPF |" in card
    assert "| 90.0% (82.6 to 94.5) by solution | 95.0% (88.8 to 97.8) by number | 3.00 |" in card
    assert "accuracy by number (d3llm" in card and "accuracy by solution (d3llm" in card
