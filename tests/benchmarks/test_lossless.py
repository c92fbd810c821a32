"""The benchmark of drafts tells what they cost, and notices texts that differ."""

import json

import pytest
import torch

from benchmarks import lossless, tables
from d3llm.generation.drafting import DraftingRun
from d3llm.modeling import LLaDAModelLM
from tests.helpers.models import tiny_model


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr("sys.argv", ["lossless", *map(str, arguments)])
    lossless.main()


@pytest.fixture
def given(tiny_checkpoint, tmp_path):
    limits = ["--problems", 3, "--new-tokens", 8, "--batch-sizes", 1, 2]
    return ["--model", tiny_checkpoint, *limits, "--json", tmp_path / "out.json"]


def test_every_way_is_measured_beside_the_preset_alone(monkeypatch, tmp_path, given, capsys):
    written = []
    write = lossless.write_atomically
    monkeypatch.setattr(lossless, "write_atomically", lambda *file: written.append(file) or write(*file))
    run(monkeypatch, *given, "--states", 2, 4)
    result = json.loads((tmp_path / "out.json").read_text())
    rows = result["rows"]
    assert [(row["batch_size"], row["draft_states"]) for row in rows] == [(b, k) for b in (1, 2) for k in (1, 2, 4)]
    assert [len(json.loads(content)["rows"]) for _, content in written] == [3] * 4 + [6] * 2  # and one of the ties
    assert [json.loads(content)["rows"][0]["problems"] for _, content in written] == [1, 2, 3, 3, 3, 3]
    for row in rows:
        assert row["problems"] == 3 and row["identical"] == 1.0 and row["differing"] == []
        assert row["tokens_per_forward"] == row["tokens"] / row["forwards"]
        assert (row["row_forwards"] > row["forwards"]) == (row["draft_states"] > 1)
        assert row["row_forwards"] <= row["draft_states"] * row["forwards"]
        assert ("ties" in row) == (row["batch_size"] == row["draft_states"] == 1)
    assert rows[0]["forwards"] == rows[0]["ties"][0]["forwards"]
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert tables.render(result).count("| 3/3 |") == 6 and "repeat" in tables.describe(result)


def test_an_assistant_drafts_beside_the_model_alone(monkeypatch, tmp_path, given, tiny_checkpoint, capsys):
    run(monkeypatch, *given, "--states", 4, "--assistant", tiny_checkpoint)
    result = json.loads((tmp_path / "out.json").read_text())
    for row in result["rows"]:
        assert row["identical"] == 1.0 and ("assistant" in row) == (row["assistant_forwards"] > 0)
    assert ["assistant" in row for row in result["rows"]] == [False, False, True] * 2
    assert "as assistant (" in capsys.readouterr().out and tables.render(result).count("| 3/3 |") == 6


def test_texts_that_differ_are_an_error_and_named(monkeypatch, tmp_path, given):
    def trusting(run, proposal, accepted):
        last = sum(lane.exists for lane in run.lanes).astype("int64") - 1
        run.seen = run._seen(proposal, last)
        return last

    monkeypatch.setattr(DraftingRun, "keep", trusting)
    with pytest.raises(SystemExit, match="texts differ from those of the preset alone"):
        run(monkeypatch, *given, "--states", 8)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    drafted = [row for row in rows if row["draft_states"] == 8]
    assert all(row["identical"] == 1 - len(row["differing"]) / 3 for row in rows)
    assert any(row["differing"] for row in drafted)
    assert all(each["text"] != each["expected"] for row in drafted for each in row["differing"])


@pytest.mark.parametrize(
    ("fields", "scores"),
    [({"preset": "llada"}, 7), ({"preset": "dparallel", "threshold": 0.0}, 7)],
    ids=["count", "threshold"],
)
def test_ties_are_counted(fields, scores):
    model = tiny_model(LLaDAModelLM)
    ids = torch.arange(5)[None]
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    given = {"max_new_tokens": 8, "block_size": 8, "early_stop": False}
    with lossless.Ties(1e-5) as ties:
        model.generate(ids, **fields, **given)
    # all logits are equal, so are all scores: every choice among several candidates is a tie
    assert (ties.forwards, ties.scores, ties.tokens, ties.either) == (8, scores, 8, 8)
    with lossless.Ties(1e-5) as ties:  # nothing differs from the threshold or is left to choose
        model.generate(ids, preset="dparallel", threshold=99.0, **given)
    assert (ties.forwards, ties.scores) == (1, 0)


def test_what_is_not_close_is_not_a_tie():
    model = tiny_model(LLaDAModelLM)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    with lossless.Ties(0.0) as none, lossless.Ties(1e-7) as few, lossless.Ties(100.0) as all_of_them:
        model.generate(torch.arange(5)[None], preset="llada", max_new_tokens=8, early_stop=False)
    assert (none.scores, none.tokens) == (0, 0)
    assert few.either <= 2 and (all_of_them.scores, all_of_them.tokens) == (7, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--states", 1], "--states must be at least 2, got [1]"),
        (["--batch-sizes", 0], "--batch-sizes must be at least 1, got [0]"),
        (["--ties", "nan"], "--ties must be numbers from 0 on"),
        (["--model", "nowhere"], "no checkpoint in nowhere"),
        (["--split", "train"], "--split"),
        (["--presets", "nope"], "nope"),
        (["--cache", "dual"], "`cache`='dual', which is not exact"),
        (["--json", "nowhere/x.json"], "there is no folder"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, given, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *given, *arguments)
    said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert message in said and "\n" not in said
