"""The benchmark of throughput: all ways decode the same problems in turns, and a run that was killed resumes."""

import json

import pytest

from benchmarks import tables, throughput
from benchmarks.throughput import Subject, Way


WAYS = [Way(model, cache, size) for model in ("teacher", "student") for cache in ("none", "block") for size in (1, 2)]


@pytest.fixture
def run(monkeypatch, tmp_path, tiny_checkpoint):
    """Runs the benchmark on 5 problems; returns the result file."""

    def run(*arguments, name: str = "out") -> dict:
        file = tmp_path / f"{name}.json"
        limits = ["--problems", 5, "--new-tokens", 4, "--batch-sizes", 1, 2, "--threads", 1, "--json", file]
        given = ["throughput", "--teacher", tiny_checkpoint, "--student", tiny_checkpoint, *limits, *arguments]
        monkeypatch.setattr("sys.argv", [*map(str, given)])
        throughput.main()
        return json.loads(file.read_text())

    return run


@pytest.fixture
def decoded(monkeypatch) -> list[tuple[Way, list[int]]]:
    """What is decoded, in its order."""
    calls, decode = [], Subject.decode

    def noted(subject, way, indices, *others):
        calls.append((way, list(indices)))
        return decode(subject, way, indices, *others)

    monkeypatch.setattr(Subject, "decode", noted)
    return calls


def rounds_of(calls: list[tuple[Way, list[int]]]) -> list[list[tuple[Way, list[int]]]]:
    """The calls round by round, without the warm-up."""
    return [calls[start : start + len(WAYS)] for start in range(len(WAYS), len(calls), len(WAYS))]


def test_all_ways_take_turns_on_the_same_problems(run, decoded, capsys, tmp_path):
    result = run("--preset", "llada")
    assert [way for way, _ in decoded[: len(WAYS)]] == WAYS  # warm-up
    assert all(len(indices) == way.batch_size for way, indices in decoded[: len(WAYS)])
    rounds = rounds_of(decoded)
    assert [len(turns) for turns in rounds] == [8, 8, 8]
    for turns in rounds:
        assert {way for way, _ in turns} == {*WAYS} and len({tuple(indices) for _, indices in turns}) == 1
    assert [turns[0][0] for turns in rounds] == WAYS[:3]  # each begins with another way
    assert sorted(index for turns in rounds for index in turns[0][1]) == [*range(5)]
    for row, way in zip(result["rows"], WAYS, strict=True):
        assert Way(row["model"], row["cache"], row["batch_size"]) == way
        assert row["problems"] == 5 and row["rounds"] == 3 and row["tokens"] <= 5 * 4
        low, high = row["times_faster_interval"]
        assert low <= row["times_faster"] <= high and (way.model == "student" or low == high == 1)
    assert {row["preset"] for row in result["rows"][:4]} == {"llada"}
    assert result["rows"][0]["forwards"] == 5 * 4  # one token per forward
    assert result["settings"]["models"]["teacher"]["decoding"]["block"]["cache"] == "block"
    table = tables.render(result)
    assert table in capsys.readouterr().out and table.count("| 1 |") == 8  # 4 in batches of 1, 4 of the teacher
    lines = (tmp_path / "out.rounds.jsonl").read_text().splitlines()
    parts = [json.loads(line)["ways"] for line in lines]
    for place, row in enumerate(result["rows"]):  # what a way took is the sum of its rounds
        for name in ("seconds", "tokens", "forwards"):
            assert row[name] == sum(ways[place][name] for ways in parts)
        assert row["times_faster"] == sum(ways[place % 4]["seconds"] for ways in parts) / row["seconds"]
        assert row["accuracy"] == sum(ways[place]["correct"] for ways in parts) / 5
    assert "5 prompts, up to 4 new tokens, seed 0" in tables.describe(result)


@pytest.mark.slow
def test_a_killed_run_keeps_its_rounds(run, decoded, monkeypatch, tmp_path):
    decode = Subject.decode

    def killed(subject, way, *others):
        if len(decoded) == 2 * len(WAYS) + 3:  # within the second round
            raise KeyboardInterrupt
        return decode(subject, way, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Subject, "decode", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    kept = (tmp_path / "out.rounds.jsonl").read_text()
    assert len(kept.splitlines()) == 1 and not (tmp_path / "out.json").exists()
    first = rounds_of(decoded)[0]
    decoded.clear()
    result = run()
    assert len(rounds_of(decoded)) == 2 and first[0][1] not in [turns[0][1] for turns in rounds_of(decoded)]
    assert (tmp_path / "out.rounds.jsonl").read_text().startswith(kept)
    decoded.clear()
    assert run() == result and not decoded  # nothing is left, not even to warm up for
    run("--overwrite")
    assert len(rounds_of(decoded)) == 3


def test_rounds_of_other_settings_are_not_mixed(run):
    run()
    with pytest.raises(SystemExit, match="new_tokens was 4, is 5"):
        run("--new-tokens", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", 2, 3], "must all divide the largest"),
        (["--problems", 0], "--problems must be at least 1"),
        (["--teacher", "nowhere"], "--teacher: no checkpoint in nowhere"),
        (["--caches", "none", "nope"], "nope"),
        (["--task", "gsm8k"], "--task"),
        (["--json", "nowhere/x.json"], "there is no folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_decoded(run, decoded, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert message in said and "\n" not in said and not decoded
