"""The benchmark of drafters measures all ways on the same prompts, and notices texts that differ."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from benchmarks import drafter_prompts, introspective
from d3llm import checkpoint_path
from tests.helpers.introspective import random_drafter, tiny_causal


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model with the tokenizer of the quickstart, and a drafter that drafts nonsense."""
    folder = tmp_path_factory.mktemp("introspective")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path("teacher"))
    base = tiny_causal("llama", vocab_size=len(tokenizer), num_hidden_layers=3, eos_token_id=tokenizer.eos_token_id)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    random_drafter(base).save_pretrained(folder / "drafter")
    return folder


def run(monkeypatch, folders, *arguments):
    given = ["--base", folders / "base", "--drafter", folders / "drafter", "--new-tokens", 12, "--threads", 1]
    monkeypatch.setattr("sys.argv", ["introspective", *map(str, [*given, *arguments])])
    introspective.main()


def test_all_ways_are_measured_on_the_same_prompts(monkeypatch, tmp_path, folders, capsys):
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"{n} apples?"}) + "\n" for n in range(5)))
    run(monkeypatch, folders, "--prompts", 4, "--gsm8k", questions, "--json", tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["way"] for row in rows] == list(introspective.WAYS)
    plain, packed, drafter = rows[:3]
    assert packed["forwards"] == plain["forwards"]
    assert plain["tokens"] == plain["forwards"] and all(row["tokens"] == plain["tokens"] for row in rows)
    assert all(row["identical"] == 1.0 and row["prompts"] == 4 for row in rows)
    assert sum(drafter["proposed"]) > 0 and drafter["row_forwards"] > drafter["forwards"]
    assert drafter["tokens"] == drafter["forwards"] + sum(drafter["accepted"])
    assert drafter["kinds"]["gsm8k"]["tokens"] + drafter["kinds"]["instruction"]["tokens"] == drafter["tokens"]
    low, high = drafter["times_faster_interval"]
    assert low <= drafter["times_faster"] <= high
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert str(tmp_path) not in (tmp_path / "out.json").read_text()


def test_prompts_are_drawn_of_each_kind_and_never_of_a_training_split(monkeypatch, tmp_path):
    descriptions = tmp_path / "mbpp.jsonl"
    lines = [json.dumps({"task_id": number, "text": f"task {number}"}) for number in (1, 11, 510, 511, 974)]
    descriptions.write_text("\n".join(lines))
    monkeypatch.setattr("sys.argv", ["x", "--base", "b", "--drafter", "d", "--mbpp", str(descriptions)])
    args = introspective.parse_arguments()
    drawn = introspective.draw_prompts(args)
    assert [kind for kind, _ in drawn[:4]] == ["instruction", "mbpp", "instruction", "mbpp"]
    assert {prompt for kind, prompt in drawn if kind == "mbpp"} == {"task 11", "task 510"}
    assert drawn == introspective.draw_prompts(args)


def test_a_text_that_differs_is_an_error_and_named(monkeypatch, tmp_path, folders):
    generate = introspective.IntrospectiveModel.generate

    def wrong(model, *args, **kwargs):
        output = generate(model, *args, **kwargs)
        output.sequences = torch.cat([output.sequences[:, :-1], output.sequences[:, -1:] ^ 1], dim=1)
        return output

    monkeypatch.setattr(introspective.IntrospectiveModel, "generate", wrong)
    with pytest.raises(SystemExit, match="some texts differ"):
        run(monkeypatch, folders, "--prompts", 2, "--ways", "drafter", "--json", tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert rows[1]["identical"] == 0.0 and len(rows[1]["differing"]) == 2


def test_a_base_that_is_not_there_is_told_in_one_line(monkeypatch, tmp_path, folders, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, folders, "--base", tmp_path / "nothing")
    assert str(stopped.value.code).startswith("introspective: error: ")


def test_the_drafter_is_not_trained_on_what_is_measured(tmp_path):
    (tmp_path / "gsm8k").write_text('{"question": "1 + 1?"}\n')
    lines = [json.dumps({"task_id": number, "text": f"task {number}"}) for number in range(1, 975)]
    (tmp_path / "mbpp").write_text("\n".join(lines))
    drawn = drafter_prompts.draw_prompts(tmp_path / "gsm8k", tmp_path / "mbpp", 2000, seed=0)
    prompts = {row["prompt"] for row in drawn}
    assert len({row["id"] for row in drawn}) == len(drawn) == len(prompts) == 1000 + 1 + 464
    assert prompts.isdisjoint(introspective.INSTRUCTIONS.read_text(encoding="utf-8").splitlines())
    assert not any(f"task {number}" in prompts for number in introspective.MBPP_TEST)
    assert drawn == drafter_prompts.draw_prompts(tmp_path / "gsm8k", tmp_path / "mbpp", 2000, seed=0)
