"""`measure` does from Python what `d3llm eval` does, with the same files."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from d3llm import Sample, Task, measure, read_results
from d3llm.commands.main import main
from d3llm.modeling import LLaDAModelLM
from d3llm.quickstart.stories.task import STORIES
from tests.helpers.models import WORDS


def load(file: Path | None, split: str, limit: int | None) -> list[Sample]:
    return [Sample(word, f"{word} plus one is", word) for word in WORDS[:6]][:limit]


def check(sample: Sample, text: str) -> bool:
    return sample.reference in text


OWN = Task(name="own", title="Own", source="drawn here", load=load, check=check, max_new_tokens=8)


@pytest.fixture
def loaded(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval(), AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The batch size of each call of `generate`."""
    calls, generate = [], LLaDAModelLM.generate

    def counted(self, inputs, **kwargs):
        calls.append(len(inputs))
        return generate(self, inputs, **kwargs)

    monkeypatch.setattr(LLaDAModelLM, "generate", counted)
    return calls


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_writes_and_reads_the_files_of_the_command(tmp_path, tiny_checkpoint, loaded, calls):
    flags = ["--model", tiny_checkpoint, "--tasks", "stories", "--limit", 3, "--device", "cpu", "--preset", "d3llm"]
    flags += [
        "--max-new-tokens",
        16,
        "--sweep",
        "threshold=0.1,0.5",
        "--sweep",
        "early_stop=false",
        "--output",
        tmp_path / "command",
    ]
    assert main(["eval", *map(str, flags)]) == 0
    options = {"presets": "d3llm", "sweep": {"threshold": [0.1, 0.5], "early_stop": [False]}, "limit": 3}
    options["max_new_tokens"] = 16
    results = measure(*loaded, STORIES, tmp_path / "python", checkpoint=tiny_checkpoint, **options)
    assert results == read_results([tmp_path / "python"])
    assert files(tmp_path / "command").keys() == files(tmp_path / "python").keys()
    differs = ("seconds", "tokens_per_second", "model")  # the command writes the path as it was given
    for one, other in zip(results, read_results([tmp_path / "command"]), strict=True):
        assert one.left_out == other.left_out
        one, other = (
            {key: value for key, value in result.to_dict().items() if key not in differs} for result in (one, other)
        )
        assert one == other
    assert len(calls) == 4
    before = files(tmp_path / "python")
    assert measure(*loaded, STORIES, tmp_path / "python", checkpoint=tiny_checkpoint, **options) == results
    assert len(calls) == 4 and files(tmp_path / "python") == before


def test_an_interrupted_measurement_resumes(tmp_path, loaded, monkeypatch, calls):
    whole = measure(*loaded, OWN, tmp_path / "whole", presets="llada", batch_size=2)
    judged = []

    def interrupted(sample, text):
        judged.append(sample.id)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return check(sample, text)

    task = Task(name="own", title="Own", source="drawn here", load=load, check=interrupted, max_new_tokens=8)
    with pytest.raises(KeyboardInterrupt):
        measure(*loaded, task, tmp_path / "out", presets="llada", batch_size=2)
    del calls[:]
    (result,) = measure(*loaded, OWN, tmp_path / "out", presets="llada", batch_size=2)
    assert calls == [2, 2] and result.samples == whole[0].samples
    assert result.samples["id"] == WORDS[:6] and result.chat is False and result.definition is None


def test_other_weights_in_memory_are_another_run(tmp_path, loaded):
    model, tokenizer = loaded
    measure(model, tokenizer, OWN, tmp_path, presets="llada", limit=1)
    with torch.no_grad():
        model.get_output_embeddings().weight[2] += 1
    with pytest.raises(ValueError, match=r"holds another run \(weights was"):
        measure(model, tokenizer, OWN, tmp_path, presets="llada", limit=1)
    measure(model, tokenizer, OWN, tmp_path, presets="llada", limit=1, overwrite=True)


def test_a_curve_for_each_preset(tmp_path, loaded):
    results = measure(*loaded, OWN, tmp_path, presets=["llada", "d3llm"], limit=1, block_size=4)
    name = Path(loaded[0].name_or_path).name
    assert [result.method for result in results] == [f"{name}-llada", f"{name}-d3llm"]
    assert {result.decoding["block_size"] for result in results} == {4}
    assert {path.name for path in tmp_path.glob("*.json") if ".samples." not in path.name} == {
        f"{name}-{preset}.own.json" for preset in ("llada", "d3llm")
    }
    (own,) = measure(*loaded, OWN, tmp_path / "own", limit=1)
    assert own.method == name and own.preset is None


def test_an_autoregressive_baseline(tmp_path, loaded):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=0, pad_token_id=0, bos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    (result,) = measure(model, loaded[1], OWN, tmp_path, method="plain")
    assert result.tokens == result.forwards and result.method == "plain" and result.model == "LlamaForCausalLM"
    with pytest.raises(ValueError, match=r"LlamaForCausalLM is autoregressive: `preset` is a field of diffusion"):
        measure(model, loaded[1], OWN, tmp_path / "out", presets="d3llm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "gsm9k_cot"}, r"Unknown task 'gsm9k_cot' \(did you mean `gsm8k_cot`\?\)"),
        ({"task": "humaneval"}, "`allow_code_execution=True`"),
        ({"limit": 0}, "`limit` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"split": "train"}, "`split` is 'train': expected one of test, validation"),
        ({"presets": []}, "`presets` is empty"),
        ({"presets": ["llada", "d3llm"], "method": "x"}, "`method` names one curve"),
        ({"presets": "d4llm"}, "did you mean `d3llm`"),
        ({"method": "a\nb"}, "`method` is 'a"),
        ({"sweep": {"cache": "block"}}, "`sweep` has 'block' for 'cache': expected a list"),
        ({"sweep": {"threshold": []}}, "`sweep` has"),
        ({"sweep": {"threshold": [0.1, "high"]}}, "`threshold`"),
        ({"sweep": {"num_return_sequences": [2]}}, "`num_return_sequences` must be 1 here"),
        ({"thresold": 0.1}, "did you mean `threshold`"),
    ],
)
def test_arguments_are_refused_before_anything_is_decoded(tmp_path, loaded, monkeypatch, options, message):
    monkeypatch.setattr(LLaDAModelLM, "forward", None)
    with pytest.raises(ValueError, match=message):
        measure(*loaded, output=tmp_path / "out", **{"task": OWN, "presets": "d3llm", "limit": 1, **options})
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there(tmp_path, loaded):
    with pytest.raises(OSError, match=r"No checkpoint in .*none: it has no config\.json"):
        measure(*loaded, OWN, tmp_path / "out", checkpoint=tmp_path / "none")
