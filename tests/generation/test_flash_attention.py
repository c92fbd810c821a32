"""Flash attention gives what sdpa gives: every preset, cache, padding and family, and the trainer.

No kernel runs here: a stand-in does, where transformers calls them, so that what transformers does with padding is its
own.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CompileConfig

from d3llm.generation import PRESETS
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.problem import generate_problems
from tests.helpers.decoding import FAMILIES, left_pad, prompts
from tests.helpers.flash_standin import flash_attention  # noqa: F401
from tests.helpers.models import tiny_model


BIDIRECTIONAL_PRESETS = [name for name, preset in PRESETS.items() if "attention" not in preset.values]
CACHES = ["none", "prefix", "dual", "delayed", "block", "opened"]
PADDED = prompts([3, 11, 7, 1, 20, 5, 16, 9])
# One for each cache; d3LLM's has several blocks open.
OF_CACHES = ["d3llm", "frechet", "fast_dllm", "dkv_cache", "d3llm_opened", "dinfer_vicinity"]
RAGGED = {"block_size": 3, "max_new_tokens": 7, "eos_token_id": [7, 21], "seed": 3, "return_dict_in_generate": True}


def both(family, tmp_path, name):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    return model, family.from_pretrained(tmp_path, attn_implementation=name)


def assert_equal_runs(model, flash, ids, mask, **arguments):
    expected = model.generate(ids, attention_mask=mask, **arguments)
    output = flash.generate(ids, attention_mask=mask, **arguments)
    assert torch.equal(output.sequences, expected.sequences)
    assert torch.equal(output.commit_steps, expected.commit_steps)
    assert torch.equal(output.forward_passes, expected.forward_passes)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_preset_padded_and_not(flash_attention, family, tmp_path):  # noqa: F811
    model, flash = both(family, tmp_path, "flash_attention_2")
    assert "flash" in flash.config._attn_implementation
    padded, mask = left_pad(PADDED)
    for preset in BIDIRECTIONAL_PRESETS if family is FAMILIES[0] else OF_CACHES:
        assert_equal_runs(model, flash, padded, mask, preset=preset, **RAGGED)
    for preset in OF_CACHES:
        assert_equal_runs(model, flash, padded[:, -1:], None, preset=preset, **RAGGED)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", CACHES)
def test_every_preset_with_every_cache(flash_attention, family, cache, tmp_path):  # noqa: F811
    model, flash = both(family, tmp_path, "flash_attention_2")
    padded, mask = left_pad(PADDED)
    refused = {"draft_states"} if cache != "none" else set()  # drafts want an exact cache
    refused |= {"edit_threshold"} if cache == "delayed" else set()  # which proposes nothing for decoded tokens
    for preset in BIDIRECTIONAL_PRESETS:
        if refused.isdisjoint(PRESETS[preset].values):
            assert_equal_runs(model, flash, padded, mask, preset=preset, cache=cache, **RAGGED)


@pytest.mark.parametrize("name", ["kernels-community/flash-attn2", "kernels-community/flash-attn3"])
def test_kernels_of_the_hub(flash_attention, name, tmp_path):  # noqa: F811
    model, flash = both(FAMILIES[1], tmp_path, name)
    assert flash_attention and {name} >= set(flash_attention)
    ids, mask = left_pad(PADDED)
    assert_equal_runs(model, flash, ids, mask, preset="d3llm", cache="block", **RAGGED)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", CACHES)
def test_what_else_a_run_can_have(flash_attention, family, cache, tmp_path):  # noqa: F811
    model, flash = both(family, tmp_path, "flash_attention_2")
    ids, mask = left_pad(PADDED)
    fields = {"temperature": 1.0, "num_return_sequences": 2, "top_k": 20, "cfg_scale": 0.7}
    assert_equal_runs(model, flash, ids, mask, preset="d3llm", cache=cache, **RAGGED, **fields)
    assert_equal_runs(model, flash, ids, mask, preset="fast_dllm", cache=cache, **RAGGED)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", CACHES[1:])
def test_windows_of_few_widths(flash_attention, family, cache, tmp_path):  # noqa: F811
    """A compiled run has windows that are wider than what is recomputed, and more candidates than there are."""
    model, flash = both(family, tmp_path, "flash_attention_2")
    ids, mask = left_pad(PADDED)
    arguments = {"preset": "d3llm", "cache": cache, **RAGGED}
    expected = model.generate(ids, attention_mask=mask, **arguments)
    for compiled in (model, flash):
        compiled.get_compiled_call = lambda config, call=compiled: call.__call__
        output = compiled.generate(ids, attention_mask=mask, compile_config=CompileConfig(), **arguments)
        assert torch.equal(output.sequences, expected.sequences)
        assert torch.equal(output.commit_steps, expected.commit_steps)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", CACHES[1:])
def test_a_cache_is_taken_over_to_the_next_turn(flash_attention, family, cache, tmp_path):  # noqa: F811
    turns = []
    for model in both(family, tmp_path, "flash_attention_2"):
        first = model.generate(PADDED[2][None], preset="d3llm", cache=cache, **RAGGED)
        ids = torch.cat([first.sequences, PADDED[1][None]], dim=1)
        turns.append(model.generate(ids, preset="d3llm", cache=first.cache, **RAGGED))
    assert torch.equal(turns[0].sequences, turns[1].sequences)
    assert torch.equal(turns[0].commit_steps, turns[1].commit_steps)


def test_block_causal_attention_is_refused(flash_attention, tmp_path):  # noqa: F811
    _, flash = both(FAMILIES[0], tmp_path, "flash_attention_2")
    with pytest.raises(ValueError, match="needs `attn_implementation`='sdpa' or 'eager'"):
        flash.generate(PADDED[0][None], preset="d2f", max_new_tokens=8)


@pytest.mark.parametrize("fields", [{"preset": "d3llm", "cache": "block"}, {"preset": "fast_dllm"}])
def test_the_student_answers_the_same(flash_attention, fields):  # noqa: F811
    folder = checkpoint_path("student")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, flash = (
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation=name)
        for name in ("sdpa", "flash_attention_2")
    )
    chats = [[{"role": "user", "content": problem.question}] for problem in generate_problems("test", 4, seed=3)]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    arguments = {"max_new_tokens": 96, "attention": "bidirectional", "return_dict_in_generate": True, **fields}
    assert_equal_runs(model, flash, inputs["input_ids"], inputs["attention_mask"], **arguments)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_losses_and_gradients_of_padded_batches(flash_attention, family, side, tmp_path):  # noqa: F811
    models = both(family, tmp_path, "flash_attention_2")
    ids, mask = left_pad(PADDED)
    if side == "right":
        ids, mask = ids.flip(1), mask.flip(1)
    gradients = []
    for model in models:
        logits = model(ids, attention_mask=mask).logits[mask > 0]
        logits.logsumexp(dim=-1).mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
