"""What SGLang needs is in the exports of the families that it serves, and on their cards."""

import json
import shutil

import pytest
import yaml

from d3llm.hub_cards import ModelFacts, model_card
from d3llm.hub_cards.convert import convert
from d3llm.hub_cards.repositories import model_repository
from d3llm.hub_cards.serving import SERVED, SGLANG_FILE, sglang_serving
from d3llm.modeling import LLaDA2MoeModelLM, LLaDAModelLM, SDARForCausalLM, families
from tests.helpers.models import tiny_model


SDAR = {"architectures": ["SDARForCausalLM"], "model_type": "sdar", "mask_token_id": 151669, "block_size": 8}


@pytest.mark.parametrize(
    ("decoding", "algorithm", "expected"),
    [
        ({"preset": "sdar"}, "LowConfidence", {"threshold": 0.85, "block_size": 8}),
        ({"preset": "sdar", "threshold": 0.7}, "LowConfidence", {"threshold": 0.7, "block_size": 8}),
        ({"preset": "sdar_static"}, "LowConfidence", {"threshold": 0.95, "block_size": 8}),
        ({}, "LowConfidence", {"threshold": 0.95, "block_size": 8}),
        (
            {"preset": "llada21_quality"},
            "JointThreshold",
            {"threshold": 0.95, "edit_threshold": 0.9, "block_size": 8},
        ),
    ],
)
def test_the_configuration_decodes_as_the_folder_says(decoding, algorithm, expected):
    assert sglang_serving(SDAR, decoding) == {"algorithm": algorithm, "config": expected}


def test_what_sglang_would_not_decode_has_none():
    assert sglang_serving({**SDAR, "mask_token_id": 5}, {}) == {}
    assert sglang_serving({**SDAR, "architectures": ["LLaDAModelLM"], "model_type": "llada"}, {}) == {}
    assert sglang_serving({}, {}) == {}


def test_every_served_class_is_a_family_of_ours():
    block_sizes = {family.__name__: family.attention_block_size for family in families()}
    for name, served in SERVED.items():
        assert block_sizes[name] == served.block_size


@pytest.mark.parametrize("family", [SDARForCausalLM, LLaDA2MoeModelLM])
def test_an_export_holds_the_configuration_and_the_card_the_launch(family, tiny_checkpoint, tmp_path, monkeypatch):
    served = SERVED[family.__name__]._replace(mask_token_id=1)
    monkeypatch.setitem(SERVED, family.__name__, served)
    source = tmp_path / "source"
    model = tiny_model(family, vocab_size=16, mask_token_id=1)
    model.generation_config = model.generation_config_class(preset="llada2", threshold=0.9)
    model.save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_checkpoint / name, source)
    output = tmp_path / "output"
    facts = convert(source, output, license="mit")
    assert yaml.safe_load((output / SGLANG_FILE).read_text()) == {"threshold": 0.9, "block_size": served.block_size}
    card = (output / "README.md").read_text()
    assert "--dllm-algorithm LowConfidence --dllm-algorithm-config serving/sglang.yaml" in card
    files = model_repository(output, "ada/model", facts).files
    assert yaml.safe_load(files[SGLANG_FILE])["threshold"] == 0.9
    assert b"--model-path ada/model" in files["README.md"]
    assert json.loads((output / "config.json").read_text())["architectures"] == [family.__name__]


def test_any_other_export_has_neither(tmp_path):
    facts = ModelFacts("a", "mit", LLaDAModelLM.__name__, 1)
    assert facts.serving == {} and "sglang" not in model_card(facts).lower()
