"""Adapters: the right layers, a head that stays as it is, and a merged model that equals the adapters."""

import json
import resource

import peft
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoTokenizer

from d3llm.commands.main import main
from d3llm.modeling import DreamModel, LLaDAModelLM
from d3llm.trainers.adapters import add_adapter, merge_adapter
from tests.helpers.models import OF_WORDS, tiny_model
from tests.helpers.trajectory_rows import logged_losses, make_trainer


@pytest.fixture
def llada(tiny_checkpoint) -> LLaDAModelLM:
    return LLaDAModelLM.from_pretrained(tiny_checkpoint)


@pytest.fixture
def dream() -> DreamModel:
    return tiny_model(DreamModel, **OF_WORDS, layers=3, kv_heads=1)


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


@pytest.mark.parametrize("name", ["proj", "_proj", "orms"])
def test_the_end_of_a_name_is_no_name(llada, name):
    with pytest.raises(ValueError, match=f"No layer of the 'llada' model is called {name}:"):
        add_adapter(llada, LoraConfig(target_modules=["q_proj", name]))


def test_a_name_that_no_layer_bears_is_an_error(llada):
    with pytest.raises(ValueError, match="No layer of the 'llada' model is called gate_proj, o_proj"):
        add_adapter(llada, LoraConfig(target_modules=["q_proj", "o_proj", "gate_proj"]))


# As PEFT gives them, but for sizes that a model of width 32 has no room for.
TUNERS = {
    "lora": LoraConfig(r=4),
    "dora": LoraConfig(r=4, use_dora=True),
    "rslora": LoraConfig(r=4, use_rslora=True),
    "pissa": LoraConfig(r=4, init_lora_weights="pissa"),
    "olora": LoraConfig(r=4, init_lora_weights="olora"),
    "ia3": peft.IA3Config(),
    "loha": peft.LoHaConfig(),
    "lokr": peft.LoKrConfig(),
    "oft": peft.OFTConfig(),
    "vera": peft.VeraConfig(),
    "fourierft": peft.FourierFTConfig(),
    "hra": peft.HRAConfig(),
    "vblora": peft.VBLoRAConfig(vector_length=32, num_vectors=16),
    "miss": peft.MissConfig(r=4),
    "randlora": peft.RandLoraConfig(),
    "shira": peft.ShiraConfig(r=4),
    "c3a": peft.C3AConfig(block_size=32),
    "norms": peft.LNTuningConfig(),
}
OTHER_LAYERS = {"ia3": 3 * 2, "norms": 2 * 2 + 1}  # than seven a block; of the tiny LLaDA


# Those that add to a weight, scale it, rotate it and are a layer of the model itself; the others are like one of them.
KINDS = ("lora", "dora", "ia3", "oft", "norms")


@pytest.mark.parametrize(
    "name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in TUNERS if name not in KINDS)]
)
def test_a_tuner_trains_loads_and_merges(tiny_checkpoint, tmp_path, name):
    trainer = make_trainer(tiny_checkpoint, tmp_path, peft_config=TUNERS[name], max_steps=3, learning_rate=1e-2)
    base = trainer.model.get_base_model()
    wrapped = [module for module in base.modules() if isinstance(module, BaseTunerLayer)]
    assert len(wrapped) == OTHER_LAYERS.get(name, 7 * 2)
    assert type(base.get_output_embeddings()) is torch.nn.Linear
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    trainer.train()
    for key, value in trainer.model.named_parameters():
        assert torch.equal(value, before[key]) != value.requires_grad, key

    trainer.save_model()
    trainer.create_model_card()
    adapter = TUNERS[name].peft_type.value
    assert json.loads((tmp_path / "model_facts.json").read_text())["hyperparameters"]["adapter"] == adapter
    ids = torch.arange(3, 13)[None]
    expected = trainer.model.eval()(ids).logits
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-4, rtol=1e-4)
    generated = loaded.generate(input_ids=ids, max_new_tokens=8, preset="d3llm")
    assert torch.equal(generated, base.generate(ids, max_new_tokens=8, preset="d3llm"))
    merged = LLaDAModelLM.from_pretrained(merge_adapter(trainer.model, tmp_path / "merged"))
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["ia3", "norms"])
def test_a_family_says_which_layers_a_tuner_wraps(dream, name):
    wrapped = add_adapter(dream, TUNERS[name])
    names = {key.rpartition(".")[2] for key, m in wrapped.named_modules() if isinstance(m, BaseTunerLayer)}
    assert names == {"ia3": {"k_proj", "v_proj", "down_proj"}, "norms": set(dream.adapter_targets["norms"])}[name]


def test_ia3_scales_the_input_of_the_layers_that_are_asked_for(llada):
    wrapped = add_adapter(llada, peft.IA3Config(target_modules=["q_proj", "ff_out"]))
    config = wrapped.active_peft_config
    assert (set(config.target_modules), config.feedforward_modules) == ({"q_proj", "ff_out"}, ["ff_out"])
    assert TUNERS["ia3"].target_modules is None  # what was given stays as it was


SHAPE = {"num_layers": 2, "token_dim": 32, "num_attention_heads": 2}
VIRTUAL = {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM", **SHAPE}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (peft.PromptTuningConfig(**VIRTUAL), "PromptTuningConfig puts virtual tokens before the prompt"),
        (peft.PrefixTuningConfig(**VIRTUAL), "PrefixTuningConfig puts virtual tokens before the prompt"),
        (peft.PromptEncoderConfig(**VIRTUAL), "PromptEncoderConfig puts virtual tokens before the prompt"),
        (peft.AdaLoraConfig(total_step=10), "AdaLoraConfig assigns ranks to layers with an additional loss"),
        (LoraConfig(alora_invocation_tokens=[3]), "LoraConfig starts at an invocation token"),
        pytest.param(
            peft.MissConfig(),
            r"`peft_config` \(MissConfig\) does not fit the model: `r` \(64\) must be",
            marks=pytest.mark.skipif(not hasattr(peft, "LilyConfig"), reason="an older PEFT takes it"),
        ),
        (LoraConfig(exclude_modules=["nothing"], target_modules=["ff_out"]), "wraps the LM head"),
        ({"r": 4}, "`peft_config` is a dict: give a `PeftConfig`"),
    ],
)
def test_a_tuner_that_does_not_go_with_the_trainer_is_refused(tiny_checkpoint, tmp_path, config, message):
    with pytest.raises(ValueError, match=message) as error:
        make_trainer(tiny_checkpoint, tmp_path, peft_config=config)
    assert "\n" not in str(error.value)
    if "virtual" in message:
        assert "use adapters of its layers, such as `LoraConfig`" in str(error.value)
        model = get_peft_model(LLaDAModelLM.from_pretrained(tiny_checkpoint), config)
        with pytest.raises(ValueError, match=message):
            make_trainer(tiny_checkpoint, tmp_path, model=model)


@pytest.mark.parametrize("name", ["ia3", "loha", "dora", "norms"])
def test_divergence_is_from_the_model_with_any_adapters_off(tiny_checkpoint, tmp_path, name):
    options = {"layout": "single", "kl_weight": 1.0, "window_sizes": [64], "near_forwards": 2, "max_mask_ratio": 1.0}
    trainer = make_trainer(tiny_checkpoint, tmp_path, peft_config=TUNERS[name], learning_rate=3e-2, **options)
    trainer.train()
    divergence = [entry["divergence"] for entry in trainer.state.log_history if "divergence" in entry]
    assert abs(divergence[0]) < 1e-4 and divergence[-1] > 1e-4


def test_the_head_may_be_trained_as_a_whole(tiny_checkpoint, tmp_path):
    """A copy of it is; the teacher of the divergence keeps the first one."""
    options = {"layout": "single", "kl_weight": 1.0, "window_sizes": [64], "near_forwards": 2, "max_mask_ratio": 1.0}
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["model.transformer.ff_out"])
    trainer = make_trainer(tiny_checkpoint, tmp_path, peft_config=config, learning_rate=3e-2, **options)
    head = trainer.model.get_base_model().get_output_embeddings()
    before = head.weight.clone()
    with torch.no_grad():
        head.weight.mul_(1.5)
    trainer.train()
    assert torch.equal(head.original_module.weight, before) and not torch.equal(head.weight, 1.5 * before)
    assert trainer.state.log_history[0]["divergence"] > 0.05


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_without_its_adapters_the_model_must_be_what_it_was(tiny_checkpoint, tmp_path, name):
    options = {"layout": "single", "kl_weight": 1.0}
    with pytest.raises(ValueError, match=r"reference, but .* changes its weights at the start: give a `teacher`"):
        make_trainer(tiny_checkpoint, tmp_path, peft_config=TUNERS[name], **options)
    teacher = LLaDAModelLM.from_pretrained(tiny_checkpoint)
    make_trainer(tiny_checkpoint, tmp_path, peft_config=TUNERS[name], teacher=teacher, **options)


def test_biases_of_the_model_are_not_trained_beneath_its_own_teacher(dream, tmp_path):
    options = {"model": dream, "peft_config": LoraConfig(r=2, bias="all"), "layout": "single"}
    with pytest.raises(ValueError, match=r"trains weights of the model itself.*or `bias='none'`"):
        make_trainer(tmp_path, tmp_path, kl_weight=1.0, **options)
    make_trainer(tmp_path, tmp_path, **options)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["q_proj", "wte"]),
        LoraConfig(r=2, trainable_token_indices=[1, 2]),
        peft.TrainableTokensConfig(token_indices=[1, 2]),
    ],
    ids=["layer", "rows", "rows alone"],
)
def test_the_embedding_may_have_adapters(tiny_checkpoint, tmp_path, config):
    trainer = make_trainer(tiny_checkpoint, tmp_path, peft_config=config, learning_rate=1e-2)
    trainer.train()
    merged = merge_adapter(trainer.model, tmp_path / "merged")
    tables = [LLaDAModelLM.from_pretrained(path).get_input_embeddings().weight for path in (tiny_checkpoint, merged)]
    assert not torch.equal(*tables)


def test_a_head_with_a_bias_has_a_teacher_under_autocast(tmp_path):
    model = tiny_model(LLaDAModelLM, **OF_WORDS, kv_heads=None, include_bias=True)
    options = {"layout": "single", "kl_weight": 1.0, "peft_config": LoraConfig(r=2), "bf16": True}
    trainer = make_trainer(tmp_path, tmp_path, model=model, **options)
    trainer.train()
    assert trainer.state.global_step == 4


def test_what_would_not_be_trained_or_not_be_fixed_is_refused(llada, tiny_checkpoint, tmp_path):
    divergence = {"layout": "single", "kl_weight": 1.0}
    adapted = get_peft_model(LLaDAModelLM.from_pretrained(tiny_checkpoint), LoraConfig(target_modules=["q_proj"]))
    refused = {
        "The teacher is the student itself": {"model": llada, "teacher": llada, **divergence},
        "The teacher has adapters: merge them first": {"teacher": adapted, **divergence},
        "noise on the embeddings of every forward": {
            "peft_config": LoraConfig(r=2),
            "neftune_noise_alpha": 5.0,
            **divergence,
        },
        "No weight of the model requires a gradient": {"model": adapted.requires_grad_(False)},
    }
    for message, options in refused.items():
        with pytest.raises(ValueError, match=message):
            make_trainer(tiny_checkpoint, tmp_path, **options)


@pytest.mark.skipif(not hasattr(peft, "LilyConfig"), reason="an older PEFT merges all that it has")
def test_adapters_that_cannot_be_merged_are_named(tiny_checkpoint, tmp_path, capsys):
    model = add_adapter(LLaDAModelLM.from_pretrained(tiny_checkpoint), peft.LilyConfig(r=4))
    model.save_pretrained(tmp_path / "adapter")
    code = main(["convert", str(tmp_path / "adapter"), str(tmp_path / "out"), "--license", "mit"])
    assert code == 2
    assert "holds adapters (LILY) that cannot be merged into the weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_adapters_train_and_merge_into_the_same_model(tiny_checkpoint, tmp_path, activation_checkpointing):
    trainer = make_trainer(
        tiny_checkpoint,
        tmp_path,
        peft_config=LoraConfig(r=4),
        max_steps=10,
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
        with pytest.raises(OSError, match=r"The merged model was not written: .*free some space and merge them with"):
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
