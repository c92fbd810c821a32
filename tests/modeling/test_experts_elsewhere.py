"""Families with experts in the other parts of the package: decoding, training, adapters, conversion, cards, push."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig

from d3llm.commands.main import main
from d3llm.hub_cards import MODEL_FACTS, ModelFacts, read_facts
from d3llm.modeling import LLaDA2MoeModelLM, LLaDAMoEModelLM, SDARMoeForCausalLM
from d3llm.modeling.loading import load_model
from d3llm.trainers.adapters import add_adapter, merge_adapter
from tests.helpers.models import OF_WORDS, tiny_model
from tests.helpers.trajectory_rows import make_trainer, random_trajectories


PROMPT = torch.tensor([[4, 5, 6]])
FAMILIES = [LLaDAMoEModelLM, LLaDA2MoeModelLM, SDARMoeForCausalLM]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def family(request) -> type:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(family: type, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(family, **OF_WORDS, positions=128)
    with torch.no_grad():
        model.lm_head.weight[:2] = 0.0
    folder = tmp_path_factory.mktemp(family.__name__)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_checkpoint / name, folder)
    return folder


def test_it_decodes_with_every_kernel(checkpoint, family):
    model = load_model(checkpoint)
    assert type(model) is family
    given = {"max_new_tokens": 16, "block_size": 8, "early_stop": False}
    expected = model.generate(PROMPT, **given)
    assert expected.shape == (1, 19) and (expected != 1).all()
    for kernel in ("eager", "batched_mm"):
        model.set_experts_implementation(kernel)
        assert model.generate(PROMPT, **given).equal(expected)


def test_it_trains_and_resumes(checkpoint, tmp_path):
    def train(folder, resume=None):
        model = load_model(checkpoint)
        rows, settings = random_trajectories(), {"max_steps": 2, "save_steps": 1, "save_strategy": "steps"}
        trainer = make_trainer(checkpoint, folder, model=model, train_dataset=rows, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    before, whole = load_model(checkpoint).state_dict(), train(tmp_path / "whole")
    stacked = [name for name in whole if name.endswith("experts.gate_up_proj")]
    assert stacked and not any(whole[name].equal(before[name]) for name in stacked)
    resumed = train(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-1"))
    assert all(tensor.equal(resumed[name]) for name, tensor in whole.items())


def test_adapters_wrap_the_layers_that_it_names(checkpoint, family, tmp_path):
    adapted = add_adapter(load_model(checkpoint), LoraConfig())
    wrapped = {
        name.split(".lora_A")[0].rpartition(".")[2] for name, _ in adapted.named_parameters() if "lora_A" in name
    }
    assert wrapped == set(family.adapter_targets["projections"])
    for config in (IA3Config(), LNTuningConfig()):
        assert add_adapter(load_model(checkpoint), config).get_nb_trainable_parameters()[0] > 0
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    with torch.no_grad():
        expected = adapted(PROMPT).logits
        merged = load_model(merge_adapter(adapted, tmp_path / "merged"))
        torch.testing.assert_close(merged(PROMPT).logits, expected, atol=1e-4, rtol=1e-4)


def test_convert_card_and_push(checkpoint, family, tmp_path, hub):
    output = tmp_path / "clean"
    assert main(["convert", str(checkpoint), str(output), "--license", "mit"]) == 0
    facts = read_facts(ModelFacts, output / MODEL_FACTS)
    assert facts.architecture == family.__name__
    assert facts.parameters == sum(tensor.numel() for tensor in load_model(checkpoint).state_dict().values())
    assert family.__name__ in (output / "README.md").read_text()
    assert main(["push", "model", str(output), "ada/experts"]) == 0
    files = hub.repository("ada/experts").head.files
    own = {f"{kind}_{family.config_class.model_type}.py" for kind in ("configuration", "modeling")}
    assert own | {"experts.py", "layers.py", "decoding_diffusion.py", "model.safetensors", "README.md"} <= files.keys()


def test_commands_take_it(checkpoint, capsys):
    assert main(["generate", "--model", str(checkpoint), "--prompt", "one two", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out.strip()
    assert json.loads((checkpoint / "config.json").read_text())["num_experts"] == 8
