"""`d3llm eval`: tasks, result files, interruption, several processes, baselines."""

import copy
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import d3llm.modeling
from d3llm.commands.eval import data_files
from d3llm.commands.loading import load_model
from d3llm.commands.main import build_parser, main
from d3llm.evaluation import measurement, wilson_interval
from d3llm.evaluation.aup.aup import compute_aup
from d3llm.evaluation.batches import DecodedBatch, DecodedRow, batch_indices
from d3llm.evaluation.choices import choose_in_batches
from d3llm.evaluation.result import result_files
from d3llm.evaluation.tasks import TASKS, Sample, Task
from d3llm.generation.configuration_diffusion import KNOWN_FIELDS
from d3llm.modeling import LLaDAModelLM
from d3llm.quickstart.stories.task import TASKS as STORIES
from tests.helpers.code_problems import HUMANEVAL, MBPP
from tests.helpers.commands import run_fails
from tests.helpers.forks import fork_ranks
from tests.helpers.models import OF_WORDS, tiny_autoregressive, tiny_model
from tests.helpers.paths import ROOT
from tests.helpers.results import results_in, settings


FLAGS = ["--preset", "d3llm", "--device", "cpu", "--batch-size", "2"]
GSM8K = [
    {"question": "Ann has 3 pens and buys 4. How many has she?", "answer": "3+4=<<3+4=7>>7\n#### 7"},
    {"question": "A farmer sells 1,200 eggs a day for $2 each. " * 4, "answer": "#### 2,400"},
    {"question": "Bob halves 10 apples.", "answer": "10/2=5\n#### 5"},
]


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Reads any text, a token per byte, so that prompts are longer than with a real one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<eos>", "<mask>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", mask_token="<mask>",
        chat_template="{% for message in messages %}[{{ message['content'] }}]\n{% endfor %}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def diffusion_folder(byte_tokenizer, tmp_path_factory) -> Path:
    shape = OF_WORDS | {"vocab_size": len(byte_tokenizer)}
    model = tiny_model(LLaDAModelLM, **shape, layers=1, kv_heads=None, positions=8192)
    return save(model, byte_tokenizer, tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="module")
def autoregressive_folder(byte_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("autoregressive")
    return save(tiny_autoregressive(len(byte_tokenizer)), byte_tokenizer, folder)


def save(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def gsm8k_file(tmp_path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    return path


def evaluate(*arguments) -> int:
    return main(["eval", *map(str, arguments)])


def untimed(result: dict) -> dict:
    return {name: value for name, value in result.items() if name not in ("seconds", "tokens_per_second", "hardware")}


def test_points_of_a_shipped_model(tmp_path, capsys):
    flags = ["--tasks", "stories", "--sweep", "threshold=0.1,0.5", "--limit", 3, "--output", tmp_path]
    assert evaluate(*flags, *FLAGS) == 0
    printed = capsys.readouterr().out
    slow, fast = results_in(tmp_path)
    assert (slow["point"], fast["point"]) == ({"threshold": 0.1}, {"threshold": 0.5})
    assert fast["tokens_per_forward"] > slow["tokens_per_forward"] > 1
    for result in (slow, fast):
        samples = result["samples"]
        assert result["num_samples"] == len(samples["id"]) == 3
        assert result["accuracy"] == sum(samples["correct"]) / 3 >= 1 / 3
        assert result["accuracy_interval"] == list(wilson_interval(sum(samples["correct"]), 3))
        assert result["tokens_per_forward"] == sum(samples["tokens"]) / sum(samples["forwards"])
        assert result["tokens_per_second"] == pytest.approx(result["tokens"] / result["seconds"])
        assert result["decoding"]["preset"] == "d3llm" and result["decoding"]["block_add_threshold"] == 0.1
        assert result["decoding"]["threshold"] == result["point"]["threshold"]
        assert result["hardware"]["processes"] == 1 and set(result["versions"]) > {"torch", "d3llm"}
        assert f"{result['tokens_per_forward']:.2f}" in printed and f"{result['accuracy']:.1%}" in printed
    assert str(Path.home()) not in json.dumps([slow, fast])
    assert main(["leaderboard", str(tmp_path)]) == 0
    area = compute_aup(*zip(*((r["tokens_per_forward"], 100 * r["accuracy"]) for r in (slow, fast)), strict=True))
    assert f"{area:.1f}" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["gsm8k_cot", "gsm8k_cot_instruct", "gsm8k_long"])
def test_gsm8k_on_a_random_model(tmp_path, diffusion_folder, byte_tokenizer, gsm8k_file, task):
    flags = ["--tasks", task, "--model", diffusion_folder, "--data", gsm8k_file, "--max-new-tokens", 8]
    assert evaluate(*flags, "--output", tmp_path / "out", *FLAGS) == 0
    (result,) = results_in(tmp_path / "out")
    assert result["accuracy"] == 0 and result["source"] == "problems.jsonl" and result["num_samples"] == 3
    assert result["tokens"] <= 24 and result["chat"] is task.endswith("instruct")
    assert result["decoding"]["stop_strings"] == (None if result["chat"] else list(TASKS[task].stop_strings))
    sample = TASKS[task].load(gsm8k_file, "test", None)[1]
    ids = TASKS[task].encode(byte_tokenizer, sample)
    assert sample.reference == "2,400" and len(ids) > (2000 if task == "gsm8k_long" else 200)
    text = byte_tokenizer.decode(ids)
    assert GSM8K[1]["question"] in text and text.startswith("[") is result["chat"]


@pytest.fixture(scope="module")
def uninterrupted(diffusion_folder, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GSM8K * 2))
    flags = ["--tasks", "gsm8k_cot", "--model", diffusion_folder, "--data", folder / "problems.jsonl"]
    assert evaluate(*flags, "--max-new-tokens", 8, "--output", folder / "out", *FLAGS) == 0
    return {"folder": folder, "flags": [*flags, "--max-new-tokens", 8], "result": results_in(folder / "out")[0]}


def test_an_interrupted_run_goes_on(tmp_path, uninterrupted, monkeypatch):
    flags = [*uninterrupted["flags"], "--output", tmp_path, *FLAGS]
    calls, generate = [], LLaDAModelLM.generate

    def interrupted(self, inputs, **kwargs):
        calls.append(len(inputs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, inputs, **kwargs)

    monkeypatch.setattr(d3llm.modeling.LLaDAModelLM, "generate", interrupted)
    assert evaluate(*flags) == 130 and results_in(tmp_path) == []
    (samples,) = tmp_path.glob("*.samples.jsonl")
    assert len(samples.read_text().splitlines()) == 2
    assert evaluate(*flags) == 0
    assert calls == [2, 2, 2, 2]
    assert untimed(results_in(tmp_path)[0]) == untimed(uninterrupted["result"])
    assert evaluate(*flags) == 0 and len(calls) == 4  # nothing is left to do


def test_other_settings_do_not_mix(tmp_path, uninterrupted, capsys):
    flags = [*uninterrupted["flags"], "--output", tmp_path, *FLAGS]
    assert evaluate(*flags) == 0
    message = run_fails(capsys, "eval", *map(str, flags), "--block-size", "4")
    assert "block_size was 32, is 4" in message and "--overwrite" in message
    assert evaluate(*flags, "--block-size", 4, "--overwrite") == 0
    assert results_in(tmp_path)[0]["decoding"]["block_size"] == 4


def test_a_result_file_alone_is_read(tmp_path, uninterrupted, monkeypatch):
    """Its samples are not published with it; for other settings it is not replaced."""
    flags = [*uninterrupted["flags"], "--output", tmp_path, *FLAGS]
    assert evaluate(*flags) == 0
    for file in tmp_path.glob("*.samples.jsonl*"):
        file.unlink()
    calls, generate = [], LLaDAModelLM.generate

    def counted(self, inputs, **kwargs):
        calls.append(len(inputs))
        return generate(self, inputs, **kwargs)

    monkeypatch.setattr(d3llm.modeling.LLaDAModelLM, "generate", counted)
    before = results_in(tmp_path)
    assert evaluate(*flags) == 0 and not calls and results_in(tmp_path) == before
    assert evaluate(*flags, "--block-size", 4) == 2 and not calls and results_in(tmp_path) == before
    assert evaluate(*flags, "--block-size", 4, "--overwrite") == 0 and calls
    assert results_in(tmp_path)[0]["decoding"]["block_size"] == 4


def test_a_point_that_is_read_again_keeps_the_machine_that_it_was_measured_on(tmp_path, uninterrupted, monkeypatch):
    flags = [*uninterrupted["flags"], "--output", tmp_path, *FLAGS]
    assert evaluate(*flags) == 0
    before = results_in(tmp_path)
    monkeypatch.setattr(measurement, "hardware", lambda processes=1: {"device": "another", "threads": 64})
    assert evaluate(*flags) == 0
    assert results_in(tmp_path) == before


def test_an_old_result_is_not_that_of_new_samples(tmp_path, uninterrupted, monkeypatch, capsys):
    """The disk is full when the new one is to be written."""
    flags = [*uninterrupted["flags"], "--output", tmp_path, *FLAGS]
    assert evaluate(*flags) == 0
    (file,) = result_files([tmp_path])

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measurement, "hardware", lambda processes=1: {"device": "another", "threads": 64})
    with monkeypatch.context() as disk:
        disk.setattr(measurement.Result, "write", full)
        assert "No space left" in run_fails(capsys, "eval", *map(str, flags), "--overwrite")
    assert not file.exists()
    assert evaluate(*flags) == 0
    assert results_in(tmp_path)[0]["hardware"]["device"] == "another"


@pytest.mark.processes
@pytest.mark.slow
def test_processes_share_the_samples(tmp_path, uninterrupted):
    flags = [*uninterrupted["flags"], "--output", tmp_path, "--preset", "d3llm", "--batch-size", "2"]
    ranks = fork_ranks(main, ["eval", *map(str, flags)], environment={"ACCELERATE_USE_CPU": "true"})
    first, second = (rank.wait() for rank in ranks)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    (result,) = results_in(tmp_path)
    assert result["hardware"]["processes"] == 2
    assert untimed(result) == untimed(uninterrupted["result"])
    assert (first.stdout + second.stdout).count("Measured points") == 1
    assert len(list(tmp_path.glob("*"))) == 3  # the result, the samples, their settings


def test_what_other_processes_wrote_is_taken_over(tmp_path, uninterrupted):
    """A run of two processes was killed after each had written a batch; one process goes on."""
    flags = [*uninterrupted["flags"], "--output", tmp_path, *FLAGS]
    assert evaluate(*flags) == 0
    (samples,) = tmp_path.glob("*.samples.jsonl")
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(lines[:2]))
    other = samples.with_name(samples.name.replace(".samples.", ".samples.1."))
    other.write_text("".join(lines[2:4]))
    settings = samples.with_name(samples.name + ".settings.json")
    other.with_name(other.name + ".settings.json").write_text(settings.read_text())
    assert evaluate(*flags) == 0
    assert samples.read_text().splitlines(keepends=True)[:4] == lines[:4] and not other.exists()
    assert untimed(results_in(tmp_path)[0]) == untimed(uninterrupted["result"])


def test_a_process_decodes_its_turns_only(tmp_path):
    samples = [Sample(str(index), "x" * length, None) for index, length in enumerate([5, 1, 9, 9, 3])]
    lengths = [len(sample.prompt) for sample in samples]
    assert batch_indices(lengths, 2) == [[2, 3], [0, 4], [1]]

    def decode(*, batch_size, done):
        for indices in batch_indices(lengths, batch_size):
            if not set(indices) <= done:
                yield DecodedBatch([DecodedRow(index, 0, "", 1, 1, 1, [0], [1]) for index in indices], 1.0)

    task = Task("t", "T", "", lambda *_: [], lambda *_: True)
    alone = measurement.Processes(0, 2, lambda value: [value])  # the other one never comes
    prompts = [[0] * length for length in lengths]
    with pytest.raises(ValueError, match="lacks 2 results"):
        measurement.measure_samples(
            tmp_path / "r.json", task, samples, prompts, decode, settings(), batch_size=2, processes=alone
        )
    lines = (tmp_path / "r.samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["2", "3", "1"]


def test_autoregressive_baselines(tmp_path, autoregressive_folder, gsm8k_file):
    flags = ["--tasks", "gsm8k_cot", "--model", autoregressive_folder, "--data", gsm8k_file, "--max-new-tokens", 12]
    flags += ["--device", "cpu", "--output", tmp_path / "out"]
    assert evaluate(*flags, "--batch-size", 2, "--method", "plain") == 0
    assisted = ["--assistant-model", autoregressive_folder, "--batch-size", 1, "--method", "zassisted"]
    assert evaluate(*flags, *assisted) == 0
    plain, fast = results_in(tmp_path / "out")
    assert plain["tokens_per_forward"] == 1 and plain["tokens"] == plain["forwards"] > 0
    assert fast["samples"]["tokens"] == plain["samples"]["tokens"]  # greedy: the assistant changes no token
    assert fast["tokens_per_forward"] > 1.5  # it proposes what the model itself would say
    texts = [
        [json.loads(line)["text"] for line in path.read_text().splitlines()]
        for path in sorted((tmp_path / "out").glob("*.samples.jsonl"))
    ]
    assert texts[0] == texts[1]


def test_the_name_of_a_data_file_is_not_a_pattern(tmp_path, diffusion_folder, gsm8k_file):
    for name, rows in (("rows[1].jsonl", GSM8K[:2]), ("rows1.jsonl", GSM8K[:1])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--tasks", "gsm8k_cot", "--model", diffusion_folder, "--data", tmp_path / "rows[1].jsonl"]
    assert evaluate(*flags, *FLAGS, "--max-new-tokens", 4, "--output", tmp_path / "out") == 0
    assert results_in(tmp_path / "out")[0]["num_samples"] == 2


def test_an_assistant_of_a_diffusion_model(capsys, tmp_path, diffusion_folder, autoregressive_folder, gsm8k_file):
    """The texts are the model's own, what the assistant did counts apart, and another one does not resume its run."""
    flags = ["--tasks", "gsm8k_cot", "--model", diffusion_folder, "--preset", "llada", "--data", gsm8k_file]
    flags += ["--max-new-tokens", 12, "--device", "cpu", "--batch-size", 2, "--output", tmp_path / "out"]
    assisted = [*flags, "--method", "drafted", "--assistant-model"]
    assert evaluate(*flags, "--method", "alone") == 0
    assert evaluate(*assisted, diffusion_folder) == 0
    assert "of the assistant" in capsys.readouterr().out
    alone, drafted = results_in(tmp_path / "out")
    assert drafted["samples"]["tokens"] == alone["samples"]["tokens"] and drafted["forwards"] < alone["forwards"]
    assert drafted["decoding"]["draft_states"] == 8 and drafted["assistant_weights"] == drafted["weights"]
    assert drafted["assistant_forwards"] == sum(drafted["samples"]["assistant_forwards"]) == drafted["row_forwards"]
    assert not alone.keys() & {"assistant_forwards", "assistant_weights"}
    other = shutil.copytree(diffusion_folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: weight * 1.5 for name, weight in weights.items()}, other / "model.safetensors")
    message = run_fails(capsys, "eval", *map(str, assisted), str(other))
    assert "assistant_weights" in message
    message = run_fails(capsys, "eval", *map(str, assisted), str(autoregressive_folder))
    assert "not of the same kind" in message
    message = run_fails(capsys, "eval", *map(str, assisted), str(diffusion_folder), "--harness", "lm_eval")
    assert "--assistant-model" in message


def test_an_autoregressive_model_has_no_presets(capsys, tmp_path, autoregressive_folder, gsm8k_file):
    flags = ["--tasks", "gsm8k_cot", "--model", autoregressive_folder, "--data", gsm8k_file, "--output", tmp_path]
    message = run_fails(capsys, "eval", *map(str, flags), "--preset", "d3llm", "--device", "cpu")
    assert "autoregressive" in message and "preset" in message


MMLU = [
    {"question": "One and one?", "choices": ["two", "three"], "answer": 0},
    {"question": "Which is a color?", "choices": ["a", "b", "red"], "answer": 2},
]


@pytest.mark.parametrize("folder", ["diffusion_folder", "autoregressive_folder"])
def test_multiple_choice(tmp_path, folder, byte_tokenizer, request):
    folder = request.getfixturevalue(folder)
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MMLU))
    output = tmp_path / "out"
    flags = ["--tasks", "mmlu", "--model", folder, "--data", path, "--output", output, "--device", "cpu"]
    assert evaluate(*flags) == 0
    (result,) = results_in(output)
    assert result["tokens_per_forward"] is None and result["tokens"] == 0
    (lines,) = output.glob("*.samples.jsonl")
    texts = [json.loads(line)["text"] for line in lines.read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for sample, text in zip(TASKS["mmlu"].load(path, "test", None), texts, strict=True):
        scores = []
        for choice in sample.choices:  # one row at a time, token by token
            prompt, answer = (byte_tokenizer(part)["input_ids"] for part in (sample.prompt, choice))
            ids = torch.tensor([prompt + answer])
            if hasattr(model, "score"):
                mask = torch.tensor([[0] * len(prompt) + [1] * len(answer)])
                scores.append(model.score(ids, mask, num_samples=128, seed=0).item())
            else:
                logprobs = model(ids).logits[0].log_softmax(dim=-1)
                scores.append(sum(logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)))
        if not hasattr(model, "score"):
            assert text == str(scores.index(max(scores)))
        assert text in ("0", "1", "2")
    assert result["accuracy"] == sum(text == str(row["answer"]) for text, row in zip(texts, MMLU, strict=True)) / 2


def test_choices_are_scored_at_their_own_positions(byte_tokenizer):
    """A model that likes late letters: what it is asked to score must be the choices, each after its prompt."""
    asked = []

    class Model:
        device = "cpu"

        def score(self, input_ids, answer_mask, attention_mask, *, num_samples, seed):
            asked.append(num_samples)
            texts = [byte_tokenizer.decode(row[mask]) for row, mask in zip(input_ids, answer_mask, strict=True)]
            prompts = [
                byte_tokenizer.decode(row[(real > 0) & ~mask])
                for row, mask, real in zip(input_ids, answer_mask, attention_mask, strict=True)
            ]
            assert [prompt[-1] for prompt in prompts] == [".", ".", "?", "?"]
            return torch.tensor([float(ord(text[-1])) for text in texts])

    samples = [
        Sample("a", "Much longer.", 0, choices=("x", "c")),
        Sample("b", "Short?", 1, choices=("c", "x")),
    ]
    prompts = [byte_tokenizer(sample.prompt)["input_ids"] for sample in samples]
    (batch,) = choose_in_batches(Model(), byte_tokenizer, samples, prompts)
    assert [(row.index, row.text, row.forwards) for row in batch.rows] == [(0, "0", 2), (1, "1", 2)]
    assert asked == [1]  # single tokens: exact
    samples[1] = Sample("b", "Short?", 1, choices=("cc", "x"))
    (batch,) = choose_in_batches(Model(), byte_tokenizer, samples, prompts, num_samples=16)
    assert asked == [1, 16] and batch.rows[1].forwards == 32


@pytest.mark.parametrize(
    ("task", "row"),
    [("humaneval", HUMANEVAL), ("humaneval_instruct", HUMANEVAL), ("mbpp", MBPP), ("mbpp_instruct", MBPP)],
)
def test_code_on_a_random_model(capsys, tmp_path, diffusion_folder, task, row):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(row) + "\n")
    flags = ["--tasks", task, "--model", diffusion_folder, "--data", path, "--max-new-tokens", 8]
    flags = [*map(str, flags), "--output", str(tmp_path / "out"), *FLAGS]
    assert "--allow-code-execution" in run_fails(capsys, "eval", *flags) and not (tmp_path / "out").exists()
    assert evaluate(*flags, "--allow-code-execution") == 0
    assert results_in(tmp_path / "out")[0]["accuracy"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "gsm8k_cto"], "did you mean"),
        (["--tasks", "stories", "--sweep", "threshold"], "--sweep"),
        (["--tasks", "stories", "--sweep", "threshhold=1"], "--threshhold"),
        (["--tasks", "stories", "--sweep", "block-size=0"], "block_size"),
        (["--tasks", "stories", "--limit", "0"], "--limit"),
        (["--tasks", "stories", "--data", "x.jsonl"], "--data"),
        (["--tasks", "gsm8k_cot", "--data", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(capsys, tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    assert message in run_fails(capsys, "eval", "--output", str(tmp_path / "out"), *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a", "b"], "two files for all tasks, a and b"),
        (["gsm8k_cot=a", "gsm8k_cot=b"], "two files for the task gsm8k_cot, a and b"),
        (["gsm8k_cot=a", "b", "math=c"], "--data b is for no task"),
    ],
)
def test_a_file_that_no_task_would_read_is_refused(capsys, tmp_path, files, message):
    flags = [part for file in files for part in ("--data", file)]
    said = run_fails(capsys, "eval", "--tasks", "gsm8k_cot,math", "--output", str(tmp_path / "out"), *flags)
    assert message in said and not (tmp_path / "out").exists()


def test_a_file_for_one_task_and_another_for_the_rest():
    args = build_parser().parse_args(["eval", "--tasks", "x", "--output", "x", "--data", "math=a", "--data", "b=c"])
    tasks = [TASKS[name] for name in ("gsm8k_cot", "math", "mmlu")]
    assert data_files(args, tasks) == {"gsm8k_cot": Path("b=c"), "math": Path("a"), "mmlu": Path("b=c")}


@pytest.mark.parametrize("command", [["eval"], ["eval", "--harness", "lm_eval"], ["tune", "--model", "x"]])
def test_an_output_that_is_no_folder_is_refused_first(capsys, tmp_path, command):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "inside"):
        said = run_fails(capsys, *command, "--tasks", "stories", "--output", str(output))
        assert f"{tmp_path / 'file'} is not a folder. Give the name of a folder" in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_file_is_named(capsys, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text("{not json\n")
    flags = ["--tasks", "gsm8k_cot", "--data", str(path), "--output", str(tmp_path / "out")]
    assert "broken.jsonl" in run_fails(capsys, "eval", *flags)


def test_chat_without_a_template(byte_tokenizer, gsm8k_file):
    (sample, *_), plain = TASKS["gsm8k_cot"].load(gsm8k_file, "test", None), copy.deepcopy(byte_tokenizer)
    plain.chat_template = None
    assert TASKS["gsm8k_cot"].encode(plain, sample) == TASKS["gsm8k_cot"].encode(byte_tokenizer, sample)
    for task, chat in (("gsm8k_cot", True), ("gsm8k_cot_instruct", None)):
        with pytest.raises(ValueError, match="no chat template"):
            TASKS[task].encode(plain, sample, chat)


def test_summary_is_ratios_of_sums():
    records = [
        {"id": "a", "correct": True, "tokens": 10, "forwards": 2, "seconds": 1.0},
        {"id": "b", "correct": False, "tokens": 10, "forwards": 8, "seconds": 3.0},
    ]
    summary = measurement.summarize(records)
    assert (summary["tokens_per_forward"], summary["tokens_per_second"], summary["accuracy"]) == (2.0, 5.0, 0.5)


def test_harness_is_asked_for(capsys, tmp_path):
    flags = ["--tasks", "gsm8k_cot", "--harness", "lm_eval", "--output", str(tmp_path)]
    assert "--sweep" in run_fails(capsys, "eval", *flags, "--sweep", "threshold=0.1,0.2")
    if importlib.util.find_spec("lm_eval") is None:
        assert "d3llm[eval]" in run_fails(capsys, "eval", *flags)


def test_harness_tasks(tmp_path, diffusion_folder, gsm8k_file):
    pytest.importorskip("lm_eval")
    from d3llm.evaluation.lm_eval_model import run_harness

    model, tokenizer = load_model(diffusion_folder, device="cpu")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(gsm8k_file)}},
        "test_split": "test",
    }
    generates = {"task": "g", "output_type": "generate_until", "doc_to_text": "{{question}}",
                 "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["Q"], "max_gen_toks": 8},
                 "metric_list": [{"metric": "exact_match"}], **common}  # fmt: skip
    chooses = {"task": "c", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
               "doc_to_choice": ["one", "two"], "doc_to_target": 0, "metric_list": [{"metric": "acc"}],
               **common}  # fmt: skip
    result = run_harness(model, tokenizer, [generates, chooses], limit=2, preset="d3llm")
    assert result["results"]["g"]["exact_match,none"] == 0 and 0 <= result["results"]["c"]["acc,none"] <= 1
    assert 0 < result["tokens"] <= 16 and result["tokens_per_forward"] == result["tokens"] / result["forwards"]


PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^    d3llm (.+)$", PAGE, re.MULTILINE))
def test_the_lines_of_the_docs_parse(line):
    args, rest = build_parser().parse_known_args(shlex.split(line))
    flags = {flag.partition("=")[0].removeprefix("--").replace("-", "_") for flag in rest if flag.startswith("--")}
    assert (not rest or args.takes_fields) and flags <= KNOWN_FIELDS
    own = {task.name for task in STORIES}
    for name in getattr(args, "tasks", "").split(","):
        assert not name or name in TASKS or name in own or args.harness


def test_the_docs_name_every_task_and_quantity(uninterrupted):
    plain = {name.removesuffix("_instruct") for name in TASKS}
    assert all(f"`{name}`" in PAGE for name in plain | {task.name for task in STORIES})
    assert set(re.findall(r"`(\w+)`", PAGE.partition("## Result files")[2])) >= set(uninterrupted["result"])


def test_the_result_files_of_the_docs_are_whole():
    results = [*results_in(ROOT / "docs/results/teacher"), *results_in(ROOT / "docs/results/student")]
    places = {(result["method"], result["task"], str(result["point"])) for result in results}
    assert len(places) == len(results) >= 10
    for result in results:
        counts = result["samples"]
        number = 3000 if result["title"] == STORIES[0].title else 1000
        assert result["num_samples"] == len(counts["id"]) == number and result["split"] == "test"
        assert result["accuracy"] == sum(counts["correct"]) / number
        assert result["tokens_per_forward"] == sum(counts["tokens"]) / sum(counts["forwards"])
