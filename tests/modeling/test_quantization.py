"""Quantized models decode, are saved, serve the commands, and carry adapters."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from benchmarks.precision import LIBRARIES, PRECISIONS
from d3llm import load_trajectories
from d3llm.commands.main import main
from d3llm.common.fingerprints import fingerprint_weights
from d3llm.evaluation import encode_prompt
from d3llm.modeling import DreamModel, LLaDAModelLM
from d3llm.modeling.loading import load_model, load_tokenizer
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.checker import is_right
from d3llm.quickstart.stories.reference import AskedProblem
from d3llm.trainers.distill import save_merged
from tests.helpers.commands import run_fails
from tests.helpers.models import tiny_model
from tests.helpers.paths import ROOT
from tests.helpers.trajectory_rows import make_trainer


STUDENT = checkpoint_path("student")
QUANTIZED = [name for name in PRECISIONS if name.startswith(("int", "nf"))]
BY_LIBRARIES = [name for name in QUANTIZED if name.endswith(LIBRARIES)]
TRAINED = [name for name in BY_LIBRARIES if name != "int4 torchao"]  # transformers refuses it


def quantized(form: str, folder: Path):
    """The model of `folder` in one of the forms of `benchmarks.precision`."""
    library = form.split()[-1]
    if library in LIBRARIES:
        pytest.importorskip(library)
    return PRECISIONS[form](folder)


@pytest.mark.parametrize("preset", ["d3llm", "llada"])
@pytest.mark.parametrize("form", QUANTIZED)
def test_a_quantized_student_answers_as_before(form, preset):
    model, tokenizer = quantized(form, STUDENT), load_tokenizer(STUDENT)
    problem = AskedProblem("Tom buys 3 boxes of 4 pens and gives 5 pens away. How many pens does Tom have now?", 7)
    ids = torch.tensor([encode_prompt(tokenizer, problem.question)])
    output = model.generate(ids, preset=preset, max_new_tokens=160, return_dict_in_generate=True)
    text = tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True)
    assert is_right(problem, text)
    assert (output.tokens_per_forward.item() > 3) == (preset == "d3llm")


@pytest.mark.parametrize("family", [LLaDAModelLM, DreamModel])
@pytest.mark.parametrize("form", QUANTIZED)
def test_every_family_can_be_quantized(form, family, tmp_path):
    full = tiny_model(family, width=64, feedforward=128)
    full.save_pretrained(tmp_path)
    model = quantized(form, tmp_path)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        found, expected = model(input_ids=ids).logits, full(input_ids=ids).logits
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < (0.6 if form.startswith(("int4", "nf4")) else 0.15)  # of unrelated models: 1.4
    output = model.generate(ids, preset="d3llm", max_new_tokens=12, return_dict_in_generate=True)
    assert (output.commit_steps > 0).all()


@pytest.mark.parametrize("form", BY_LIBRARIES)
def test_a_saved_quantized_model_serves_the_commands(form, tmp_path, capsys):
    model, tokenizer = quantized(form, STUDENT), load_tokenizer(STUDENT)
    folder = tmp_path / "quantized"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    again = load_model(folder)
    ids = tokenizer("Tom has 3 apples.", return_tensors="pt").input_ids
    arguments = {"preset": "d3llm", "max_new_tokens": 32}
    assert torch.equal(again.generate(ids, **arguments), model.generate(ids, **arguments))
    assert fingerprint_weights(again) == fingerprint_weights(model)
    line = ["--model", str(folder), "--preset", "d3llm", "--max-new-tokens", "32", "--no-chat"]
    assert main(["generate", "--prompt", "Tom has 3 apples.", *line]) == 0
    generated = again.generate(ids, **arguments)[0, ids.shape[1] :]
    output = capsys.readouterr()
    assert tokenizer.decode(generated, skip_special_tokens=True).strip() in output.out
    assert "warning" not in output.err


def test_a_change_of_one_quantized_weight_changes_the_fingerprint():
    model, other = (quantized("int8 dynamic", STUDENT) for _ in range(2))
    assert fingerprint_weights(model) == fingerprint_weights(other)
    head = other.get_output_embeddings()
    head.set_weight_bias(torch.quantize_per_tensor(head.weight().dequantize() * 2, 0.1, 0, torch.qint8), None)
    assert fingerprint_weights(model) != fingerprint_weights(other)


@pytest.mark.parametrize("form", TRAINED)
@pytest.mark.parametrize("kl_weight", [0.0, 0.5])
def test_adapters_are_trained_on_quantized_weights(form, kl_weight, tmp_path):
    trainer = make_trainer(
        STUDENT,
        tmp_path,
        model=quantized(form, STUDENT),
        train_dataset=load_trajectories(ROOT / "quickstart" / "trajectories").select(range(16)),
        peft_config=LoraConfig(r=2),
        layout="single",
        kl_weight=kl_weight,
        max_steps=2,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 5 for loss in losses)
    changed = [name for name, value in trainer.model.named_parameters() if "lora_B" in name and value.any()]
    assert len(changed) == 7 * trainer.model.config.num_hidden_layers


@pytest.mark.parametrize("form", TRAINED)
def test_adapters_are_not_merged_into_quantized_weights(form, tmp_path, capsys, caplog):
    tokenizer = load_tokenizer(STUDENT)
    base = tmp_path / "base"
    quantized(form, STUDENT).save_pretrained(base)
    tokenizer.save_pretrained(base)
    trainer = make_trainer(
        STUDENT, tmp_path, model=load_model(base), processing_class=tokenizer, peft_config=LoraConfig(r=2)
    )
    with caplog.at_level("WARNING", logger="d3llm"):
        save_merged(trainer, tmp_path / "merged", tokenizer)
    assert "not merged, because the weights are quantized" in caplog.text
    assert not (tmp_path / "merged").exists()
    trainer.save_model(tmp_path / "adapter")
    capsys.readouterr()
    line = [str(tmp_path / "adapter"), str(tmp_path / "plain"), "--license", "apache-2.0"]
    refusal = "is quantized, so nothing is merged into its weights"
    assert refusal in run_fails(capsys, "convert", *line)
    assert refusal in run_fails(capsys, "convert", str(base), *line[1:])
    assert main(["convert", *line, "--base-model", str(STUDENT)]) == 0
    merged, plain = load_model(tmp_path / "plain"), load_model(STUDENT)
    for name, weight in plain.state_dict().items():  # untrained adapters change nothing
        assert torch.equal(merged.state_dict()[name], weight)


def test_a_wrapped_head_is_refused_by_training(tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    model = LLaDAModelLM.from_pretrained(STUDENT, dtype="float32")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match=r"The LM head of the student is packed .* exclude it from the quantization"):
        make_trainer(STUDENT, tmp_path, model=model, peft_config=LoraConfig(r=2))
