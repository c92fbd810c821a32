"""`d3llm doctor`: one line per check with the remedy, JSON, and the exit code."""

import json

import pytest
import torch

from d3llm.commands import doctor_machine, doctor_model
from d3llm.commands.doctor_check import Check
from d3llm.commands.doctor_recorded import RECORD, is_of_another_decoding, recorded_fault
from d3llm.commands.main import main
from d3llm.commands.tune import write_fields
from d3llm.generation.canvas_cache import CanvasCache, CanvasLayer
from d3llm.modeling import DreamModel, LLaDA2MoeModelLM, LLaDAModelLM, SDARForCausalLM
from d3llm.modeling.loading import load_model
from d3llm.quickstart import CHECKPOINTS, checkpoint_path
from tests.helpers.commands import copy_checkpoint, run_fails
from tests.helpers.models import tiny_model


FAMILIES = [LLaDAModelLM, DreamModel, SDARForCausalLM, LLaDA2MoeModelLM]


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def of_model_alone(monkeypatch):
    """Nothing is asked about the machine."""
    monkeypatch.setattr(doctor_machine, "machine_checks", lambda **_: [])


def test_a_good_folder_has_a_line_per_check_and_code_0(offline, tiny_checkpoint, capsys):
    assert main(["doctor", "--model", str(tiny_checkpoint), "--device", "cpu", "--length", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [
        "versions",
        "device",
        "attention",
        "hub",
        "model",
        "memory",
        "code",
        "decoding",
    ]
    assert {line.split()[0] for line in lines} == {"ok", "warning"}
    assert lines[3].startswith("warning") and "HF_HUB_OFFLINE" in lines[3]


def test_json_holds_the_same_and_an_error_gives_code_1(offline, tiny_checkpoint, capsys):
    assert main(["doctor", "--json", "--model", str(tiny_checkpoint), "--length", "4096", "--device", "cpu"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["checks"][-1] == {
        "name": "model",
        "status": "error",
        "found": answer["checks"][-1]["found"],
        "remedy": "give --length 128 or less",
    }


@pytest.mark.parametrize("option", ["--batch-size", "--length", "--timeout"])
def test_a_number_that_makes_no_sense_is_refused(option, capsys):
    assert option in run_fails(capsys, "doctor", option, "0")


def test_versions_out_of_range_and_missing_are_named_with_a_command():
    requirements = ["numpy<1", "no-such-package-of-d3llm>=2", 'other; extra == "x"', 'old; python_version < "3"']
    check = doctor_machine.check_versions(requirements, ">=99")
    assert check.status == "error"
    assert "numpy" in check.found and "no-such-package-of-d3llm is not installed" in check.found
    assert "Python" in check.found and "other" not in check.found and "old" not in check.found
    assert check.remedy == 'use Python >=99, pip install "numpy<1" "no-such-package-of-d3llm>=2"'
    assert doctor_machine.check_versions(["numpy", 'ruff<0; extra == "dev"'], None).status == "ok"
    assert doctor_machine.check_versions(["numpy", 'numpy<1; extra == "x"'], None).found.startswith("numpy")


def test_a_device_that_is_not_there():
    check = doctor_machine.check_device("cuda:7" if not torch.cuda.is_available() else "meta")
    assert check.status == "error" and check.remedy


def test_a_processor_that_is_slow_in_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(doctor_machine, "bfloat16_slowdown", lambda: 9.2)
    assert doctor_machine.check_device("cpu").found.endswith("bfloat16 takes 9 times as long as float32")
    monkeypatch.setattr(doctor_machine, "bfloat16_slowdown", lambda: 0.4)
    assert "bfloat16" not in doctor_machine.check_device("cpu").found


def test_a_kernel_that_computes_something_else_is_found(monkeypatch):
    monkeypatch.setattr(doctor_machine, "_tiny_logits", lambda kernel, *_: torch.tensor([float(len(kernel))]))
    check = doctor_machine.check_kernels(torch.device("cpu"))
    assert check.status == "error" and "sdpa: computes something else" in check.found
    assert check.remedy == 'load models with attn_implementation="eager"'


def test_the_hub(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert "not logged in" in doctor_machine.check_hub(2).found
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert doctor_machine.check_hub(2) == Check("hub", "ok", f"{hub.url} answers, logged in")
    monkeypatch.setenv("HF_TOKEN", "hf_revoked")
    assert doctor_machine.check_hub(2).remedy == "log in again: hf auth login"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    check = doctor_machine.check_hub(0.5)
    assert check.status == "warning" and "does not answer" in check.found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_is_as_large_as_told(family):
    model = tiny_model(family)
    cache = CanvasCache(model.config.num_hidden_layers, 24)
    model(torch.ones(3, 24, dtype=torch.long), cache=cache, cache_positions=slice(0, 24))
    stored = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert doctor_model.needed_memory(model, "", "cpu", batch_size=3, length=24).cache == stored


def test_a_batch_that_does_not_fit_is_told_which_does():
    model = tiny_model(LLaDAModelLM)
    shape = {"batch_size": 64, "length": 128}
    five = doctor_model.needed_memory(model, "", "cpu", batch_size=5, length=128)
    check = doctor_model.check_memory(model, "", "cpu", free=sum(five), **shape)
    assert (check.status, check.remedy) == ("error", "--batch-size 5 fits")
    assert doctor_model.check_memory(model, "", "cpu", free=10**12, **shape).status == "ok"
    assert "quantize" in doctor_model.check_memory(model, "", "cpu", free=10, **shape).remedy


@pytest.mark.parametrize("family", FAMILIES)
def test_the_self_test_passes_for_every_kind_of_family(family):
    model = tiny_model(family)
    assert doctor_model.batch_fault(model) is None
    assert doctor_model.cache_fault(model) is None


def test_the_self_test_finds_a_cache_and_a_batch_that_are_wrong(monkeypatch):
    model = tiny_model(LLaDAModelLM)
    update = CanvasLayer.update

    def late(self, keys, values, *args, **kwargs):
        found = update(self, keys, values, *args, **kwargs)
        return found if keys.shape[2] == self.canvas_length else tuple(2 * states for states in found)

    monkeypatch.setattr(CanvasLayer, "update", late)
    assert doctor_model.cache_fault(model)
    forward = type(model).forward
    monkeypatch.setattr(
        type(model),
        "forward",
        lambda self, *args, **inputs: forward(self, *args, **{**inputs, "attention_mask": None}),
    )
    assert doctor_model.batch_fault(model)


def test_code_of_another_version_is_a_warning(tiny_checkpoint, tmp_path):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    model = LLaDAModelLM.from_pretrained(folder)
    assert doctor_model.check_code(model, folder).status == "ok"
    (folder / "modeling_llada.py").write_text("old")
    check = doctor_model.check_code(model, folder)
    assert check.status == "warning" and check.found.startswith("modeling_llada.py in") and "convert" in check.remedy


def test_a_record_is_compared_where_there_is_one(of_model_alone, tiny_checkpoint, tmp_path, capsys):
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    arguments = ["doctor", "--model", str(folder), "--device", "cpu", "--length", "64"]
    assert main([*arguments, "--record"]) == 0
    record = json.loads((folder / RECORD).read_text())
    assert [len(case["prompt"]) for case in record["cases"]] == list(doctor_model.PROMPTS)
    capsys.readouterr()
    assert main(arguments) == 0
    assert "recorded answers come out again" in capsys.readouterr().out
    record["cases"][1]["commit_steps"][0] += 1
    (folder / RECORD).write_text(json.dumps(record))
    assert main(arguments) == 1
    assert "1 of 3 recorded answers" in capsys.readouterr().out
    (folder / RECORD).write_text("{")
    assert main(arguments) == 1
    assert "damaged" in capsys.readouterr().out
    assert "--record" in run_fails(capsys, "doctor", "--record")


@pytest.mark.slow
def test_a_record_of_another_decoding_is_renewed(of_model_alone, tiny_checkpoint, tmp_path, capsys):
    """As after `d3llm tune`: the machine is as good as before."""
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    arguments = ["doctor", "--model", str(folder), "--device", "cpu", "--length", "64"]
    assert main([*arguments, "--record"]) == 0
    write_fields(folder, {"preset": "d3llm", "threshold": 2.0, "block_size": 4})
    capsys.readouterr()
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("warning") and "another decoding" in said and f"doctor --model {folder} --record" in said
    assert main([*arguments, "--record"]) == 0
    assert "recorded answers" not in capsys.readouterr().out
    assert main(arguments) == 0
    assert "recorded answers come out again" in capsys.readouterr().out


@pytest.mark.slow
def test_a_record_of_an_earlier_version_is_compared_and_renewed(of_model_alone, tiny_checkpoint, tmp_path, capsys):
    """It does not tell which decoding it is of."""
    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    arguments = ["doctor", "--model", str(folder), "--device", "cpu", "--length", "64"]
    assert main([*arguments, "--record"]) == 0
    record = json.loads((folder / RECORD).read_text())
    del record["decoding"]
    (folder / RECORD).write_text(json.dumps(record))
    assert main(arguments) == 0
    write_fields(folder, {"preset": "d3llm", "threshold": 2.0, "block_size": 4})
    capsys.readouterr()
    assert main(arguments) == 1
    assert "renew the record with --record" in capsys.readouterr().out
    assert main([*arguments, "--record"]) == 0 and main(arguments) == 0


def test_the_shipped_models_decode_as_recorded():
    for name in CHECKPOINTS:
        assert (checkpoint_path(name) / RECORD).is_file()
        assert not is_of_another_decoding(checkpoint_path(name))
        assert recorded_fault(load_model(checkpoint_path(name)), checkpoint_path(name)) is None


def test_weights_that_are_damaged_fail_the_self_test(tiny_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    check = doctor_model.check_decoding(str(folder), torch.device("cpu"))
    assert check.status == "error" and "not numbers" in check.found
