"""Drafters: what they add to a base and where, their folder, and the bases that they refuse."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from d3llm import Drafter, DreamModel, IntrospectiveModel
from d3llm.generation.row_cache import attention_mask, run_body
from d3llm.modeling import drafter_files
from d3llm.modeling.drafter_base import check_base, fingerprint
from tests.helpers.forks import Fork, run_script
from tests.helpers.introspective import CAUSAL, WINDOW, random_drafter, tiny_causal
from tests.helpers.models import tiny_model


FILES = ["adapter_config.json", "adapter_model.safetensors", "drafter.safetensors", "drafter_config.json"]


@pytest.fixture(scope="module", params=CAUSAL)
def base(request):
    return tiny_causal(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_drafter(tiny_causal("llama")).save_pretrained(tmp_path / "drafter")
    return tmp_path / "drafter"


def inputs_of(base, batch: int = 1, rows: int = 9) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    causal = torch.ones(batch, 1, rows, rows, dtype=torch.bool).tril()
    return {
        "inputs_embeds": torch.randn(batch, rows, base.config.hidden_size, generator=random),
        "attention_mask": attention_mask(base, causal),
        "position_ids": torch.arange(rows).expand(batch, -1),
    }


# The gate


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_rows_before_the_masks_see_the_base_bit_for_bit(base, batch, first):
    drafter, inputs = random_drafter(base).for_decoding(), inputs_of(base, batch)
    with torch.no_grad():
        plain = run_body(base, **inputs)
        with drafter.attached():
            drafter.first_mask_row = first
            adapted = run_body(base, **inputs)
            drafter.first_mask_row = None
            assert torch.equal(run_body(base, **inputs), plain)
    assert torch.equal(adapted[:, :first], plain[:, :first])
    assert ((adapted - plain).abs().amax(dim=-1)[:, first:] > 0.01).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_training_and_decoding_add_the_same(base, batch):
    drafter, inputs = random_drafter(base), inputs_of(base, batch)
    with drafter.attached():
        drafter.first_mask_row = 4
        trained = run_body(base, **inputs)
        with torch.no_grad():
            decoded = run_body(base, **inputs)
    torch.testing.assert_close(trained, decoded, rtol=1e-4, atol=1e-4)
    trained.square().sum().backward()
    assert all(adapter.up.grad.abs().sum() > 0 for adapter in drafter.adapters.values())


def test_the_base_is_as_before_once_the_drafter_is_detached(base):
    drafter = random_drafter(base)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}

    def interrupted() -> None:
        with drafter.attached():
            drafter.first_mask_row = 0
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert drafter.first_mask_row is None
    assert not any(module._forward_hooks for module in base.modules())
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    assert not any(name.startswith("_base") or "embed_tokens" in name for name, _ in drafter.named_parameters())


def test_a_new_drafter_changes_nothing_yet(base):
    drafter, inputs = Drafter.for_base(base, window=2, rank=4), inputs_of(base)
    with torch.no_grad(), drafter.attached():
        plain = run_body(base, **inputs)
        drafter.first_mask_row = 0
        assert torch.equal(run_body(base, **inputs), plain)
    hidden = torch.randn(1, 2, 32)
    assert torch.equal(drafter.refine(hidden, torch.randn(1, 2, 32)), hidden)
    same, other = (Drafter.for_base(base, window=2, rank=4, seed=seed) for seed in (0, 1))
    assert torch.equal(same.mask_embeddings, drafter.mask_embeddings)
    assert not torch.equal(other.mask_embeddings, drafter.mask_embeddings)


# The sampler


def test_drafts_follow_each_other_by_the_formula_of_the_sampler(base):
    drafter, hidden, tokens = random_drafter(base), torch.randn(2, WINDOW, 32), torch.tensor([3, 4])
    drafts, confidences = drafter.propose(hidden, tokens)
    embedding = base.get_input_embeddings().weight
    scale = 1 / embedding.square().mean().sqrt()
    product = torch.ones(2)
    for place in range(WINDOW):
        both = torch.cat([hidden[:, place], embedding[tokens] * scale], dim=-1)
        refined = hidden[:, place] + F.silu(both @ drafter.sampler["in"].weight.T) @ drafter.sampler["out"].weight.T
        best, tokens = base.lm_head(refined).softmax(-1).max(-1)
        product = product * best
        assert torch.equal(drafts[:, place], tokens)
        torch.testing.assert_close(confidences[:, place], product, rtol=1e-3, atol=1e-6)


def test_drafts_stay_below_head_tokens_and_end_early(base):
    drafter = random_drafter(base, head_tokens=5)
    hidden, tokens = torch.randn(64, WINDOW, 32), torch.arange(2, 34).repeat(2)
    drafts, confidences = drafter.propose(hidden, tokens)
    assert drafts.max() < 5
    _, few = drafter.propose(hidden, tokens, least_confidence=float(confidences[:, 0].max()) + 1e-3)
    assert few[:, 0].equal(confidences[:, 0]) and not few[:, 1:].any()


# The folder


def test_a_folder_loads_again(base, tmp_path):
    drafter = random_drafter(base, head_tokens=20, sampler_size=8)
    drafter.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    own = json.loads((tmp_path / "drafter_config.json").read_text())
    assert own == {
        "schema": "d3llm-drafter-1",
        "window": WINDOW,
        "sampler_size": 8,
        "head_tokens": 20,
        "base": {
            "model_type": base.config.model_type,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "vocab_size": 48,
            "fingerprint": fingerprint(base),
        },
    }
    shapes = {name: tuple(value.shape) for name, value in load_file(tmp_path / "drafter.safetensors").items()}
    assert shapes == {"mask_embeddings": (WINDOW, 32), "sampler.in.weight": (8, 64), "sampler.out.weight": (32, 8)}
    loaded = Drafter.from_pretrained(tmp_path, base)
    assert loaded.config == drafter.config
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, drafter.get_parameter(name).bfloat16()), name
    loaded.for_decoding().save_pretrained(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_peft_loads_the_folder_and_adds_the_same(base, tmp_path):
    random_drafter(base).save_pretrained(tmp_path)
    drafter, inputs = Drafter.from_pretrained(tmp_path, base).for_decoding(), inputs_of(base)
    with torch.no_grad(), drafter.attached():
        drafter.first_mask_row = 0
        ours = run_body(base, **inputs)
    other = tiny_causal(base.config.model_type)
    with torch.no_grad():
        theirs = run_body(PeftModel.from_pretrained(other, tmp_path).get_base_model(), **inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_alpha_scales_the_adapter_as_in_peft(folder):
    base, path = tiny_causal("llama"), folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 12}))  # a rank of 4
    drafter, inputs = Drafter.from_pretrained(folder, base).for_decoding(), inputs_of(base)
    with torch.no_grad(), drafter.attached():
        drafter.first_mask_row = 0
        ours = run_body(base, **inputs)
        theirs = run_body(PeftModel.from_pretrained(tiny_causal("llama"), folder).get_base_model(), **inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


WITHOUT_PEFT = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] in ("d3llm", "peft")]:
    del sys.modules[name]
sys.modules["peft"] = None
import torch
from d3llm import IntrospectiveModel
model = IntrospectiveModel.from_pretrained(*sys.argv[1:])
print(model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4).shape)
"""


def test_decoding_needs_no_peft(folder, tmp_path):
    tiny_causal("llama").save_pretrained(tmp_path / "base")
    done = Fork(run_script, WITHOUT_PEFT, [str(folder), str(tmp_path / "base")]).wait()
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, " in done.stdout


def test_a_base_in_bfloat16_is_the_same_base(folder):
    base = tiny_causal("llama").bfloat16()
    model = IntrospectiveModel.from_pretrained(folder, base)
    prompts = torch.tensor([[3, 4, 5]])
    expected = base.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(prompts, max_new_tokens=8), expected)


def test_an_interrupted_save_leaves_the_old_drafter(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(drafter_files, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        random_drafter(tiny_causal("llama"), seed=1).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# Bad input


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_damaged_file_is_named(folder, name):
    base = tiny_causal("llama")
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(OSError, match=rf"Cannot read .*{name}: .* \(is the file complete\?\)"):
        Drafter.from_pretrained(folder, base)
    (folder / name).unlink()
    with pytest.raises(OSError, match=rf"No drafter in {folder}: it has no {name}"):
        Drafter.from_pretrained(folder, base)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("drafter_config.json", {"schema": "d3llm-drafter-9"}, "`schema`='d3llm-drafter-9' is not 'd3llm-drafter-1'"),
        ("drafter_config.json", {"window": 9}, "`window`=9 must be a whole number of at least 1 and at most 8"),
        ("drafter_config.json", {"window": 2}, "mask_embeddings in .* is \\(3, 32\\), and by its configs \\(2, 32\\)"),
        ("drafter_config.json", {"head_tokens": 49}, "`head_tokens`=49 exceeds the 48 tokens of the base"),
        ("drafter_config.json", {"base": {}}, "`base` must state model_type, "),
        ("adapter_config.json", {"r": 3}, "lora_A.weight in .* is \\(4, 32\\), and by its configs \\(3, 32\\)"),
        ("adapter_config.json", {"use_dora": True}, "`use_dora`=True of the adapter is not that of a plain LoRA"),
        ("adapter_config.json", {"peft_type": "LOHA"}, "`peft_type`='LOHA'"),
    ],
)
def test_configs_that_do_not_fit_are_refused(folder, file, change, message):
    content = json.loads((folder / file).read_text()) | change
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        Drafter.from_pretrained(folder, tiny_causal("llama"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_causal("llama", seed=1), "is the drafter of another base: its `fingerprint` is"),
        (lambda: tiny_causal("llama", num_hidden_layers=3), "its `num_hidden_layers` is 2, and that of this model 3"),
        (lambda: tiny_causal("qwen2"), "its `model_type` is llama, and that of this model qwen2"),
    ],
)
def test_a_drafter_of_another_base_is_refused(folder, other, message):
    with pytest.raises(ValueError, match=message):
        IntrospectiveModel.from_pretrained(folder, other())


SHAPE = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MistralForCausalLM(MistralConfig(sliding_window=8, **SHAPE, **HEADS)), "cannot drop rejected drafts"),
        (
            lambda: tiny_causal("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
            "cache of DynamicSlidingWindowLayer",
        ),
        (
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=48, n_layer=1, n_embd=32, n_head=2)),
            "has no transformer.layers",
        ),
        (lambda: BertLMHeadModel(BertConfig(num_attention_heads=2, **SHAPE)), "has no bert.layers.0.self_attn.q_proj"),
        (lambda: tiny_causal("llama", is_causal=False), "is not causal"),
        (lambda: tiny_model(DreamModel), "DreamModel"),
        (lambda: tiny_causal("llama").model, "LlamaModel is not a causal language model"),
        (lambda: torch.nn.Linear(2, 2), "Linear is not a causal language model"),
        (lambda: GraniteForCausalLM(GraniteConfig(logits_scaling=3.0, **SHAPE, **HEADS)), "does more to its logits"),
        (
            lambda: tiny_causal("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "`rope_type`='dynamic' turns all positions by the largest one",
        ),
    ],
)
def test_bases_that_cannot_draft_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        check_base(make().eval())
    assert "\n" not in str(error.value)


def test_other_attention_is_refused():
    base = tiny_causal("llama")
    model = IntrospectiveModel(random_drafter(base))
    base.config._attn_implementation = "flash_attention_2"
    for refused in (lambda: check_base(base), lambda: model.generate(torch.tensor([[3, 4]]))):
        with pytest.raises(ValueError, match="set_attn_implementation\\('sdpa'\\)"):
            refused()


def test_a_base_that_is_not_named_is_asked_for(folder):
    with pytest.raises(ValueError, match="does not name its base: pass `base_model`"):
        IntrospectiveModel.from_pretrained(folder)
    with pytest.raises(OSError, match="Cannot load the base model of /nowhere"):
        IntrospectiveModel.from_pretrained(folder, "/nowhere")
