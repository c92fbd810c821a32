"""`d3llm convert`: clean folders of adapters, sharded checkpoints and folders with old code; every key is checked."""

import json
import shutil
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from d3llm.commands.main import main
from d3llm.hub_cards import MODEL_FACTS, ModelFacts, facts_json, read_facts
from d3llm.hub_cards.convert import convert
from d3llm.hub_cards.from_results import model_facts
from d3llm.hub_cards.merging import ATTENTION_FILE
from d3llm.hub_cards.repositories import model_repository
from d3llm.modeling import LLaDAModelLM
from d3llm.trainers.adapters import add_adapter, merge_adapter
from tests.helpers.models import OF_WORDS, tiny_model
from tests.helpers.trajectory_rows import make_trainer


IDS = torch.tensor([[3, 4, 5, 1, 1]])


def logits(folder: Path) -> torch.Tensor:
    return LLaDAModelLM.from_pretrained(folder).eval()(IDS).logits


@pytest.fixture
def model(tiny_checkpoint: Path) -> LLaDAModelLM:
    return LLaDAModelLM.from_pretrained(tiny_checkpoint)


@pytest.fixture
def published(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A folder as on the Hub: same keys, somebody's old code and card."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_checkpoint / name, folder)
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_llada.py").write_text("raise RuntimeError('old code was run')\n")
    (folder / "configuration_llada.py").write_text("raise RuntimeError('old code was run')\n")
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: GSAI-ML/LLaDA-8B-Instruct\n---\nold\n")
    return folder


def test_a_published_folder_gets_our_code(published, tiny_checkpoint, tmp_path, capsys):
    output = tmp_path / "clean"
    assert main(["convert", str(published), str(output)]) == 0
    assert "LLaDAModelLM" in capsys.readouterr().out
    assert torch.equal(logits(output), logits(tiny_checkpoint))
    assert "old code" not in (output / "modeling_llada.py").read_text()
    facts = read_facts(ModelFacts, output / MODEL_FACTS)
    assert (facts.license, facts.base_model) == ("mit", "GSAI-ML/LLaDA-8B-Instruct")
    assert "preset" in (output / "README.md").read_text()
    assert model_repository(output, "ada/clean").files  # whole: it could be pushed
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_card_of_ours_is_kept(published, tmp_path):
    text = "---\nlicense: mit\ntags: [d3llm]\n---\nwritten by hand\n"
    (published / "README.md").write_text(text)
    convert(published, tmp_path / "clean", license="mit")
    assert (tmp_path / "clean/README.md").read_text() == text
    with pytest.raises(ValueError, match="hand-written card with another license"):
        convert(published, tmp_path / "again", license="apache-2.0")


def test_what_is_given_wins_over_what_the_source_says(published, tmp_path):
    facts = convert(published, tmp_path / "clean", license="apache-2.0", base_model_id="ada/base")
    assert (facts.license, facts.base_model) == ("apache-2.0", "ada/base")


def test_what_training_knew_is_kept(published, tmp_path):
    known = {"recipe": "d3llm_llada", "hyperparameters": {"max_steps": 4}, "trajectories": "ada/t"}
    (published / MODEL_FACTS).write_text(facts_json(model_facts(published, license="mit", **known)))
    facts = convert(published, tmp_path / "clean")
    assert {name: getattr(facts, name) for name in known} == known
    assert "max_steps" in (tmp_path / "clean/README.md").read_text()


@pytest.fixture
def adapter(model, tiny_checkpoint, tmp_path) -> tuple[Path, torch.Tensor]:
    torch.manual_seed(0)
    adapted = add_adapter(model, LoraConfig(r=2, init_lora_weights=False)).eval()
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_checkpoint)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", adapted(IDS).logits


def test_an_adapter_is_merged(adapter, tiny_checkpoint, tmp_path):
    folder, expected = adapter
    convert(folder, tmp_path / "merged", license="mit")
    assert torch.allclose(logits(tmp_path / "merged"), expected, atol=1e-5)
    assert not torch.allclose(logits(tiny_checkpoint), expected, atol=1e-3)
    assert not (tmp_path / "merged/adapter_config.json").exists()
    convert(folder, tmp_path / "again", license="mit", base_model=tiny_checkpoint)
    assert torch.equal(logits(tmp_path / "again"), logits(tmp_path / "merged"))


def test_an_adapter_that_names_no_model(adapter, tmp_path):
    folder, _ = adapter
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": 3}))
    with pytest.raises(ValueError, match="names 3 as its base model: give the folder with --base-model"):
        convert(folder, tmp_path / "merged", license="mit")


@pytest.mark.parametrize("change", ["missing", "superfluous", "shape"])
def test_every_key_of_an_adapter_is_checked(adapter, tmp_path, change):
    folder, _ = adapter
    tensors = load_file(folder / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    if change == "missing":
        del tensors[name]
    elif change == "superfluous":
        tensors[name.replace("blocks.0", "blocks.7")] = tensors[name].clone()
    else:
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="blocks"):
        convert(folder, tmp_path / "merged", license="mit")
    assert not (tmp_path / "merged").exists()


def sharded(model: LLaDAModelLM, folder: Path) -> Path:
    """A checkpoint as FSDP saves it with SHARDED_STATE_DICT."""
    import torch.distributed.checkpoint as dcp

    folder.mkdir()
    dcp.save({"model": model.state_dict()}, checkpoint_id=str(folder / "pytorch_model_fsdp_0"), no_dist=True)
    return folder


def test_a_checkpoint_of_fsdp(model, tiny_checkpoint, tmp_path):
    folder = sharded(model, tmp_path / "checkpoint-3")
    convert(folder, tmp_path / "whole", base_model=tiny_checkpoint, license="mit")
    assert torch.equal(logits(tmp_path / "whole"), logits(tiny_checkpoint))
    with pytest.raises(OSError, match="name the base model's folder with --base-model"):
        convert(folder, tmp_path / "other", license="mit")


def test_a_checkpoint_of_deepspeed(model, tiny_checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-3"
    (folder / "global_step3").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ValueError, match="pip install deepspeed"):
        convert(folder, tmp_path / "whole", base_model=tiny_checkpoint, license="mit")
    reader = types.ModuleType("deepspeed.utils.zero_to_fp32")
    reader.get_fp32_state_dict_from_zero_checkpoint = lambda path: dict(model.state_dict())
    for name in ("deepspeed", "deepspeed.utils"):
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "deepspeed.utils.zero_to_fp32", reader)
    convert(folder, tmp_path / "whole", base_model=tiny_checkpoint, license="mit")
    assert torch.equal(logits(tmp_path / "whole"), logits(tiny_checkpoint))


def test_tied_weights_need_one_key(tmp_path, model, tiny_checkpoint):
    config = model.config
    config.weight_tying = True
    tied = LLaDAModelLM(config)
    tied.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "base")
    folder = sharded(tied, tmp_path / "checkpoint-1")
    convert(folder, tmp_path / "whole", base_model=tmp_path / "base", license="mit")
    assert torch.equal(logits(tmp_path / "whole"), tied.eval()(IDS).logits)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("model.transformer.ln_f.weight"), "the weights lack model.transformer.ln_f.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "the weights have beyond config.json extra"),
        (lambda t: t.update({"model.transformer.ln_f.weight": torch.zeros(3)}), "ln_f.weight has the shape"),
    ],
)
def test_every_key_of_a_model_is_checked(published, tmp_path, change, complaint):
    tensors = load_file(published / "model.safetensors")
    change(tensors)
    save_file(tensors, published / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match=complaint):
        convert(published, tmp_path / "clean")
    assert not (tmp_path / "clean").exists()


def change_type(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: (f / "README.md").unlink(), "names no licence"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (change_type, "is a 'gpt2' model: expected LLaDA, Dream"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "Pickled weights are not read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 20), "are damaged"),
        (lambda f: (f / "generation_config.json").write_text("[]"), "Cannot load the model"),
        (lambda f: (f / "tokenizer_config.json").unlink(), "has no tokenizer"),
        (shutil.rmtree, "There is no folder"),
    ],
)
def test_bad_folders_are_named_in_one_line(published, tmp_path, capsys, spoil, complaint):
    spoil(published)
    assert main(["convert", str(published), str(tmp_path / "clean")]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("d3llm: error") == 1
    assert not (tmp_path / "clean").exists()
    assert not list(tmp_path.glob(".clean*"))


def test_nothing_is_overwritten(published, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(OSError, match="nothing is overwritten"):
        convert(published, tmp_path / "mine")


def test_a_full_disk_leaves_nothing(published, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(OSError, match="No space left"):
        convert(published, tmp_path / "clean")
    assert {path.name for path in tmp_path.iterdir()} == {"published"}


def test_adapters_keep_the_attention_of_their_training(tiny_checkpoint, tmp_path):
    output = tmp_path / "student"
    options = {"attention_block_sizes": [4], "block_context": "noisy", "max_steps": 1, "save_strategy": "steps"}
    trainer = make_trainer(tiny_checkpoint, output, peft_config=LoraConfig(r=2), save_steps=1, **options)
    trainer.train()
    for name in ("checkpoint-1", "."):
        trainer.save_model()
        merged = tmp_path / f"merged-{len(name)}"
        convert(output / name, merged, license="mit", base_model=tiny_checkpoint)
        config = json.loads((merged / "config.json").read_text())
        assert (config["attention"], config["attention_block_size"]) == ("block_causal", 4)
    (output / ATTENTION_FILE).write_text('{"attention": "causal", "attention_block_size": 4}')
    with pytest.raises(ValueError, match=r"attention\.json\['attention'\] is 'causal'"):
        convert(output, tmp_path / "again", license="mit", base_model=tiny_checkpoint)


def test_a_head_that_training_untied_stays_so(tmp_path):
    model = tiny_model(LLaDAModelLM, **OF_WORDS, weight_tying=True)
    model.save_pretrained(tmp_path / "tied")
    adapted = add_adapter(model, LoraConfig(r=2, modules_to_save=["model.transformer.ff_out"]))
    head = adapted.get_base_model().get_output_embeddings()
    with torch.no_grad():
        head.modules_to_save["default"].weight.add_(1.0)
    expected = adapted.eval()(IDS).logits
    merge_adapter(adapted, tmp_path / "merged")
    assert torch.allclose(logits(tmp_path / "merged"), expected, atol=1e-5)
