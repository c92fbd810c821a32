"""Every family with every preset for its attention: rows at their own pace, every position once, and an end."""

import pytest
import torch

from d3llm.generation import PRESETS
from d3llm.modeling import FAMILIES, Fast_dLLM_QwenForCausalLM, LLaDAModelLM, ReFusionForCausalLM
from tests.helpers.decoding import MASK, left_pad, prompts
from tests.helpers.models import tiny_model


NEW = 13
# Every attention, and logits that are shifted and not; the other families of each share its decoding.
OF_EVERY_PRESET = (LLaDAModelLM, Fast_dLLM_QwenForCausalLM, ReFusionForCausalLM)
OF_EVERY_FAMILY = ("d3llm", "fast_dllm", "self_speculative", "sdar", "llada21_quality")
CASES = [
    pytest.param(
        family,
        preset,
        id=f"{family.__name__}-{preset}",
        marks=() if family in OF_EVERY_PRESET or preset in OF_EVERY_FAMILY else pytest.mark.slow,
    )
    for family in FAMILIES
    for preset in PRESETS
]


@pytest.fixture(scope="module")
def model(request):
    built = tiny_model(request.param, layers=1)
    with torch.no_grad():
        built.get_output_embeddings().weight[[MASK, 0]] = 0.0
        built.get_output_embeddings().weight.mul_(3)
    return built


@pytest.mark.parametrize(("model", "preset"), CASES, indirect=["model"])
def test_a_ragged_batch_is_its_rows_alone(model, preset):
    given = {"preset": preset, "max_new_tokens": NEW, "early_stop": False, "return_dict_in_generate": True, "seed": 3}
    needs = PRESETS[preset].values.get("attention")
    fits = model.attention != "causal" if needs is None else model.attention in (None, needs)
    if needs == "causal" and model.attention is None:  # slots predict their own positions
        fits = model.logits_shift == 0
    if not fits:
        with pytest.raises(ValueError, match=r"attention|logits"):
            model.generate(prompts([4])[0][None], **given)
        return
    if PRESETS[preset].values.get("soft_inputs"):
        given["edit_forwards"] = 8  # a random model revises for ever, and after some twenty forwards rounding tells
    texts = prompts([3, 7])
    ids, mask = left_pad(texts)
    together = model.generate(ids, attention_mask=mask, **given)
    assert not (together.sequences[:, -NEW:] == MASK).any()
    assert ((together.commit_steps >= 1) & (together.commit_steps <= together.forward_passes[:, None])).all()
    for row, text in enumerate(texts):
        alone = model.generate(text[None], **given)
        assert torch.equal(together.sequences[row, -NEW:], alone.sequences[0, -NEW:])
        assert torch.equal(together.commit_steps[row], alone.commit_steps[0])
        for field in ("forward_passes", "row_forwards"):
            assert getattr(together, field)[row] == getattr(alone, field)[0]
