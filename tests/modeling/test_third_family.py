"""A family of a user's own, registered by one call, works in every part of the package."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from d3llm.commands.main import main
from d3llm.hub_cards import MODEL_FACTS, ModelFacts, read_facts
from d3llm.modeling import FAMILIES, families, family_names, register_family
from d3llm.modeling.families import _registered
from d3llm.modeling.loading import load_model
from d3llm.trainers.adapters import add_adapter
from d3llm.trajectories.dataset import load_trajectories
from d3llm.trajectories.extract import ExtractionConfig, extract_trajectories
from tests.helpers.third_family import TinyQwenConfig, TinyQwenModel
from tests.helpers.trajectory_rows import make_trainer, random_trajectories


PROMPT = torch.tensor([[4, 5, 6]])


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_family(TinyQwenModel)
    yield
    _registered.pop("tiny_qwen")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = TinyQwenModel(TinyQwenConfig())
    with torch.no_grad():
        model.lm_head.weight[:2] = 0.0
    folder = tmp_path_factory.mktemp("third")
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_checkpoint / name, folder)
    return folder


def test_it_is_one_of_the_families():
    assert TinyQwenModel in families()
    assert family_names() == f"{', '.join(family.display_name for family in FAMILIES)} or TinyQwen"


def test_presets_take_what_differs_from_its_class():
    model = TinyQwenModel(TinyQwenConfig())
    assert model.diffusion_config(None, {"preset": "d3llm"}, 4).threshold == 0.7
    assert model.diffusion_config(None, {"preset": "dparallel"}, 4).threshold == 0.5


@pytest.mark.parametrize("preset", ["d3llm", "fast_dllm", "dkv_cache", "d2f"])
def test_it_decodes(checkpoint, preset):
    model = load_model(str(checkpoint)).eval()
    assert type(model) is TinyQwenModel
    tokens = model.generate(PROMPT, preset=preset, max_new_tokens=16, block_size=8)
    assert tokens.shape == (1, 19) and (tokens != 1).all()


def test_it_states_the_attention_of_its_checkpoints(checkpoint, monkeypatch):
    model = load_model(checkpoint)
    given = {"max_new_tokens": 8, "block_size": 4, "early_stop": False}
    expected = model.generate(PROMPT, preset="d2f", attention_block_size=8, **given)
    monkeypatch.setattr(TinyQwenModel, "attention", "block_causal")
    monkeypatch.setattr(TinyQwenModel, "attention_block_size", 8)
    config = model.diffusion_config(kwargs={"preset": "d2f", **given})
    assert (config.attention, config.attention_block_size) == ("block_causal", 8)
    assert torch.equal(model.generate(PROMPT, preset="d2f", **given), expected)
    assert model.diffusion_config(kwargs=given).attention == "block_causal"  # without a preset, that of the class
    # a preset that asks for no attention takes the model's
    assert model.diffusion_config(kwargs={"preset": "llada", **given}).attention == "block_causal"
    with pytest.raises(ValueError, match="`attention_block_size`=8 and `block_size`=3: one must divide the other"):
        model.generate(PROMPT, preset="d2f", **{**given, "block_size": 3})


def test_commands_take_it(checkpoint, capsys):
    assert main(["generate", "--model", str(checkpoint), "--prompt", "one two", "--max-new-tokens", "8"]) == 0
    assert main(["presets"]) == 0
    assert "for tiny_qwen:" in capsys.readouterr().out


def test_extract_then_distill(checkpoint, tmp_path):
    from transformers import AutoTokenizer

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"one plus {word}"}) + "\n" for word in ("two", "three")))
    config = ExtractionConfig(str(prompts), tmp_path / "out", "tiny", decoding={"max_new_tokens": 16}, check="none")
    extract_trajectories(load_model(str(checkpoint)).eval(), AutoTokenizer.from_pretrained(checkpoint), config)
    rows = load_trajectories(str(tmp_path / "out"))
    decoding = json.loads(rows[0]["decode_config"])
    assert len(rows) == 2
    assert (decoding["selection"], decoding["block_size"]) == ("count", 8)  # as its class says

    model = load_model(str(checkpoint))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_trainer(
        checkpoint, tmp_path / "training", model=model, train_dataset=random_trajectories(), max_steps=2
    )
    trainer.train()
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_adapters_wrap_the_layers_that_it_names(checkpoint):
    adapted = add_adapter(load_model(str(checkpoint)), LoraConfig())
    assert {
        name.split(".lora_A")[0].rpartition(".")[2] for name, _ in adapted.named_parameters() if "lora_A" in name
    } == {
        "query",
        "key",
        "value",
        "out",
        "up",
        "down",
    }


def test_convert_card_and_push(checkpoint, tmp_path, hub, capsys):
    output = tmp_path / "clean"
    assert main(["convert", str(checkpoint), str(output), "--license", "mit"]) == 0
    assert read_facts(ModelFacts, output / MODEL_FACTS).architecture == "TinyQwenModel"
    assert "TinyQwenModel" in (output / "README.md").read_text()
    assert main(["push", "model", str(output), "ada/third"]) == 0
    files = hub.repository("ada/third").head.files
    assert {"third_family.py", "layers.py", "decoding_diffusion.py", "model.safetensors", "README.md"} <= files.keys()


@pytest.mark.parametrize("wrong", [AutoConfig, AutoModelForCausalLM, type("Unsaid", (), {})])
def test_a_class_that_states_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="derive its class from MaskedDiffusionPreTrainedModel"):
        register_family(wrong)


def test_values_of_presets_are_fields(monkeypatch):
    monkeypatch.setattr(TinyQwenModel, "preset_values", {"d3llm": {"thresold": 0.4}})
    with pytest.raises(ValueError, match=r"unknown generation field `thresold` .did you mean `threshold`"):
        register_family(TinyQwenModel)


def test_a_model_that_cannot_be_saved_is_refused_before_the_training(checkpoint, tmp_path, monkeypatch):
    class ModelOfAScript(TinyQwenModel):
        logits_shift = 1

    monkeypatch.setattr(ModelOfAScript, "__module__", "__main__")
    model = ModelOfAScript.from_pretrained(checkpoint)
    make_trainer(checkpoint, tmp_path, model=model)
    with pytest.raises(ValueError, match="defined in a script or notebook"):
        make_trainer(checkpoint, tmp_path, model=model, save_strategy="steps")
