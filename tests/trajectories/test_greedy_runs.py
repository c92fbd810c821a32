"""The texts of an autoregressive model: its argmax, one token per forward; loops, resumption, and what is refused."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from d3llm.commands.main import main
from d3llm.trajectories.dataset import load_trajectories
from d3llm.trajectories.greedy_runs import ends_in_loop
from tests.helpers.extraction import EOS, contents, extract, rows_of
from tests.helpers.models import tiny_autoregressive


NEW = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def causal(tiny_checkpoint):
    return tiny_autoregressive(), AutoTokenizer.from_pretrained(tiny_checkpoint)


@torch.no_grad()
def greedy(model, prompt_ids: list[int], tokens: int) -> list[int]:
    text = list(prompt_ids)
    for _ in range(tokens):
        text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
        if text[-1] == EOS:
            break
    return text[len(prompt_ids) :]


def test_a_row_is_the_argmax_of_the_model_from_left_to_right(causal, problems, tmp_path):
    model, _ = causal
    model.generation_config.repetition_penalty = 5.0  # of the model's own sampling: it would change every text
    try:
        counts = extract(causal, problems, tmp_path / "out", order="ar", decoding=NEW, loops="keep")
    finally:
        model.generation_config.repetition_penalty = None
    rows = rows_of(tmp_path / "out")
    assert len(rows) == counts.rows == 11
    for row in rows:
        assert row["response_ids"] == greedy(model, row["prompt_ids"], 12)
        assert row["commit_steps"] == list(range(1, len(row["response_ids"]) + 1))
        assert row["num_forwards"] == len(row["response_ids"])
        assert row["source"] == "ar"
        assert json.loads(row["decode_config"])["mask_token_id"] is None
    assert len(load_trajectories(tmp_path / "out", vocab_size=16)) == 11
    card = (tmp_path / "out" / "README.md").read_text()
    assert "autoregressive" in card and "np.where" not in card


def test_texts_that_end_in_a_loop_are_dropped_and_counted(causal, problems, tmp_path, monkeypatch):
    monkeypatch.setattr(causal[0].generation_config, "eos_token_id", 2)  # the model goes on where it would have ended
    long = {"max_new_tokens": 60}
    kept = extract(causal, problems, tmp_path / "all", order="ar", decoding=long, loops="keep")
    looping = [row["id"] for row in rows_of(tmp_path / "all") if ends_in_loop(row["response_ids"], [2])]
    assert 0 < len(looping) < 11 and kept.looping == len(looping)
    dropped = extract(causal, problems, tmp_path / "out", order="ar", decoding=long)
    assert dropped.looping == len(looping) and dropped.rows == 11 - len(looping)
    assert not {row["id"] for row in rows_of(tmp_path / "out")} & set(looping)


def test_what_counts_as_a_loop():
    text = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    assert not ends_in_loop(text, [EOS])
    assert not ends_in_loop([*text, 7, 7, 7, 7])
    assert ends_in_loop([*text, *text[:16]])
    assert ends_in_loop([7] * 32) and not ends_in_loop([7] * 31)
    assert ends_in_loop([*text, *[300, 301] * 16, EOS], [EOS])
    assert not ends_in_loop([])


def test_a_missing_part_is_made_again(causal, problems, tmp_path):
    extract(causal, problems, tmp_path / "out", order="ar", decoding=NEW, loops="keep")
    before = contents(tmp_path / "out")
    next((tmp_path / "out" / "data").glob("train-00001*")).unlink()
    extract(causal, problems, tmp_path / "out", order="ar", decoding=NEW, loops="keep", batch_size=1)
    assert contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match="loops was"):
        extract(causal, problems, tmp_path / "out", order="ar", decoding=NEW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "ar", "decoding": {"block_size": 8}}, "`block_size` is a field of diffusion models"),
        ({"order": "ar", "decoding": {"max_new_tokens": 40_000}}, "commit steps go up to"),
        ({"order": "ar", "response_column": "answer"}, "has no use for a column"),
        ({"order": "random", "response_column": "answer", "loops": "keep"}, "`loops` is for the texts of order='ar'"),
        ({"order": "random", "response_column": "answer"}, "is for masked-diffusion models"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(causal, problems, tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        extract(causal, problems, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_diffusion_model_has_no_greedy_text(tiny, problems, tmp_path):
    with pytest.raises(ValueError, match="is for autoregressive models"):
        extract(tiny, problems, tmp_path / "out", order="ar")


def test_the_command(causal, problems, tmp_path, capsys):
    model, tokenizer = causal
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = ["--dataset", problems, "--output", tmp_path / "out", "--order", "ar", "--max-new-tokens", "12"]
    main(["extract", "--model", *map(str, [tmp_path / "base", *options, "--loops", "keep"])])
    assert "11 trajectories of 11 samples" in capsys.readouterr().out
    assert rows_of(tmp_path / "out")[0]["teacher"] == "base"
