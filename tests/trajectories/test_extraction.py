"""Trajectory extraction: what a row says, restarts, damaged parts, orders, bad input, several processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM

import d3llm.modeling  # noqa: F401
from d3llm.commands.main import main
from d3llm.common.fingerprints import fingerprint_weights
from d3llm.evaluation import encode_prompt
from d3llm.evaluation.answer_checks import ANSWERS, CHECKS, register_check
from d3llm.modeling import DreamModel
from d3llm.trainers.distill import DistillArguments, split_trajectories
from d3llm.trajectories import store as parts_module
from d3llm.trajectories.dataset import load_trajectories, read_decode_config
from d3llm.trajectories.extraction_progress import ExtractionProgress
from d3llm.trajectories.prompt_rows import load_rows
from d3llm.trajectories.row import STORED_FEATURES
from d3llm.trajectories.store import Parts
from d3llm.trajectories.trajectory_facts import trajectory_facts
from tests.helpers.commands import run_fails
from tests.helpers.extraction import EOS, MASK, NEW_TOKENS, contents, extract, rows_of, write_jsonl
from tests.helpers.forks import fork_ranks
from tests.helpers.models import OF_WORDS, WORDS, tiny_model


# What a row says


@pytest.mark.parametrize("decoding", [{}, {"preset": "d3llm", "threshold": 2.0}])
def test_every_state_of_the_canvas_follows_from_a_row(tiny, problems, tmp_path, decoding):
    model, tokenizer = tiny
    extract(tiny, problems, tmp_path / "out", decoding=decoding)
    rows, tails = rows_of(tmp_path / "out"), 0
    assert [row["id"] for row in rows] == [f"problems/train/{index}" for index in range(11)]
    for row, line in zip(rows, problems.read_text().splitlines(), strict=True):
        prompt = encode_prompt(tokenizer, json.loads(line)["prompt"])
        assert row["prompt_ids"] == prompt
        options = {"preset": "llada", "max_new_tokens": NEW_TOKENS, "block_size": 8, **decoding}
        output = model.generate(torch.tensor([prompt]), return_dict_in_generate=True, output_history=True, **options)
        response, steps = np.array(row["response_ids"]), np.array(row["commit_steps"])
        assert EOS not in response[:-1] and (response[-1] == EOS or len(response) == NEW_TOKENS)
        assert row["num_forwards"] == output.forward_passes[0] == output.history.shape[1]
        states = output.history[0, :, len(prompt) : len(prompt) + len(response)].numpy()
        for step, state in enumerate(states, start=1):
            # an EOS fills the positions after it before their own commit: only one inside the response is not final
            assert np.array_equal(np.where(steps <= step, response, MASK), state)
        canvas_steps = np.array(row["commit_steps"] + row["tail_steps"])
        for step, state in enumerate(output.history[0, :, len(prompt) :].numpy(), start=1):
            assert np.array_equal(canvas_steps > step, state == MASK)
        tails += len(set(row["tail_steps"])) > 1
        assert (row["source"], row["teacher"], row["correct"]) == ("teacher", "tiny", None)
        config = read_decode_config(row)
        assert {name: config[name] for name in options} == options
        assert (config["mask_token_id"], config["eos_token_id"], config["temperature"]) == (MASK, [EOS], 0.0)
    assert tails or decoding  # an EOS was committed in front of another one


def test_one_token_per_forward_is_the_default(tiny, problems, tmp_path):
    dream = tiny_model(DreamModel, **OF_WORDS)
    for name, model, score in (("llada", tiny[0], "probability"), ("dream", dream, "entropy")):
        extract((model, tiny[1]), problems, tmp_path / name)
        for row in rows_of(tmp_path / name):
            fields = read_decode_config(row)
            assert (fields["score"], fields["selection"], fields["block_size"]) == (score, "count", 8)
            assert len(set(row["commit_steps"])) == len(row["commit_steps"])
            blocks = np.arange(len(row["response_ids"])) // 8
            assert (np.diff(blocks[np.argsort(row["commit_steps"])]) >= 0).all()


@pytest.mark.slow
def test_rows_do_not_depend_on_chunks_and_batches(tiny, problems, tmp_path):
    options = {"temperatures": (1.5,)}
    extract(tiny, problems, tmp_path / "a", chunk_size=4, batch_size=3, **options)
    extract(tiny, problems, tmp_path / "b", chunk_size=11, batch_size=1, **options)
    extract(tiny, problems, tmp_path / "c", seed=1, **options)
    a, b, c = (rows_of(tmp_path / name) for name in "abc")
    assert a == b
    assert [row["response_ids"] for row in a] != [row["response_ids"] for row in c]
    # the same prompt, other noise: prompts 0 and 5 are equal
    assert a[0]["prompt_ids"] == a[5]["prompt_ids"] and a[0]["response_ids"] != a[5]["response_ids"]


def test_skipped_rows_change_no_other(tiny, problems, tmp_path):
    options = {"temperatures": (1.5,)}
    extract(tiny, problems, tmp_path / "all", **options)
    counts = extract(tiny, problems, tmp_path / "some", skip=3, limit=5, **options)
    assert counts.samples == 5
    assert rows_of(tmp_path / "some") == rows_of(tmp_path / "all")[3:8]
    extract(tiny, problems, tmp_path / "last", skip=9, limit=5, **options)
    assert rows_of(tmp_path / "last") == rows_of(tmp_path / "all")[9:]
    with pytest.raises(ValueError, match="has 11 rows, of which `skip` leaves none"):
        extract(tiny, problems, tmp_path / "none", skip=11)
    with pytest.raises(ValueError, match="skip was 3, is 5"):
        extract(tiny, problems, tmp_path / "some", skip=5, limit=5, **options)


def test_wrong_answers_are_tried_again_and_the_first_attempt_is_kept_of_hopeless_ones(
    tiny, problems, tmp_path, monkeypatch
):
    seen: dict[str, list[str]] = {}

    def check(text: str, answer: str) -> bool:
        seen.setdefault(answer, []).append(text)
        if answer == "three":
            return False
        return answer not in ("one", "two") or len(seen[answer]) == 3

    monkeypatch.setitem(CHECKS, "number", check)
    options = {"check": "number", "answer_column": "answer", "temperatures": (0.0, 1.0, 2.0, 3.0)}
    counts = extract(tiny, problems, tmp_path / "all", **options)
    greedy = extract(tiny, problems, tmp_path / "greedy") and rows_of(tmp_path / "greedy")
    rows = rows_of(tmp_path / "all")
    assert {answer: len(texts) for answer, texts in seen.items() if len(texts) > 1} == {"one": 3, "two": 3, "three": 4}
    temperatures = [read_decode_config(row)["temperature"] for row in rows]
    assert temperatures == [0.0, 2.0, 2.0, *[0.0] * 8]
    assert [row["correct"] for row in rows] == [True, True, True, False, *[True] * 7]
    assert rows[3]["response_ids"] == greedy[3]["response_ids"] and rows[1] != greedy[1]
    assert (counts.correct, counts.wrong, counts.retried, counts.rows) == (10, 1, 2, 11)

    seen.clear()
    counts = extract(tiny, problems, tmp_path / "correct", keep="correct", **options)
    assert rows_of(tmp_path / "correct") == rows[:3] + rows[4:]
    facts = trajectory_facts(tmp_path / "correct")
    assert (facts.rows, facts.checked, facts.correct) == (10, 10, 10)  # of what is there
    assert (counts.rows, counts.correct_rows, counts.wrong_rows, counts.share_correct) == (10, 10, 0, 10 / 11)


def test_a_retry_at_the_same_temperature_is_another_draw(tiny, problems, tmp_path, monkeypatch):
    seen: dict[str, list[str]] = {}
    monkeypatch.setitem(CHECKS, "number", lambda text, answer: bool(seen.setdefault(answer, []).append(text)))
    extract(tiny, problems, tmp_path / "out", check="number", answer_column="answer", temperatures=(1.5, 1.5, 1.5))
    assert {len(texts) for texts in seen.values()} == {3}
    assert all(len(set(texts)) > 1 for texts in seen.values())


def test_a_check_can_be_added(tiny, problems, tmp_path):
    register_check("third", lambda text, answer: answer == "two")
    try:
        counts = extract(tiny, problems, tmp_path / "out", check="third", answer_column="answer", temperatures=(0.0,))
        assert (counts.correct, counts.wrong) == (1, 10)
        with pytest.raises(ValueError, match="There is a check 'third' already"):
            register_check("third", lambda text, answer: True)
    finally:
        del CHECKS["third"], ANSWERS["third"]
    with pytest.raises(ValueError, match="expected 'none' or 'boxed', 'hash', 'number'"):
        extract(tiny, problems, tmp_path / "other", check="third", answer_column="answer")


@pytest.mark.parametrize(
    ("check", "text", "reference", "verdict"),
    [
        ("boxed", r"so \boxed{1,200}", "1200", True),
        ("boxed", r"so \boxed{12}", r"it is \boxed{13}", False),
        ("boxed", "so 12", "12", False),
        ("hash", "3 * 4\n#### 12", "long solution\n#### 12", True),
        ("hash", "#### 12", 12, True),
        ("hash", "12", "12", False),
        ("number", "it is 7, no, 12.", "12", True),
        ("code", "```python\ndef f(x):\n    return x + 1\n```", ["assert f(1) == 2", "assert f(2) == 3"], True),
        ("code", "def f(x):\n    return x", "assert f(1) == 2", False),
    ],
)
def test_answer_checks(check, text, reference, verdict):
    assert CHECKS[check](text, reference) is verdict


def test_a_prompt_without_room_is_left_out_by_name(tiny, tmp_path, caplog):
    rows = [{"prompt": "one"}, {"prompt": " ".join(["two"] * 110)}, {"prompt": "three"}]
    counts = extract(tiny, write_jsonl(tmp_path / "p.jsonl", rows), tmp_path / "out")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["p/train/0", "p/train/2"]
    assert counts.too_long == ["p/train/1"] and counts.samples == 3
    assert "p/train/1 is skipped: its prompt has 111 tokens, and the model has room for 104" in caplog.text


@pytest.mark.parametrize("kind", ["chat", "ids", "parquet", "folder"])
def test_prompts_may_be_chats_or_ids_in_any_file(tiny, problems, tmp_path, kind):
    extract(tiny, problems, tmp_path / "texts", limit=3)
    prompts = [json.loads(line)["prompt"] for line in problems.read_text().splitlines()][:3]
    if kind == "chat":
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
    if kind == "ids":
        prompts = [encode_prompt(tiny[1], prompt) for prompt in prompts]
    (tmp_path / "other").mkdir()
    path = write_jsonl(tmp_path / "other" / "problems.jsonl", [{"prompt": prompt} for prompt in prompts])
    if kind == "parquet":
        path = path.with_suffix(".parquet")
        pq.write_table(pa.table({"prompt": prompts}), path)
    extract(tiny, path.parent if kind == "folder" else path, tmp_path / "out")
    leave_out = ("id", "teacher")
    expected, found = (
        [{name: value for name, value in row.items() if name not in leave_out} for row in rows_of(tmp_path / folder)]
        for folder in ("texts", "out")
    )
    assert found == expected


def test_a_sample_without_an_answer_has_no_verdict_and_is_kept(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CHECKS, "number", lambda text, answer: answer == "right")
    answers = ["right", None, "wrong", "right"]
    problems = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "one", "answer": answer} for answer in answers])
    arguments = ["--teacher", str(tiny_checkpoint), "--dataset", str(problems), "--output", str(tmp_path / "out")]
    arguments += ["--check", "number", "--answer-column", "answer", "--keep", "correct", "--max-new-tokens", "8"]
    assert main(["extract", *arguments]) == 0
    assert "3 trajectories of 4 samples, 66.7% answered right, 1 without an answer in " in capsys.readouterr().out
    rows = load_trajectories(tmp_path / "out")
    assert list(rows["correct"]) == [True, None, True]
    kept, _ = split_trajectories(rows, DistillArguments(keep="correct"))
    assert list(kept["id"]) == list(rows["id"])  # the same word has the same meaning there


# The folder


def test_a_part_may_have_no_rows(tiny, problems, tmp_path, monkeypatch):
    options = {"check": "number", "answer_column": "answer", "temperatures": (0.0,), "keep": "correct"}
    monkeypatch.setitem(CHECKS, "number", lambda text, answer: answer == "eight")
    counts = extract(tiny, problems, tmp_path / "some", **options)
    assert (counts.samples, counts.rows) == (11, 1)
    assert [row["id"] for row in load_dataset(str(tmp_path / "some"), split="train")] == ["problems/train/8"]
    assert len(load_trajectories(tmp_path / "some")) == 1
    monkeypatch.setitem(CHECKS, "number", lambda text, answer: False)
    for _ in range(2):  # a finished extraction says it again
        with pytest.raises(ValueError, match="No trajectory is left of 11 samples: 11 were answered wrong"):
            extract(tiny, problems, tmp_path / "none", **options)
    with pytest.raises(ValueError, match="has no rows"):
        load_trajectories(tmp_path / "none")


def test_the_folder_is_a_data_set_with_a_card(tiny, problems, tmp_path):
    counts = extract(tiny, problems, tmp_path / "out", license="mit")
    assert sorted(contents(tmp_path / "out")) == [
        "README.md",
        *(f"data/train-{index:05d}-of-00003.parquet" for index in range(3)),
        "plan.json",
        "trajectory_facts.json",
    ]
    dataset = load_dataset(str(tmp_path / "out"), split="train")
    assert dataset.features == STORED_FEATURES and dataset.to_list() == rows_of(tmp_path / "out")
    assert load_trajectories(tmp_path / "out", vocab_size=16).to_list() == dataset.to_list()
    facts = trajectory_facts(tmp_path / "out", "mit")
    rows = dataset.to_list()
    assert facts.rows == counts.rows == 11
    assert facts.response_tokens == sum(len(row["response_ids"]) for row in rows)
    assert facts.forwards == facts.row_forwards == sum(row["num_forwards"] for row in rows)
    assert facts.cut == sum(row["response_ids"][-1] != EOS for row in rows)
    assert (facts.mask_token_id, facts.license, facts.checked) == (MASK, "mit", 0)
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


def test_an_interrupted_run_goes_on_where_it_was(tiny, problems, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    extract(tiny, problems, whole)
    write = parts_module.write_atomically

    def full_disk(path: Path, content: bytes):
        if "00001" in path.name:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(parts_module, "write_atomically", full_disk)
    with pytest.raises(OSError, match=r"No space left on device\. Finished parts stay"):
        extract(tiny, problems, broken)
    assert sorted(contents(broken)) == ["data/train-00000-of-00003.parquet", "plan.json"]
    with pytest.raises(ValueError, match="unfinished extraction"):
        load_trajectories(broken)
    with pytest.raises(ValueError, match="unfinished extraction"):
        trajectory_facts(broken)
    with pytest.raises(ValueError, match="unfinished extraction with 1 parts"):
        load_rows(str(broken), None, "train")
    monkeypatch.undo()

    start_run, started = tiny[0].start_run, []

    def counted(prompt, *args, **kwargs):
        started.extend(prompt)
        return start_run(prompt, *args, **kwargs)

    monkeypatch.setattr(tiny[0], "start_run", counted)
    extract(tiny, problems, broken)
    assert len(started) == 7  # two chunks of 4 and 3 samples
    assert contents(broken) == contents(whole)
    extract(tiny, problems, broken)
    assert len(started) == 7


def test_the_rate_is_that_of_this_run(tmp_path):
    parts = Parts(tmp_path, {"decode_config": {}}, 2)
    parts.write_plan()
    parts.write(0, [], {"samples": 8})
    with ExtractionProgress(parts, [1], 16, visible=True) as progress:
        assert progress.rate == 0  # the other part was there before
        parts.write(1, [], {"samples": 8})
        progress.update()
        assert 0 < progress.rate < 8 / 1e-6 and progress.counts.samples == 16


def test_an_extraction_that_lacks_its_last_part_is_not_finished(tiny, problems, tmp_path):
    extract(tiny, problems, tmp_path / "out")
    (tmp_path / "out" / "data" / "train-00002-of-00003.parquet").unlink()
    assert not Parts.open(tmp_path / "out").is_complete()
    with pytest.raises(ValueError, match="unfinished extraction"):
        trajectory_facts(tmp_path / "out")


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        parts_module.write_atomically(path, b"new")
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(
    "damage",
    [
        "flipped",
        "old version",
        *(pytest.param(damage, marks=pytest.mark.slow) for damage in ("truncated", "empty", "another schema")),
    ],
)
def test_a_damaged_part_is_made_again(tiny, problems, tmp_path, caplog, damage):
    folder = tmp_path / "out"
    extract(tiny, problems, folder)
    before = contents(folder)
    part = folder / "data" / "train-00001-of-00003.parquet"
    content = part.read_bytes()
    if damage in ("old version", "another schema"):
        table = pq.read_table(part)
        metadata = dict(table.schema.metadata)
        if damage == "old version":
            metadata[b"d3llm"] = metadata[b"d3llm"].replace(b'{"plan": "', b'{"plan": "0')
        else:
            table = table.drop_columns(["correct"])
        pq.write_table(table.replace_schema_metadata(metadata), part)
    else:
        middle = content.index(b"\x28\xb5\x2f\xfd") + 20  # inside the first page, which is compressed by zstd
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        part.write_bytes({"truncated": content[: len(content) // 2], "flipped": flipped, "empty": b""}[damage])
    (folder / "data" / "train-00000-of-00003.parquet").unlink()  # made first, when the other is still damaged
    (folder / "data" / ".train-00002-of-00003.parquet.77.tmp").write_bytes(b"half")
    extract(tiny, problems, folder)
    assert contents(folder) == before
    assert "train-00001-of-00003.parquet is made again" in caplog.text


def test_runs_are_not_mixed(tiny, problems, tmp_path):
    extract(tiny, problems, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"another run \(score was .*; threshold was 0.5, is 0.9\): give another"):
        extract(tiny, problems, tmp_path / "out", decoding={"preset": "llada", "threshold": 0.9, "score": "entropy"})
    with pytest.raises(ValueError, match="parts was 3, is 1; rows was "):
        extract(tiny, problems, tmp_path / "out", limit=4)
    write_jsonl(problems, [{"prompt": "one"}] * 11)
    with pytest.raises(ValueError, match=r"holds another run \(rows was "):
        extract(tiny, problems, tmp_path / "out")
    assert contents(tmp_path / "out") == before

    (tmp_path / "out" / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json is damaged"):
        extract(tiny, problems, tmp_path / "out")
    (tmp_path / "out" / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"holds data without a plan\.json"):
        extract(tiny, problems, tmp_path / "out")
    tiny[0].save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="model holds a model: give another --output"):
        extract(tiny, problems, tmp_path / "model")


def test_the_weights_are_part_of_the_plan(tiny):
    model = AutoModelForCausalLM.from_config(tiny[0].config)
    model.load_state_dict(tiny[0].state_dict())
    assert fingerprint_weights(model) == fingerprint_weights(tiny[0])
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert fingerprint_weights(model) != fingerprint_weights(tiny[0])


# The command line, and several processes


def arguments(tiny_checkpoint: Path, problems: Path, output: Path, *more: str) -> list[str]:
    fixed = ["--teacher", tiny_checkpoint, "--dataset", problems, "--output", output, "--device", "cpu"]
    return [str(part) for part in (*fixed, "--max-new-tokens", NEW_TOKENS, "--block-size", 8, *more)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--order", "random", "--response-column", "answer", "--temperatures", "0.3"], "--temperatures is for the"),
        (["--order", "ar", "--temperatures", "0", "0.3"], "leave it out with --order ar"),
        (["--allow-code-execution"], "--allow-code-execution is for --check code"),
        (["--check", "number", "--answer-column", "answer", "--allow-code-execution"], "is for --check code"),
    ],
)
def test_arguments_without_an_effect_are_refused(tmp_path, capsys, options, message):
    dataset = ["--dataset", str(tmp_path / "problems.jsonl"), "--output", str(tmp_path / "out")]
    assert message in run_fails(capsys, "extract", *dataset, *options)
    assert not (tmp_path / "out").exists()


def test_the_command_does_the_same(tiny, tiny_checkpoint, problems, tmp_path, capsys):
    line = arguments(tiny_checkpoint, problems, tmp_path / "out", "--chunk-size", "4", "--temperatures", "0.5")
    assert main(["extract", *line]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"11 trajectories of 11 samples in {tmp_path / 'out'}\n"
    assert "process 1 of 1 makes 3 parts" in captured.err and "extracting: 8 of 11, " in captured.err
    extract(tiny, problems, tmp_path / "same", temperatures=(0.5,))
    for found, expected in zip(rows_of(tmp_path / "out"), rows_of(tmp_path / "same"), strict=True):
        assert found == {**expected, "teacher": tiny_checkpoint.name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--teacher", "nowhere"], "No checkpoint in nowhere"),
        (["--dataset", "nowhere.jsonl"], "There is no file or folder nowhere.jsonl"),
        (["--split", "test"], "split 'test'"),
        (["--output", "problems.jsonl"], "is not a folder"),
        (["--temperature", "1"], "`temperature` is set by the extraction"),
        (["--blok-size", "1"], "did you mean `--block-size`"),
        (["--max-new-tokens", "500"], "exceed the 128 positions of the model"),
    ],
)
def test_the_command_says_what_is_wrong(tiny_checkpoint, problems, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    assert main(["extract", *arguments(tiny_checkpoint, problems, tmp_path / "out"), *change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("d3llm: error: ") and message in error
    assert not (tmp_path / "out").exists()


CPUS = {"ACCELERATE_USE_CPU": "true"}


def launch(line: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    command += ["--main_process_port=0", "-m", "d3llm.trajectories.extract", *line]
    environment = {**os.environ, **CPUS, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_of_which_one_is_killed(tiny, tiny_checkpoint, tmp_path):
    rows = [{"prompt": " ".join(WORDS[: 1 + index % 7])} for index in range(24)]
    problems = write_jsonl(tmp_path / "problems.jsonl", rows)
    options = ["--chunk-size", "1", "--temperatures", "1.0", "--early-stop", "false"]
    folder = tmp_path / "killed"
    run = launch(arguments(tiny_checkpoint, problems, folder, *options))
    data = folder / "data"
    deadline = time.monotonic() + 120
    while len(list(data.glob("*.parquet")) if data.exists() else []) < 4:
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[1]
        time.sleep(0.01)
    workers = [child for child in psutil.Process(run.pid).children(recursive=True) if "--teacher" in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    assert run.wait(timeout=60) != 0
    done = {path.name: path.stat().st_mtime_ns for path in data.glob("*.parquet")}
    assert 4 <= len(done) < 24 and not (folder / "README.md").exists()

    line = ["extract", *arguments(tiny_checkpoint, problems, folder, *options)]
    ranks = [rank.wait() for rank in fork_ranks(main, line, environment=CPUS)]
    out, err = ("".join(parts) for parts in zip(*(rank[1:] for rank in ranks), strict=True))
    assert [rank.returncode for rank in ranks] == [0, 0], err
    share = -(-(24 - len(done)) // 2)
    assert f"process 1 of 2 makes {share} parts" in err and "process 2 of 2 makes" in err
    assert "24 trajectories of 24 samples" in out
    assert all((data / name).stat().st_mtime_ns == written for name, written in done.items())

    alone = tmp_path / "alone"
    assert main(["extract", *arguments(tiny_checkpoint, problems, alone, *options)]) == 0
    assert contents(folder) == contents(alone)


def test_processes_that_know_nothing_of_each_other_are_refused(tiny, problems, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched, but only 1 joined one group"):
        extract(tiny, problems, tmp_path / "out")


def test_a_folder_that_is_no_extraction(tmp_path):
    with pytest.raises(OSError, match=r"has no plan\.json"):
        Parts.open(tmp_path)
