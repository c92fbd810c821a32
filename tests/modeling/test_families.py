"""Every family: its facts, its folder on disk, its code on the Hub; and how a checkpoint finds its class."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from d3llm.commands.loading import is_diffusion_model
from d3llm.hub_cards.generate import AdaptedModel
from d3llm.modeling import (
    FAMILIES,
    DreamModel,
    Fast_dLLM_QwenForCausalLM,
    LLaDAConfig,
    LLaDAModelLM,
    MMadaModelLM,
    SDARConfig,
    SDARForCausalLM,
    families,
    find_family,
    register_family,
)
from d3llm.modeling.families import _registered
from d3llm.modeling.loading import load_model, read_config
from d3llm.modeling.shared_model_type import _config_classes
from d3llm.trainers.adapters import add_adapter
from tests.helpers.models import tiny_config, tiny_model
from tests.helpers.paths import ROOT
from tests.helpers.third_family import TinyQwenConfig, TinyQwenModel


over_families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
IDS = torch.arange(4, 14)[None]
QWEN3_KEYS = {
    *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
    *(f"self_attn.{part}_norm.weight" for part in "qk"),
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
}
QWEN2_KEYS = (QWEN3_KEYS | {f"self_attn.{part}_proj.bias" for part in "qkv"}) - {
    f"self_attn.{part}_norm.weight" for part in "qk"
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family and of one of a user's own, by the name of its class."""
    root = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        tiny_model(family).save_pretrained(root / family.__name__)
    users_model().save_pretrained(root / "TinyQwenModel")
    return root


def users_model() -> TinyQwenModel:
    torch.manual_seed(0)
    return TinyQwenModel(TinyQwenConfig()).eval()


@pytest.fixture(scope="module")
def downloaded(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a process without the package makes of the checkpoints."""
    results = tmp_path_factory.mktemp("downloaded") / "results.json"
    script = ROOT / "tests/helpers/families_download.py"
    environment = {**os.environ, "HF_MODULES_CACHE": str(results.parent / "modules")}
    command = [sys.executable, str(script), str(folders), str(results)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(results.read_text())


@over_families
def test_a_family_states_its_facts(family):
    assert family.display_name and family.checkpoints and family.teacher_decoding
    assert family.attention in (None, "bidirectional", "block_causal", "causal")
    assert family.attention_grid in ("prompt", "absolute")
    assert (family.attention_block_size is not None) == (family.attention == "block_causal")
    assert len({other.display_name for other in FAMILIES}) == len(FAMILIES)


def test_block_causal_families_count_from_the_first_token():
    for family, size in ((SDARForCausalLM, 4), (Fast_dLLM_QwenForCausalLM, 32)):
        assert (family.attention, family.attention_block_size, family.attention_grid) == (
            "block_causal",
            size,
            "absolute",
        )
    assert {LLaDAModelLM.attention_grid, DreamModel.attention_grid, MMadaModelLM.attention_grid} == {"prompt"}


@over_families
def test_a_saved_model_loads_as_its_class(family, folders):
    folder, model = folders / family.__name__, tiny_model(family)
    loaded = load_model(folder)
    assert type(loaded) is family and type(read_config(folder)) is family.config_class
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == ([family.__name__], family.config_class.model_type)
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert is_diffusion_model(folder)


@pytest.mark.parametrize(
    ("family", "layer_keys"), [(SDARForCausalLM, QWEN3_KEYS), (Fast_dLLM_QwenForCausalLM, QWEN2_KEYS)]
)
def test_the_keys_are_those_of_the_hub(family, layer_keys, folders):
    with safe_open(folders / family.__name__ / "model.safetensors", framework="pt") as tensors:
        keys = set(tensors.keys())
    expected = {f"model.layers.{layer}.{key}" for layer in (0, 1) for key in layer_keys}
    assert keys == expected | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


def test_keys_of_mmada_are_those_of_llada(folders):
    with safe_open(folders / "MMadaModelLM" / "model.safetensors", framework="pt") as tensors:
        assert set(tensors.keys()) == set(tiny_model(LLaDAModelLM).state_dict())


@pytest.mark.processes
@pytest.mark.parametrize("family", [*FAMILIES, TinyQwenModel], ids=lambda family: family.__name__)
@pytest.mark.slow
def test_it_loads_and_saves_again_with_its_code_where_the_package_is_not(family, folders, downloaded):
    folder, found = folders / family.__name__, downloaded[family.__name__]
    model = users_model() if family is TinyQwenModel else load_model(folder)
    assert found["class"] == family.__name__
    with torch.no_grad():
        logits = model(IDS).logits
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, atol=0, rtol=0)
    preset = "d3llm" if model.attention is None else None
    assert found["tokens"] == model.generate(IDS, preset=preset, max_new_tokens=8, block_size=4).tolist()
    assert ("batched logits" in found) == hasattr(model.config, "num_experts")
    torch.testing.assert_close(
        torch.tensor(found.get("batched logits", found["logits"])), logits, atol=1e-5, rtol=1e-5
    )
    before, after = (load_file(path / "model.safetensors") for path in (folder, folder / "again"))
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in (folder / "again").glob("*.py")}


@over_families
def test_adapters_wrap_the_layers_that_it_names(family):
    adapted = add_adapter(tiny_model(family), LoraConfig())
    wrapped = {
        name.split(".lora_A")[0].rpartition(".")[2] for name, _ in adapted.named_parameters() if "lora_A" in name
    }
    assert wrapped == set(family.adapter_targets["projections"])
    names = {name.rpartition(".")[0].rpartition(".")[2] for name, _ in tiny_model(family).named_parameters()}
    assert set(family.adapter_targets["norms"]) <= names


@over_families
def test_labels_give_the_loss_of_the_rows_that_predict_them(family):
    model = tiny_model(family)
    output = model(IDS, labels=IDS)
    rows = model.logit_rows(torch.arange(IDS.shape[1]))
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits[0, rows], IDS[0]))


# -- block sizes and attention


def test_a_model_of_sdar_has_the_block_size_of_its_config():
    assert tiny_model(SDARForCausalLM).attention_block_size == SDARForCausalLM.attention_block_size == 4
    assert tiny_model(SDARForCausalLM, block_size=16).attention_block_size == 16
    assert tiny_model(SDARForCausalLM, block_length=8).attention_block_size == 8
    assert tiny_model(Fast_dLLM_QwenForCausalLM, bd_size=16).attention_block_size == 16
    with pytest.raises(ValueError, match=r"SDARConfig\.block_size=4 and block_length=8 are two names of one field"):
        SDARConfig(block_size=4, block_length=8)


@pytest.mark.parametrize(
    ("family", "field"), [(SDARForCausalLM, "block_size"), (Fast_dLLM_QwenForCausalLM, "bd_size")]
)
def test_a_block_has_a_position_at_least(family, field):
    with pytest.raises(ValueError, match=rf"Config\.{field}=0"):
        tiny_model(family, **{field: 0})


def test_heads_of_sdar_have_a_size_of_their_own():
    model = tiny_model(SDARForCausalLM, head_dim=12)
    assert model.model.layers[0].self_attn.q_proj.out_features == 48
    assert model.model.layers[0].self_attn.k_norm.weight.shape == (12,)
    assert tiny_model(SDARForCausalLM, head_dim=None).model.layers[0].self_attn.head_dim == 8
    with pytest.raises(ValueError, match=r"SDARConfig\.head_dim=0"):
        tiny_model(SDARForCausalLM, head_dim=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [SDARForCausalLM, Fast_dLLM_QwenForCausalLM])
def test_a_block_causal_mask_hides_later_blocks(family, attention):
    model = tiny_model(family, attn_implementation=attention)
    block = torch.arange(10) // 4
    mask = (block[:, None] >= block)[None, None]
    changed = IDS.clone()
    changed[0, 7] = 50
    with torch.no_grad():
        different = (model(IDS, attention_mask=mask).logits != model(changed, attention_mask=mask).logits).any(dim=-1)
    assert different[0].tolist() == [False] * 4 + [True] * 6


@pytest.mark.parametrize("fields", [{"use_sliding_window": True}, {"layer_types": ["sliding_attention"] * 2}])
def test_a_sliding_window_is_refused(fields):
    with pytest.raises(ValueError, match="Fast-dLLM v2 attends to the whole canvas"):
        Fast_dLLM_QwenForCausalLM(tiny_config(Fast_dLLM_QwenForCausalLM, **fields))


def test_a_class_of_others_is_not_decoded_with_another_attention():
    model = tiny_model(SDARForCausalLM)
    adapted = AdaptedModel(model, logits_shift=0)
    for preset in (None, "llada"):
        with pytest.raises(ValueError, match="'block_causal' needs a class of d3llm"):
            adapted.generate(IDS, preset=preset, max_new_tokens=8)


def test_a_class_of_others_is_not_given_soft_inputs():
    adapted = AdaptedModel(tiny_model(LLaDAModelLM), logits_shift=0)
    with pytest.raises(ValueError, match="`soft_inputs` needs a class of d3llm"):
        adapted.generate(IDS, preset="dmax", max_new_tokens=8)


# -- which class a checkpoint is of


class ExpertsConfig(LLaDAConfig):
    model_type = "llada_experts"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)


class ExpertsModelLM(LLaDAModelLM):
    """Stands for a family that the Hub has under the `model_type` of another one."""

    config_class = ExpertsConfig
    display_name = "Experts"
    logits_shift = 0
    hub_model_types = ("llada",)


@pytest.fixture
def experts():
    register_family(ExpertsModelLM)
    yield ExpertsModelLM
    _registered.pop("llada_experts")
    _config_classes.pop(("llada", "ExpertsModelLM"))


def rename(folder: Path, target: Path, **fields: object) -> Path:
    """A copy of a checkpoint whose config.json says something else."""
    target.mkdir()
    for file in ("model.safetensors", "generation_config.json"):
        (target / file).write_bytes((folder / file).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **fields}))
    return target


@pytest.mark.parametrize("model_type", ["llada", "llada_experts"])
def test_architectures_come_before_the_model_type(experts, folders, tmp_path, model_type):
    names = {"model_type": model_type, "architectures": ["ExpertsModelLM"]}
    folder = rename(folders / "LLaDAModelLM", tmp_path / "experts", **names)
    for loaded in (load_model(folder), AutoModelForCausalLM.from_pretrained(folder)):
        assert type(loaded) is experts and loaded.config.model_type == "llada_experts"
    assert type(AutoConfig.from_pretrained(folder)) is ExpertsConfig
    assert type(load_model(folders / "LLaDAModelLM")) is LLaDAModelLM
    load_model(folder).save_pretrained(tmp_path / "again", with_code=False)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "llada_experts"


@pytest.mark.parametrize("architectures", [None, [], ["OthersModelLM"], ["LLaDAModel"]])
def test_other_architectures_do_not_count(folders, tmp_path, architectures):
    folder = rename(folders / "LLaDAModelLM", tmp_path / "renamed", architectures=architectures)
    assert type(load_model(folder)) is LLaDAModelLM


def test_a_wrong_pair_is_one_clear_line(folders, tmp_path):
    folder = rename(folders / "LLaDAModelLM", tmp_path / "wrong", architectures=["SDARForCausalLM"])
    with pytest.raises(ValueError, match="name different models") as error:
        load_model(folder)
    assert str(error.value) == (
        f"{folder}: `model_type` 'llada' and `architectures` 'SDARForCausalLM' name different models: of this class "
        "it is 'sdar', so correct one of them in config.json."
    )
    with pytest.raises(ValueError, match="name different models"):
        is_diffusion_model(folder)


def test_architectures_that_are_no_list_are_damage(folders, tmp_path):
    folder = rename(folders / "LLaDAModelLM", tmp_path / "damaged", architectures="LLaDAModelLM")
    with pytest.raises(OSError, match=r"Cannot load the config.json .* is not a list of names"):
        load_model(folder)


def test_trado_is_of_the_class_of_sdar():
    assert find_family("sdar", ["SDARForCausalLM"]) is SDARForCausalLM
    assert any("TraDo" in name for name in SDARForCausalLM.checkpoints)
    assert set(FAMILIES) <= set(families())
