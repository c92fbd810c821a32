"""LoRA: the right layers, a head that stays as it is, and a merged model that equals the adapters."""

import resource

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import AutoTokenizer

from d3llm.modeling import DreamConfig, DreamModel, LLaDAModelLM
from d3llm.trainers.adapters import add_adapter, merge_adapter

from .trajectory_rows import logged_losses, make_trainer


@pytest.fixture
def llada(tiny_checkpoint) -> LLaDAModelLM:
    return LLaDAModelLM.from_pretrained(tiny_checkpoint)


@pytest.fixture
def dream() -> DreamModel:
    return DreamModel(
        DreamConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            mask_token_id=1,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


@pytest.mark.parametrize(("name", "layers"), [("llada", 2), ("dream", 3)])
def test_seven_layers_of_each_block_are_wrapped_and_the_head_is_not(name, layers, request):
    model = request.getfixturevalue(name)
    wrapped = add_adapter(model, LoraConfig(r=4))
    assert sum(isinstance(module, LoraLayer) for module in wrapped.modules()) == 7 * layers
    assert type(wrapped.get_base_model().get_output_embeddings()) is torch.nn.Linear
    assert type(wrapped.get_base_model().get_input_embeddings()) is torch.nn.Embedding


def test_names_that_are_asked_for_are_wrapped_and_the_head_still_is_not(llada):
    wrapped = add_adapter(llada, LoraConfig(r=4, target_modules=["q_proj", "ff_out"]))
    assert sum(isinstance(module, LoraLayer) for module in wrapped.modules()) == 2 * 2


def test_a_name_that_no_layer_bears_is_an_error(llada):
    with pytest.raises(ValueError, match="No layer of the 'llada' model is called gate_proj, o_proj"):
        add_adapter(llada, LoraConfig(target_modules=["q_proj", "o_proj", "gate_proj"]))


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_adapters_train_and_merge_into_the_same_model(tiny_checkpoint, tmp_path, activation_checkpointing):
    trainer = make_trainer(
        tiny_checkpoint,
        tmp_path,
        peft_config=LoraConfig(r=4),
        max_steps=20,
        learning_rate=1e-2,
        activation_checkpointing=activation_checkpointing,
    )
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, value in trainer.model.named_parameters():
        assert value.requires_grad == ("lora_" in name)
        assert torch.equal(value, before[name]) == ("lora_" not in name), name
    assert sum(logged_losses(trainer)[-5:]) < sum(logged_losses(trainer)[:5])

    ids = torch.arange(3, 13)[None]
    trainer.model.eval()
    expected = trainer.model(ids).logits
    merged = LLaDAModelLM.from_pretrained(merge_adapter(trainer.model, tmp_path / "merged"))
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)
    plain = LLaDAModelLM.from_pretrained(tiny_checkpoint)
    assert (plain(ids).logits - expected).abs().max() > 0.1


@pytest.mark.parametrize("room", [4096, 100_000])  # weights of 89 kB, then a tokenizer that is larger
def test_a_full_disk_leaves_the_merged_model_that_was_there(llada, tiny_checkpoint, tmp_path, room):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.add_tokens([f"<{number:099}>" for number in range(1000)])
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "model.safetensors").write_text("that of an earlier run")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
    try:
        with pytest.raises(OSError, match=r"The merged model is not written: .*make room and merge them with"):
            merge_adapter(add_adapter(llada, LoraConfig(r=4)), merged, tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in tmp_path.rglob("*")] == ["merged", "model.safetensors"]
    assert (merged / "model.safetensors").read_text() == "that of an earlier run"
    merge_adapter(add_adapter(llada, LoraConfig(r=4)), merged, tokenizer)
    assert LLaDAModelLM.from_pretrained(merged).num_parameters() == llada.num_parameters()
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_divergence_is_from_the_model_without_its_adapters(tiny_checkpoint, tmp_path):
    options = {"layout": "single", "kl_weight": 1.0, "window_sizes": [64], "near_forwards": 2, "max_mask_ratio": 1.0}
    with pytest.raises(ValueError, match="needs a `teacher`"):
        make_trainer(tiny_checkpoint, tmp_path, **options)
    trainer = make_trainer(tiny_checkpoint, tmp_path, peft_config=LoraConfig(r=4), learning_rate=1e-2, **options)
    trainer.train()
    divergence = [entry["divergence"] for entry in trainer.state.log_history if "divergence" in entry]
    assert abs(divergence[0]) < 1e-4
    assert divergence[-1] > 1e-3
