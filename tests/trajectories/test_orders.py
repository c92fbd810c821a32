"""Orders of commit steps that need no run of a teacher, and published trajectories."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from d3llm.commands.main import main
from d3llm.evaluation import encode_prompt
from d3llm.trajectories.dataset import load_trajectories
from d3llm.trajectories.published import read_published
from tests.helpers.extraction import EOS, MASK, NEW_TOKENS, extract, rows_of, write_jsonl
from tests.helpers.models import tiny_autoregressive


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


def test_what_follows_an_eos_has_no_part_in_the_order(tiny, tmp_path):
    rows = [
        {"prompt": "one", "response": [5, 6, 7, EOS, 8, 9, EOS], "order": [3, 1, 2, 4, 9, 9, 9]},
        {"prompt": "one", "response": [5, 6, 7, EOS], "order": [3, 1, 2, 4]},
    ]
    path = write_jsonl(tmp_path / "given.jsonl", rows)
    for order, options in (("left_to_right", {}), ("random", {}), ("column", {"order_column": "order"})):
        extract(tiny, path, tmp_path / order, order=order, response_column="response", **options)
        for row in rows_of(tmp_path / order):
            assert row["response_ids"] == [5, 6, 7, EOS] and row["num_forwards"] == 4
            assert sorted(row["commit_steps"]) == [1, 2, 3, 4]


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


def test_buckets_begin_with_what_an_autoregressive_model_finds_hardest(tiny, tmp_path, order_model):
    path = write_jsonl(tmp_path / "given.jsonl", RESPONSES)
    options = {"response_column": "response", "order_model": str(order_model)}
    extract(tiny, path, tmp_path / "rank", order="ar_rank", **options)
    extract(tiny, path, tmp_path / "buckets", order="ar_buckets", order_buckets=3, **options)
    for easy, hard in zip(rows_of(tmp_path / "rank"), rows_of(tmp_path / "buckets"), strict=True):
        length, steps = len(easy["commit_steps"]), hard["commit_steps"]
        hardest_first = [length - place for place in easy["commit_steps"]]
        assert steps == [1 + place * min(3, length) // length for place in hardest_first]
        assert hard["num_forwards"] == max(steps) == min(3, length) and hard["source"] == "ar_buckets"
    with pytest.raises(ValueError, match="order_buckets was 3, is 8"):
        extract(tiny, path, tmp_path / "buckets", order="ar_buckets", **options)
    model = LlamaForCausalLM.from_pretrained(order_model)
    model.lm_head.weight.data *= 2
    model.save_pretrained(order_model)
    with pytest.raises(ValueError, match="order_weights was"):
        extract(tiny, path, tmp_path / "rank", order="ar_rank", **options)


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
