"""Checkpoints carry their code: they load, decode and save where the package cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from d3llm.hub_cards.repositories import custom_generate_repository
from d3llm.modeling import DreamModel, LLaDAModelLM, remote_code
from d3llm.modeling.remote_code import ExportError, flatten
from tests.helpers.hub import LoopbackHub, loopback_hub
from tests.helpers.hub_download import CALL, PROMPT
from tests.helpers.models import OF_WORDS, tiny_model
from tests.helpers.paths import ROOT


# What engines read: vLLM's plugin and SGLang's d3LLM support choose by the class name and map these keys.
LLADA_KEYS = {
    "model.transformer.wte.weight",
    "model.transformer.ln_f.weight",
    "model.transformer.ff_out.weight",
    *(
        f"model.transformer.blocks.{layer}.{part}.weight"
        for layer in (0, 1)
        for part in ("attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out")
    ),
}
LLADA_FIELDS = {
    "d_model",
    "n_heads",
    "n_kv_heads",
    "n_layers",
    "mlp_hidden_size",
    "vocab_size",
    "embedding_size",
    "max_sequence_length",
    "rms_norm_eps",
    "rope_theta",
    "mask_token_id",
    "weight_tying",
}
DREAM_KEYS = {
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    *(
        f"model.layers.{layer}.{part}"
        for layer in (0, 1)
        for part in (
            *(f"self_attn.{p}_proj.{kind}" for p in "qkv" for kind in ("weight", "bias")),
            "self_attn.o_proj.weight",
            *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")),
            "input_layernorm.weight",
            "post_attention_layernorm.weight",
        )
    ),
}
DREAM_FIELDS = {
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "mask_token_id",
    "tie_word_embeddings",
}


def run_script(name: str, *arguments: Any, environment: dict[str, str]) -> None:
    # run by path: nothing of the checkout is to be importable but what is installed
    command = [sys.executable, str(ROOT / "tests/helpers" / name), *map(str, arguments)]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


def save_with_block_size(model: Any, folder: Path) -> Path:
    model.generation_config.block_size = 4
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dream_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(DreamModel, seed=1, **OF_WORDS | {"heads": 4}, positions=64)
    with torch.no_grad():
        model.lm_head.weight[:2] = 0.0
    return save_with_block_size(model, tmp_path_factory.mktemp("dream"))


@pytest.fixture(scope="module")
def llada_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("llada")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return save_with_block_size(LLaDAModelLM.from_pretrained(tiny_checkpoint), folder)


@pytest.fixture(scope="module")
def hub():
    with loopback_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def work(llada_checkpoint, dream_checkpoint, hub: LoopbackHub, tmp_path_factory) -> Path:
    """What a process with the package saved; what it pushed is on the hub."""
    folder = tmp_path_factory.mktemp("work")
    environment = hub.environment(folder / "cache")
    run_script("hub_publish.py", llada_checkpoint, dream_checkpoint, folder, environment=environment)
    return folder


@pytest.fixture(scope="module")
def downloaded(work: Path, hub: LoopbackHub, tmp_path_factory) -> dict[str, Any]:
    """What a process without the package made of it."""
    folder = tmp_path_factory.mktemp("download")
    run_script("hub_download.py", work, folder / "results.json", environment=hub.environment(folder / "cache"))
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", ["ada/llada", "ada/dream"])
def test_a_download_decodes_as_the_package_does(downloaded, name, llada_checkpoint, dream_checkpoint):
    ours = (
        LLaDAModelLM.from_pretrained(llada_checkpoint)
        if name == "ada/llada"
        else DreamModel.from_pretrained(dream_checkpoint)
    ).eval()
    assert downloaded[name]["config_class"] == "DiffusionGenerationConfig"
    assert torch.equal(torch.tensor(downloaded[name]["logits"]), ours(PROMPT).logits)
    assert downloaded[name]["tokens"] == ours.generate(PROMPT, **CALL).tolist()


@pytest.mark.parametrize("name", ["ada/trained", "checkpoint-1", "merged"])
def test_trained_and_merged_checkpoints_load_too(downloaded, name):
    assert downloaded[name]["tokens"] != []
    assert {"modeling_llada.py", "decoding_diffusion.py"} <= set(downloaded[name]["files"])


def test_the_decoder_works_on_foreign_classes(downloaded, llada_checkpoint, dream_checkpoint):
    padding = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    for family, model in (
        ("llada", LLaDAModelLM.from_pretrained(llada_checkpoint)),
        ("dream", DreamModel.from_pretrained(dream_checkpoint)),
    ):
        assert downloaded["foreign"][family] == model.generate(PROMPT, **CALL).tolist()
        padded = model.generate(PROMPT, attention_mask=padding, **CALL).tolist()
        assert downloaded["foreign"][f"padded {family}"] == padded


def test_what_a_foreign_class_cannot_do_is_an_error(downloaded):
    refused = downloaded["refused"]
    assert "no canvas cache" in refused["cache"]
    assert "block_causal" in refused["attention"]
    assert "did you mean `threshold`" in refused["typo"]
    assert "is not LLaDA, Dream" in refused["family"]


def test_the_metric_loads_from_its_space(downloaded):
    assert downloaded["aup"] == pytest.approx(637.6549264841269)


@pytest.mark.parametrize("repo", ["ada/llada", "ada/dream", "ada/trained"])
def test_a_pushed_repository_is_whole(work, hub: LoopbackHub, repo):
    files = hub.repository(repo).head.files
    config = json.loads(files["config.json"])
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM"}
    for target in config["auto_map"].values():
        assert f"{target.rpartition('.')[0]}.py" in files
    assert {"README.md", "generation_config.json", "model.safetensors"} <= files.keys()


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM])
def test_the_package_serves_each_auto_class(llada_checkpoint, dream_checkpoint, auto_class):
    for folder, model_class in ((llada_checkpoint, LLaDAModelLM), (dream_checkpoint, DreamModel)):
        model, loading = auto_class.from_pretrained(folder, output_loading_info=True)
        assert type(model) is model_class and not loading["missing_keys"]
        assert model.generation_config.block_size == 4


@pytest.mark.parametrize(("family", "name"), [("llada", "LLaDAModel"), ("dream", "DreamBaseModel")])
def test_a_model_without_its_head_is_named_for_what_it_is(
    work, downloaded, family, name, llada_checkpoint, dream_checkpoint
):
    auto_map = json.loads((work / f"base-{family}" / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel"}
    assert auto_map["AutoModel"] == f"modeling_{family}.{name}"
    ours = AutoModel.from_pretrained(llada_checkpoint if family == "llada" else dream_checkpoint).model.eval()
    found = downloaded["base"][family]
    assert found["class"] == name
    assert torch.equal(torch.tensor(found["hidden"]), ours(PROMPT).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "keys", "fields"),
    [("LLaDAModelLM", LLADA_KEYS, LLADA_FIELDS), ("DreamModel", DREAM_KEYS, DREAM_FIELDS)],
)
def test_names_and_keys_that_engines_read(llada_checkpoint, dream_checkpoint, name, keys, fields):
    folder = llada_checkpoint if name == "LLaDAModelLM" else dream_checkpoint
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        assert set(tensors.keys()) == keys
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [name]
    assert config["model_type"] == {"LLaDAModelLM": "llada", "DreamModel": "Dream"}[name]
    assert fields <= config.keys()


def test_transformers_finds_all_imports_of_the_flat_files(llada_checkpoint, tmp_path):
    (tmp_path / "custom_generate").mkdir()
    for path, content in custom_generate_repository("ada/decoder").files.items():
        (tmp_path / path).write_bytes(content)
    for entry in (llada_checkpoint / "modeling_llada.py", tmp_path / "custom_generate/generate.py"):
        present = {str(path.resolve()) for path in entry.parent.glob("*.py")}
        assert {str(Path(file).resolve()) for file in get_relative_import_files(str(entry))} <= present
        for file in present:
            assert set(get_imports(file)) <= remote_code.ALLOWED_PACKAGES


def test_weights_have_the_rights_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        tiny_model(LLaDAModelLM).save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_lines_keep_their_numbers():
    flat = flatten("d3llm.modeling.modeling_llada")["modeling_llada.py"].splitlines()
    source = (ROOT / "modeling/modeling_llada.py").read_text().splitlines()
    different = [number for number, (one, other) in enumerate(zip(flat, source, strict=True), 1) if one != other]
    imported = [source[number - 1].split()[1] for number in different]
    assert imported == [
        "..generation.canvas_cache",
        "..generation.decoding_diffusion",
        "..generation.likelihood",
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("import flash_attn", "line 1: imports flash_attn"),
        ("from d3llm.generation.canvas import Canvas", "use relative imports within this package"),
        ("from ..generation import Canvas", "the module that defines the name"),
        ("from ..generation.nothere import Canvas", "no source file"),
    ],
)
def test_code_that_cannot_travel_is_refused(tmp_path, monkeypatch, line, complaint):
    (tmp_path / "bad.py").write_text(line + "\n")
    found = remote_code._source_file
    monkeypatch.setattr(
        remote_code, "_source_file", lambda m: tmp_path / "bad.py" if m == "d3llm.modeling.bad" else found(m)
    )
    with pytest.raises(ExportError, match=complaint):
        flatten("d3llm.modeling.bad")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("import d3llm.modeling", "line 1: imports d3llm.modeling; write `from d3llm.ROOM.MODULE import NAME`"),
        ("from d3llm.modeling import LLaDAModelLM", "the module that defines the name, not from d3llm.modeling"),
    ],
)
def test_a_module_of_a_user_says_which_modules_it_needs(tmp_path, monkeypatch, line, complaint):
    (tmp_path / "module_of_a_user.py").write_text(line + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match=complaint):
        flatten("module_of_a_user")


def test_a_class_of_a_script_is_refused():
    with pytest.raises(ExportError, match="defined in a script or notebook"):
        flatten("__main__")


def test_a_full_disk_leaves_the_code_that_was_there(tmp_path, monkeypatch):
    remote_code.write_files(tmp_path, {"a.py": "one = 1\n"})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        remote_code.write_files(tmp_path, {"a.py": "two = 2\n"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]
    assert (tmp_path / "a.py").read_text() == "one = 1\n"
