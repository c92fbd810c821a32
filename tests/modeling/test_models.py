"""Model classes against recorded logits, and what a loader expects of them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from d3llm.generation import CanvasCache
from d3llm.modeling import (
    FAMILIES,
    DreamModel,
    LLaDA2MoeModelLM,
    LLaDAConfig,
    LLaDAModelLM,
    SDARForCausalLM,
    layers,
)
from tests.helpers.models import tiny_model


CHECKPOINTS = ["llada_a", "llada_b", "dream_a", "dream_b", "sdar_a"]


def recorded_inputs(golden, name):
    """(label, forward arguments, logits, positions that count) of every recorded forward of a checkpoint."""
    for file in (golden / "logits" / f"{name}.safetensors", golden / "logits" / f"{name}_padded.safetensors"):
        tensors = load_file(file) if file.is_file() else {}
        for key, logits in tensors.items():
            group, _, kind = key.partition(".")
            if not kind.startswith("logits"):
                continue
            mask = tensors.get(f"{group}.attention_mask")
            inputs = {"input_ids": tensors[f"{group}.input_ids"], "attention_mask": mask}
            if kind == "logits_with_position_ids":
                inputs["position_ids"] = tensors[f"{group}.position_ids"]
            counts = torch.ones_like(inputs["input_ids"]) if mask is None else mask
            if mask is not None and mask.ndim == 3:  # which positions see which, of block-causal models
                inputs["attention_mask"], counts = mask.bool()[:, None], torch.ones_like(inputs["input_ids"])
            yield key, inputs, logits, counts.bool()


@pytest.mark.golden
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_recorded_logits(golden, name, attention):
    model = AutoModelForCausalLM.from_pretrained(golden / "ckpt" / name, attn_implementation=attention)
    labels = []
    for label, inputs, logits, counts in recorded_inputs(golden, name):
        with torch.no_grad():
            found = model(**inputs).logits
        torch.testing.assert_close(found[counts], logits[counts], atol=1e-4, rtol=1e-5)
        labels.append(label)
    assert any("b1" in label or "block" in label for label in labels)


@pytest.mark.golden
@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if name != "sdar_a"])
def test_recorded_hidden_states(golden, name):
    recorded = load_file(golden / "logits" / f"{name}.safetensors")
    model = AutoModel.from_pretrained(golden / "ckpt" / name)
    with torch.no_grad():
        found = model(recorded["b1.input_ids"], output_hidden_states=True).hidden_states
    torch.testing.assert_close(torch.cat(found), recorded["b1.hidden_states"], atol=1e-4, rtol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("name", [*CHECKPOINTS, "lladamoe_a", "llada2_a"])
def test_round_trip_keeps_keys_and_config(golden, name, tmp_path):
    source = golden / "ckpt" / name
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(tmp_path)
    weights, saved = load_file(source / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[key], weights[key]) for key in weights)
    # transformers 5 states its version and calls `torch_dtype` `dtype`; `auto_map` names the code that is saved along
    rewritten = {"transformers_version", "torch_dtype", "dtype", "auto_map"}
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path))
    assert {k: v for k, v in before.items() if k not in rewritten} == {
        k: v for k, v in after.items() if k not in rewritten and (k in before or v is not None)
    }


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("llada_a", LLaDAModelLM),
        ("dream_a", DreamModel),
        ("sdar_a", SDARForCausalLM),
        ("llada2_a", LLaDA2MoeModelLM),
    ],
)
def test_hub_folders_load_without_remote_code(golden, name, family):
    assert "auto_map" in json.loads((golden / "ckpt" / name / "config.json").read_text())
    for auto_class in (AutoModel, AutoModelForCausalLM):
        assert type(auto_class.from_pretrained(golden / "ckpt" / name)) is family
    assert type(AutoConfig.from_pretrained(golden / "ckpt" / name)) is family.config_class


@pytest.mark.parametrize("family", FAMILIES)
def test_rotary_frequencies_survive_loading(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    loaded = family.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    assert loaded.model.rotary_emb.inv_freq[0] == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_sees_both_sides(family, attention):
    model = tiny_model(family, attn_implementation=attention)
    ids = torch.randint(1, 60, (1, 12))
    changed = ids.clone()
    changed[0, -1] = 61
    with torch.no_grad():
        assert (model(ids).logits - model(changed).logits).abs().amax(dim=-1).min() > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family):
    model = tiny_model(family)
    ids = torch.randint(1, 60, (2, 10))
    pads = torch.zeros(2, 3, dtype=torch.long)
    with torch.no_grad():
        alone = model(ids).logits
        for side in ("left", "right"):
            parts = (pads, ids) if side == "left" else (ids, pads)
            marks = torch.cat([torch.full_like(part, float(part is ids)) for part in parts], dim=1)
            padded = model(torch.cat(parts, dim=1), attention_mask=marks).logits
            padded = padded[:, 3:] if side == "left" else padded[:, :10]
            torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_runs_on_chosen_rows(family):
    model = tiny_model(family)
    ids = torch.randint(1, 60, (2, 10))
    with torch.no_grad():
        logits = model(ids).logits
        per_row = torch.tensor([[1, 4], [7, 2]])
        torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([3, 5])).logits, logits[:, [3, 5]])
        expected = torch.stack([logits[0, [1, 4]], logits[1, [7, 2]]])
        torch.testing.assert_close(model(ids, logits_to_keep=per_row).logits, expected)


@pytest.mark.parametrize(("family", "rows"), [(LLaDAModelLM, [0, 1, 5]), (DreamModel, [0, 0, 4])])
def test_logit_rows_are_aligned_to_positions(family, rows):
    assert tiny_model(family).logit_rows(torch.tensor([0, 1, 5])).tolist() == rows


@pytest.mark.parametrize("family", FAMILIES)
def test_window_with_the_keys_of_a_full_forward_equals_it(family):
    model = tiny_model(family)
    ids = torch.randint(1, 60, (2, 14))
    cache = CanvasCache(model.config.num_hidden_layers, 14)
    with torch.no_grad():
        full = model(ids, past_key_values=cache).logits
        window = model(ids[:, 5:11], cache=cache, cache_positions=slice(5, 11)).logits
        torch.testing.assert_close(window, full[:, 5:11], atol=1e-5, rtol=1e-5)
        ragged = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 11]])
        window = model(ids.gather(1, ragged), cache=cache, cache_positions=ragged).logits
        torch.testing.assert_close(window[1], full[1, ragged[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_keeps_the_gradients(family):
    ids = torch.randint(1, 60, (2, 10))
    norms = []
    for checkpointing in (False, True):
        model = tiny_model(family).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids).logits.logsumexp(dim=-1).sum().backward()
        norms.append(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*norms)


@pytest.mark.parametrize("family", FAMILIES)
def test_tied_weights_are_saved_once(family, tmp_path):
    tie = {"weight_tying": True} if issubclass(family.config_class, LLaDAConfig) else {"tie_word_embeddings": True}
    model = tiny_model(family, **tie)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert not {"lm_head.weight", "model.transformer.ff_out.weight"} & saved.keys()
    loaded = family.from_pretrained(tmp_path)
    ids = torch.randint(1, 60, (1, 6))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_equals_sdpa(family):
    ids = torch.randint(1, 60, (2, 10))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        sdpa, flex = (
            tiny_model(family, attn_implementation=name)(ids, attention_mask=mask).logits[mask.bool()]
            for name in ("sdpa", "flex_attention")
        )
    torch.testing.assert_close(flex, sdpa, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("field", ["alibi", "scale_logits", "input_emb_norm"])
def test_unsupported_architecture_is_refused(field):
    with pytest.raises(ValueError, match=f"LLaDAConfig.{field}"):
        tiny_model(LLaDAModelLM, **{field: True})


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_that_do_not_fit_each_other_are_refused(family):
    with pytest.raises(ValueError, match=r"heads=4 must be a multiple of .*heads=3"):
        tiny_model(family, heads=4, kv_heads=3)


def test_heads_of_an_odd_size_are_refused():
    with pytest.raises(ValueError, match="LLaDAConfig rotates 9 of the 9 channels of a head: make them an even"):
        tiny_model(LLaDAModelLM, width=36)


def test_a_partial_rotation_leaves_the_other_channels():
    states = torch.randn(2, 3, 5, 8)
    cos, sin = layers.CanvasRotaryEmbedding(4, 10000.0)(torch.arange(5)[None])
    turned = layers.rotate(states, cos, sin)
    assert torch.equal(turned[..., 4:], states[..., 4:])
    assert torch.equal(turned[..., :4], layers.rotate(states[..., :4].contiguous(), cos, sin))
    assert not torch.equal(turned[:, :, 1:, :4], states[:, :, 1:, :4])


def test_what_config_fields_of_llada_mean():
    def block(**fields):
        return tiny_model(LLaDAModelLM, layers=1, kv_heads=None, **fields).model.transformer["blocks"][0]

    assert block(multi_query_attention=True).k_proj.out_features == 8
    assert block().k_proj.out_features == 32
    everywhere, attention_only = block(include_bias=True), block(include_qkv_bias=True)
    assert everywhere.q_proj.bias is not None and everywhere.ff_out.bias is not None
    assert attention_only.q_proj.bias is not None and attention_only.ff_out.bias is None
    assert block(residual_dropout=0.25, embedding_dropout=0.5).dropout.p == 0.25


@pytest.mark.parametrize("full", [True, False])
def test_queries_are_rotated_in_the_precision_that_the_config_names(full, monkeypatch):
    model = tiny_model(LLaDAModelLM).bfloat16()
    model.config.rope_full_precision = full
    seen = []
    plain = layers.rotate
    monkeypatch.setattr(layers, "rotate", lambda states, cos, sin: seen.append(cos.dtype) or plain(states, cos, sin))
    model(torch.randint(1, 60, (1, 4)))
    assert set(seen) == {torch.float32 if full else torch.bfloat16}
