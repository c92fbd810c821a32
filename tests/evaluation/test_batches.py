"""What comes out of a batch belongs to the prompt that went in, and costs what it cost that row."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import d3llm.modeling  # noqa: F401
from d3llm.evaluation import encode_prompt, generate_as_rows_finish, generate_in_batches
from d3llm.evaluation.autoregressive import generate_autoregressively
from d3llm.evaluation.batches import DecodedBatch, DecodedRow, batch_indices
from d3llm.evaluation.choices import choose_in_batches
from d3llm.evaluation.measurement import measure_samples
from d3llm.evaluation.tasks import Sample, Task
from tests.helpers.models import tiny_autoregressive
from tests.helpers.results import settings


PROMPTS = ["one", "two plus three", "five is six plus", "seven is"]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def autoregressive() -> LlamaForCausalLM:
    return tiny_autoregressive()


def test_return_sequences_are_those_of_their_prompt(tiny_checkpoint, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    options = {"preset": "llada", "max_new_tokens": 8, "block_size": 8, "temperature": 2.0, "num_return_sequences": 2}
    seeds = [11, 12, 13, 14]
    batches = generate_in_batches(model, tokenizer, PROMPTS, batch_size=4, seeds=seeds, **options)
    found = {(row.index, row.sequence): row.token_ids for batch in batches for row in batch.rows}
    assert sorted(found) == [(index, sequence) for index in range(4) for sequence in range(2)]
    for index, prompt in enumerate(PROMPTS):
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        alone = model.generate(ids, seed=seeds[index], **options)[:, ids.shape[1] :].tolist()
        for sequence, tokens in enumerate(alone):
            assert found[index, sequence] == tokens[: len(found[index, sequence])]


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "d3llm", "threshold": 1.5, "temperature": 1.0},
        {"preset": "llada", "steps": 6},
        {"preset": "llada", "steps": 6, "cfg_scale": 1.0},  # which no row may join
        {"preset": "llada", "temperature": 2.0, "num_return_sequences": 2},
    ],
)
def test_rows_that_are_let_in_have_the_output_of_fixed_batches(tiny_checkpoint, tokenizer, fields):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    options = {"batch_size": 3, "max_new_tokens": 24, "block_size": 8, "seeds": list(range(8)), "done": {3}, **fields}
    found = []
    for decode in (generate_as_rows_finish, generate_in_batches):
        rows = [row for batch in decode(model, tokenizer, PROMPTS * 2, **options) for row in batch.rows]
        found.append(sorted((row for row in rows if row.index != 3), key=lambda row: (row.index, row.sequence)))
    assert found[0] == found[1] and len(found[0]) == 7 * fields.get("num_return_sequences", 1)


def test_no_row_waits_for_the_slowest_of_its_batch(tiny_checkpoint, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    rows = []
    model.register_forward_pre_hook(lambda *args: rows.append(len(args[2]["input_ids"])), with_kwargs=True)
    options = {"batch_size": 4, "preset": "d3llm", "threshold": 2.5, "max_new_tokens": 48, "block_size": 8}
    counts = []
    for decode in (generate_in_batches, generate_as_rows_finish):
        rows.clear()
        list(decode(model, tokenizer, [[index % 7 + 1] * (index % 5 + 1) for index in range(24)], **options))
        counts.append((len(rows), sum(rows)))
    (fixed, row_forwards), (open_, same) = counts
    assert same == row_forwards and open_ < fixed


def test_an_autoregressive_row_costs_a_forward_per_token_of_its_own(autoregressive, tokenizer):
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    (batch,) = generate_autoregressively(autoregressive, tokenizer, prompts, batch_size=4, max_new_tokens=24)
    lengths = {row.index: row.tokens for row in batch.rows}
    assert len(set(lengths.values())) > 1  # the batch goes on after the first of them has ended
    assert {row.index: row.forwards for row in batch.rows} == lengths
    assert all(row.tokens_per_forward == 1 for row in batch.rows)


def test_a_choice_is_judged_by_its_own_tokens_alone(autoregressive, tokenizer):
    choices = (" two", " three plus four", " six is", " seven eight nine plus zero")
    samples = [Sample(str(index), prompt, 0, choices=choices) for index, prompt in enumerate(PROMPTS * 2)]
    prompts = [tokenizer(sample.prompt + " is" * index)["input_ids"] for index, sample in enumerate(samples)]
    batches = choose_in_batches(autoregressive, tokenizer, samples, prompts, batch_size=3)
    found = {row.index: row.text for batch in batches for row in batch.rows}
    for index, prompt in enumerate(prompts):
        scores = []
        for choice in choices:
            answer = tokenizer(choice)["input_ids"]
            with torch.no_grad():
                logprobs = autoregressive(torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
            scores.append(sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(answer)))
        assert found[index] == str(scores.index(max(scores)))


def test_the_time_of_a_batch_is_shared_out_to_its_rows(tmp_path):
    samples = [Sample(str(index), "x", None) for index in range(5)]

    def decode(*, batch_size, done):
        for indices in batch_indices([1] * 5, batch_size):
            yield DecodedBatch([DecodedRow(index, 0, "", 4, 2, 6, [0] * 4, [1] * 4) for index in indices], 6.0)

    task = Task("t", "T", "", lambda *_: [], lambda *_: True)
    result = measure_samples(tmp_path / "r.json", task, samples, [[0]] * 5, decode, settings(), batch_size=2)
    assert (result.seconds, result.tokens_per_second) == (18.0, 20 / 18)
    lines = [json.loads(line) for line in (tmp_path / "r.samples.jsonl").read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [3.0, 3.0, 3.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7 Q: eight END nine", "7 "),
        ("7 END nine Q: eight", "7 "),
        ("7 Q: eight Q: nine", "7 "),
        ("Q: eight", ""),
        ("7 of nothing", "7 of nothing"),
    ],
)
def test_an_answer_ends_before_the_first_stop_string(text, answer):
    assert Task("t", "T", "", lambda *_: [], lambda *_: True, stop_strings=("END", "Q:")).cut(text) == answer
