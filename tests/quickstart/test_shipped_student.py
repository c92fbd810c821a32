"""The card of the shipped student."""

import json

from d3llm.common.fingerprints import fingerprint_files
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.comparison_plan import read_plan
from tests.helpers.paths import ROOT


def test_the_card_states_the_result_files():
    name, seed = read_plan().shipped
    card = (checkpoint_path("student") / "README.md").read_text()
    files = sorted((ROOT / "docs/results/student").glob(f"{name}-{seed}-prefix.*.json"))
    assert files
    for file in files:
        measured = json.loads(file.read_text())
        weights = [checkpoint_path("student") / name for name in ("config.json", "model.safetensors")]
        assert measured["weights"] == fingerprint_files(weights)
        low, high = measured["accuracy_interval"]
        accuracy = f"{measured['accuracy']:.1%} ({low:.1%} to {high:.1%})"
        assert f"| {measured['point']['threshold']} | {accuracy} | {measured['tokens_per_forward']:.2f} |" in card
