"""docs/adding.md: its examples run, one after another as on the page, and do what the page says."""

import re

from tests.helpers.forks import Fork, run_script
from tests.helpers.paths import ROOT


PAGE = (ROOT / "docs/adding.md").read_text(encoding="utf-8")
# What the page promises of each section's result, added to its lines.
CHECKS = """
import d3llm.modeling
from transformers import AutoModel
from d3llm.generation import PRESETS, DiffusionGenerationConfig
assert PRESETS["margin_blocks"].values["block_size"] == 16
assert "margin_blocks" in DiffusionGenerationConfig(preset="margin_blocks").preset
faulty = [({"threshold": 2.0}, "threshold"), ({"thresold": 0.5}, "did you mean"), ({"score": "x"}, "score")]
for values, complaint in faulty:
    try:
        register_preset(Preset("faulty", "", "", {"score": "margin", **values}))
    except ValueError as error:
        assert complaint in str(error), error
    else:
        raise AssertionError(values)
for again in (lambda: register_preset(PRESETS["margin_blocks"]), lambda: register_rule("count", None)):
    try:
        again()
    except ValueError as error:
        assert "is taken" in str(error), error
    else:
        raise AssertionError

for start in (0, 16):  # left to right in each block, several at once somewhere
    block = steps[start : start + 16]
    assert (block.diff() >= 0).all()
assert (steps.diff() == 0).any()

assert [result.decoding["preset"] for result in results] == ["margin_blocks", "d3llm"]
assert results[0].num_samples == 2

assert tiny.diffusion_config(kwargs={"preset": "d3llm"}).threshold == 0.4
assert "Shifted" in d3llm.modeling.family_names()
assert torch.equal(tiny.logit_rows(torch.tensor([3])), torch.tensor([2]))
assert type(AutoModel.from_pretrained("tiny")) is ShiftedModelLM

from types import SimpleNamespace
losses = SimpleNamespace(cross_entropy=torch.tensor([0.0, 30.0]), certainty=torch.ones(2), divergence=torch.zeros(2),
                         entropy=torch.ones(2), correct=torch.tensor([True, False]))
arguments = losses, torch.tensor([False, False]), torch.ones(2), torch.tensor([0, 0])
focal = FocalTrainer.sum_up(FocalTrainer.__new__(FocalTrainer), *arguments)
assert focal["certainty"] == 0 and abs(focal["cross_entropy"] - 30) < 1e-3, focal
"""


def test_the_examples_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    files = re.findall(r"```(?:py|json|yaml)\n(.*?)```", PAGE, re.DOTALL)
    for name, block in zip(("shifted.py", "doubles.jsonl", "doubles.yaml"), files, strict=True):
        (tmp_path / name).write_text(block, encoding="utf-8")
    source = "\n".join(["import sys", "sys.path.insert(0, '')", *blocks, CHECKS])
    result = Fork(run_script, source, cwd=tmp_path).wait()
    assert result.returncode == 0, result.stderr


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target


def test_the_facts_are_those_of_the_class():
    from d3llm.modeling.layers import MaskedDiffusionPreTrainedModel

    for fact in re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE):
        assert hasattr(MaskedDiffusionPreTrainedModel, fact) or fact == "logits_shift", fact
