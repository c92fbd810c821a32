"""Trajectory extraction: what a row says, restarts, damaged parts, orders, bad input, several processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import d3llm.modeling  # noqa: F401
from d3llm.commands.main import main
from d3llm.common.fingerprints import fingerprint_weights
from d3llm.evaluation import encode_prompt
from d3llm.evaluation.answer_checks import CHECKS
from d3llm.modeling import DreamModel
from d3llm.trainers.distill import DistillArguments, split_trajectories
from d3llm.trajectories import store as parts_module
from d3llm.trajectories.dataset import load_trajectories, read_decode_config
from d3llm.trajectories.extract import ExtractionConfig, extract_trajectories
from d3llm.trajectories.extraction_progress import ExtractionProgress
from d3llm.trajectories.published import read_published
from d3llm.trajectories.row import STORED_FEATURES, TRAJECTORY_FEATURES
from d3llm.trajectories.store import Parts
from d3llm.trajectories.trajectory_facts import trajectory_facts
from tests.helpers.models import OF_WORDS, WORDS, tiny_autoregressive, tiny_model


EOS, MASK = 0, 1
NEW_TOKENS = 24


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Eleven prompts of different lengths."""
    rows = [{"prompt": " ".join(WORDS[: 1 + index % 5]), "answer": WORDS[index]} for index in range(11)]
    return write_jsonl(tmp_path / "problems.jsonl", rows)


def extract(tiny, dataset: Path, output: Path, **options):
    options = {"chunk_size": 4, "batch_size": 3, **options}
    if options.get("order", "teacher") == "teacher":
        options["decoding"] = {"max_new_tokens": NEW_TOKENS, "block_size": 8, **options.get("decoding", {})}
    return extract_trajectories(*tiny, ExtractionConfig(str(dataset), output, "tiny", **options))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("data/*.parquet"))]).to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


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
            # an EOS fills the positions behind it before their own commit: only one inside the response is not final
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
    assert facts.forwards == sum(row["num_forwards"] for row in rows)
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
    monkeypatch.undo()

    generate, calls = tiny[0].generate, []
    monkeypatch.setattr(tiny[0], "generate", lambda *args, **kwargs: calls.append(1) or generate(*args, **kwargs))
    extract(tiny, problems, broken)
    assert len(calls) == 3  # two chunks of 4 and 3 samples in batches of 3
    assert contents(broken) == contents(whole)
    extract(tiny, problems, broken)
    assert len(calls) == 3


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


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "old version", "another schema"])
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


def test_the_weights_are_part_of_the_plan(tiny):
    model = AutoModelForCausalLM.from_config(tiny[0].config)
    model.load_state_dict(tiny[0].state_dict())
    assert fingerprint_weights(model) == fingerprint_weights(tiny[0])
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert fingerprint_weights(model) != fingerprint_weights(tiny[0])


# Orders


RESPONSES = [
    {"prompt": "one", "response": "two plus three is five", "order": [3, 1, 2, 5, 4, 6]},
    {"prompt": "six", "response": "seven", "order": [2, 1]},
]


def test_orders_that_need_no_run(tiny, tmp_path):
    path = write_jsonl(tmp_path / "given.jsonl", RESPONSES)
    ids = [[*tiny[1](row["response"])["input_ids"], EOS] for row in RESPONSES]
    for order, options in (
        ("left_to_right", {}),
        ("random", {}),
        ("column", {"order_column": "order"}),
    ):
        extract(tiny, path, tmp_path / order, order=order, response_column="response", **options)
        rows = rows_of(tmp_path / order)
        assert [row["response_ids"] for row in rows] == ids
        assert [row["source"] for row in rows] == [order] * 2
        assert [row["num_forwards"] for row in rows] == [6, 2]
        assert all(sorted(row["commit_steps"]) == list(range(1, row["num_forwards"] + 1)) for row in rows)
        load_trajectories(tmp_path / order, vocab_size=16)
    assert [row["commit_steps"] for row in rows_of(tmp_path / "left_to_right")] == [[1, 2, 3, 4, 5, 6], [1, 2]]
    assert [row["commit_steps"] for row in rows_of(tmp_path / "column")] == [row["order"] for row in RESPONSES]
    again = {"order": "random", "response_column": "response", "chunk_size": 1}
    extract(tiny, path, tmp_path / "again", **again)
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "random")
    extract(tiny, path, tmp_path / "other", seed=1, **again)
    assert rows_of(tmp_path / "other")[0]["commit_steps"] != rows_of(tmp_path / "random")[0]["commit_steps"]


def test_forwards_of_a_column_that_commits_several_tokens_at_once(tiny, tmp_path):
    row = {"prompt": "one", "response": "two plus three is five", "order": [1, 1, 2, 2, 3, 3]}
    path = write_jsonl(tmp_path / "given.jsonl", [row])
    extract(tiny, path, tmp_path / "out", order="column", response_column="response", order_column="order")
    assert [row["num_forwards"] for row in rows_of(tmp_path / "out")] == [3]


def test_the_order_of_an_extraction_can_be_replaced(tiny, problems, tmp_path):
    extract(tiny, problems, tmp_path / "run")
    columns = {"prompt_column": "prompt_ids", "response_column": "response_ids"}
    extract(tiny, tmp_path / "run", tmp_path / "random", order="random", **columns)
    before, after = rows_of(tmp_path / "run"), rows_of(tmp_path / "random")
    for old, new in zip(before, after, strict=True):
        assert (old["prompt_ids"], old["response_ids"]) == (new["prompt_ids"], new["response_ids"])
    assert [row["commit_steps"] for row in before] != [row["commit_steps"] for row in after]


@pytest.fixture
def order_model(tiny, tmp_path) -> Path:
    tiny_autoregressive().save_pretrained(tmp_path / "ar")
    tiny[1].save_pretrained(tmp_path / "ar")
    return tmp_path / "ar"


def test_the_rank_of_an_autoregressive_model(tiny, tmp_path, order_model):
    path = write_jsonl(tmp_path / "given.jsonl", RESPONSES)
    options = {"order": "ar_rank", "response_column": "response", "order_model": str(order_model)}
    extract(tiny, path, tmp_path / "out", batch_size=2, **options)
    model = LlamaForCausalLM.from_pretrained(order_model)
    for row in rows_of(tmp_path / "out"):
        ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
        with torch.no_grad():
            log_probabilities = model(ids).logits.log_softmax(dim=-1)[0, len(row["prompt_ids"]) - 1 : -1]
        chosen = log_probabilities.gather(1, torch.tensor(row["response_ids"])[:, None])[:, 0]
        assert chosen.argsort(descending=True).argsort().add(1).tolist() == row["commit_steps"]


def test_the_command_ranks_with_a_model_that_has_its_weights(tiny_checkpoint, tmp_path, order_model, capsys):
    """Those of the teacher are not loaded."""
    path = write_jsonl(tmp_path / "given.jsonl", RESPONSES)
    options = ["--dataset", path, "--output", tmp_path / "out", "--response-column", "response", "--order", "ar_rank"]
    command = [str(part) for part in ["extract", "--teacher", tiny_checkpoint, "--device", "cpu", *options]]
    assert main([*command, "--order-model", str(tiny_checkpoint)]) == 2
    assert "is a masked-diffusion model: give an autoregressive one" in capsys.readouterr().err
    assert main([*command, "--order-model", str(order_model)]) == 0
    assert len(rows_of(tmp_path / "out")) == len(RESPONSES)


def test_another_tokenizer_cannot_rank(tiny, tmp_path, order_model):
    vocabulary = json.loads((order_model / "tokenizer.json").read_text())
    vocab = vocabulary["model"]["vocab"]
    vocab["six"], vocab["seven"] = vocab["seven"], vocab["six"]
    (order_model / "tokenizer.json").write_text(json.dumps(vocabulary))
    path = write_jsonl(tmp_path / "given.jsonl", RESPONSES)
    with pytest.raises(ValueError, match="other token ids than the teacher"):
        extract(tiny, path, tmp_path / "o", order="ar_rank", response_column="response", order_model=str(order_model))


def test_published_trajectories_become_commit_steps(tiny, tmp_path):
    model, tokenizer = tiny
    records, outputs = [], []
    for prompt in ("one", "two plus three", "four is"):
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        output = model.generate(
            ids,
            preset="llada",
            block_size=8,
            max_new_tokens=NEW_TOKENS,
            early_stop=False,
            return_dict_in_generate=True,
            output_history=True,
        )
        outputs.append(output)
        records.append(
            {
                "question": prompt,
                "prompt_ids": ids[0].tolist(),
                "trajectory": output.history[0].tolist(),
                "is_correct": prompt != "one",
            }
        )
    path = write_jsonl(tmp_path / "published.jsonl", records)
    extract(tiny, path, tmp_path / "out", order="published", prompt_column="prompt_ids")
    for row, record, output in zip(rows_of(tmp_path / "out"), records, outputs, strict=True):
        length = len(row["response_ids"])
        generated = output.sequences[0, len(record["prompt_ids"]) :].tolist()
        assert row["response_ids"] == generated[:length] and (EOS not in generated or generated[length - 1] == EOS)
        assert row["commit_steps"] == output.commit_steps[0, :length].tolist()
        assert row["num_forwards"] == NEW_TOKENS and row["correct"] == record["is_correct"]
    extract(tiny, path, tmp_path / "correct", order="published", prompt_column="prompt_ids", keep="correct")
    assert len(rows_of(tmp_path / "correct")) == 2


@pytest.mark.parametrize(
    ("trajectory", "message"),
    [
        ([], "empty"),
        ([[5, 1, 1], [5, 1]], "different lengths"),
        ([[6, 1, 3], [6, 2, 3]], "do not begin with its prompt"),
        ([[5, 1, 1], [5, 1, 3]], "1 masks left"),
        ([[5, 1, 3], [5, 2, 4]], "a committed token changes"),
        ([[5, 2, 1], [5, 1, 3], [5, 2, 3]], "a committed token changes"),
    ],
)
def test_published_rows_that_cannot_be_used(trajectory, message):
    with pytest.raises(ValueError, match=message):
        read_published([5], trajectory, MASK)


# Bad input


GOOD = {
    "id": "a/0",
    "prompt_ids": [1, 2],
    "response_ids": [3, 4, 0],
    "commit_steps": [2, 1, 3],
    "num_forwards": 3,
    "correct": None,
    "source": "teacher",
    "teacher": "t",
    "decode_config": "{}",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a/0"}, "'a/0' occurs twice"),
        ({"prompt_ids": []}, "'a/1' has an empty prompt"),
        ({"response_ids": [], "commit_steps": []}, "'a/1' has an empty response"),
        ({"commit_steps": [1, 2]}, "'a/1' has a response of another length than its commit steps"),
        ({"prompt_ids": [10]}, "'a/1' has `prompt_ids` outside the vocabulary of 10"),
        ({"response_ids": [3, -4, 0]}, "'a/1' has `response_ids` outside the vocabulary of 10"),
        ({"commit_steps": [1, -1, 2]}, "'a/1' has a negative commit step"),
        ({"commit_steps": [1, 4, 2]}, "'a/1' has a commit step above its `num_forwards`"),
        ({"response_ids": None}, "'a/1' has no `response_ids`"),
        ({"response_ids": [1, None, 2]}, "'a/1' has no `response_ids`"),
        ({"teacher": None}, "'a/1' has no `teacher`"),
    ],
)
def test_rows_that_are_no_trajectories(tmp_path, change, message):
    Dataset.from_list([GOOD, {**GOOD, "id": "a/1"}], features=TRAJECTORY_FEATURES).to_parquet(
        tmp_path / "good.parquet"
    )
    assert len(load_trajectories(tmp_path / "good.parquet", vocab_size=10)) == 2
    rows = [GOOD, {**GOOD, "id": "a/1", **change}]
    Dataset.from_list(rows, features=TRAJECTORY_FEATURES).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=message):
        load_trajectories(tmp_path / "bad.parquet", vocab_size=10)


def test_data_sets_that_are_no_trajectories(tmp_path):
    for name, rows, message in (
        ("columns", {"prompt_ids": [[1]]}, "it has no id, response_ids"),
        ("types", {name: [0.5] for name in GOOD}, "are not those of a trajectory dataset"),
    ):
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
        with pytest.raises(ValueError, match=message):
            load_trajectories(tmp_path / f"{name}.parquet")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="holds no Parquet files"):
        load_trajectories(tmp_path / "nothing")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(OSError, match="Cannot load trajectories"):
        load_trajectories(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, r"bad\.jsonl is empty"),
        ([{"question": "one"}], {}, "has no column 'prompt', only question"),
        ([{"prompt": "one"}, {"prompt": " "}], {}, r"The prompt of bad/train/1 is empty"),
        (
            [{"prompt": [2, 16]}],
            {},
            "bad/train/0 cannot be used: it has ids from 2 to 16, and the vocabulary has 16",
        ),
        ([{"prompt": [{"role": "user"}]}], {"chat": False}, r"bad/train/0\[0\]\['content'\] is missing"),
        ([{"prompt": "one"}], {"order": "random", "response_column": "response"}, "has no column 'response'"),
        (
            [{"prompt": "one", "response": ""}],
            {"order": "random", "response_column": "response"},
            "bad/train/0 has no response",
        ),
        (
            [{"prompt": "one", "response": [3, 99]}],
            {"order": "random", "response_column": "response"},
            "The response of bad/train/0 cannot be used: it has ids from 3 to 99",
        ),
        (
            [{"prompt": "one", "response": "two", "order": [1]}],
            {"order": "column", "response_column": "response", "order_column": "order"},
            "bad/train/0 .column 'order'. has 1 commit steps, and the response 2 tokens, with its EOS",
        ),
        (
            [{"prompt": "one", "response": "two", "order": [1, 40000]}],
            {"order": "column", "response_column": "response", "order_column": "order"},
            "expected less than or equal to 32767",
        ),
    ],
)
def test_data_sets_that_cannot_be_extracted(tiny, tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=message):
        extract(tiny, write_jsonl(tmp_path / "bad.jsonl", rows), tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/data/*.parquet"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "sideways"}, "`order` is 'sideways': expected 'teacher'"),
        ({"check": "feeling"}, "`check` is 'feeling': expected 'none'"),
        ({"keep": "some"}, "`keep` is 'some': expected "),
        ({"check": "hash"}, "needs a column: --answer-column"),
        ({"answer_column": "a"}, "has no use for a column: --answer-column"),
        ({"order": "random"}, "needs a column: --response-column"),
        ({"order": "ar_rank", "response_column": "r"}, "belong together"),
        ({"check": "code", "answer_column": "a"}, "allow it with --allow-code-execution"),
        ({"keep": "correct"}, "needs a check"),
        ({"temperatures": ()}, "at least 1 item"),
        ({"chunk_size": 0}, "`chunk_size` is 0: expected greater than or equal to 1"),
        ({"decoding": {"temperature": 1.0}}, "`temperature` is set by the extraction"),
        ({"order": "published", "decoding": {"preset": "llada"}}, "Nothing is decoded"),
        ({"order": "published", "check": "hash", "answer_column": "a"}, "A check is for the teacher's answers"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ExtractionConfig("data.jsonl", tmp_path / "out", "tiny", **options)


# The command line, and several processes


def arguments(tiny_checkpoint: Path, problems: Path, output: Path, *more: str) -> list[str]:
    fixed = ["--teacher", tiny_checkpoint, "--dataset", problems, "--output", output, "--device", "cpu"]
    return [str(part) for part in (*fixed, "--max-new-tokens", NEW_TOKENS, "--block-size", 8, *more)]


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


ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")


def launch(launcher: tuple[str, ...], line: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", *launcher, "-m", "d3llm.trajectories.extract", *line]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.processes
def test_two_processes_of_which_one_is_killed(tiny, tiny_checkpoint, tmp_path):
    rows = [{"prompt": " ".join(WORDS[: 1 + index % 7])} for index in range(24)]
    problems = write_jsonl(tmp_path / "problems.jsonl", rows)
    options = ["--chunk-size", "1", "--temperatures", "1.0", "--early-stop", "false"]
    folder = tmp_path / "killed"
    run = launch(ACCELERATE, arguments(tiny_checkpoint, problems, folder, *options))
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

    resumed = launch(TORCHRUN, arguments(tiny_checkpoint, problems, folder, *options))
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
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
