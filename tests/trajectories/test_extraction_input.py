"""Rows, datasets and settings that an extraction or a training cannot use: an error names them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

import d3llm.modeling  # noqa: F401
from d3llm.trajectories.dataset import load_trajectories
from d3llm.trajectories.extract import ExtractionConfig
from d3llm.trajectories.prompt_rows import load_rows
from d3llm.trajectories.row import TRAJECTORY_FEATURES
from tests.helpers.extraction import extract, write_jsonl


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
        ("types", {name: [0.5] for name in GOOD}, "have other types than expected"),
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
    for content, message in ((b"", "it has no rows"), (b"{", "ArrowInvalid: JSON parse error")):
        (tmp_path / "broken.jsonl").write_bytes(content)
        with pytest.raises(OSError, match=message):
            load_trajectories(tmp_path / "broken.jsonl")


def test_splits_of_a_folder_have_their_own_parts(tmp_path):
    for split in ("train", "test"):
        pq.write_table(pa.table({"prompt": [split]}), tmp_path / f"{split}-00000-of-00001.parquet")
    assert load_rows(str(tmp_path), None, "test")["prompt"] == ["test"]
    (tmp_path / "test-00000-of-00001.parquet").rename(tmp_path / "test-00000-of-00002.parquet")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="unfinished extraction with 2 parts"):
        load_rows(str(tmp_path), None, "test")


def test_a_shard_of_a_dataset_that_is_not_an_extraction_may_be_chosen(tmp_path):
    pq.write_table(pa.table({"prompt": ["one"]}), tmp_path / "train-00000-of-00002.parquet")
    assert load_rows(str(tmp_path), None, "train")["prompt"] == ["one"]


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
        ({"order": "ar_buckets", "response_column": "r"}, "belong together"),
        ({"order_buckets": 4}, "`order_buckets` is for order='ar_buckets'"),
        ({"check": "code", "answer_column": "a"}, "allow it with --allow-code-execution"),
        ({"keep": "correct"}, "needs a check"),
        ({"keep": "corrected", "response_column": "answer"}, "needs a check"),
        ({"keep": "corrected", "check": "hash", "answer_column": "a"}, "needs a column: --response-column"),
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
