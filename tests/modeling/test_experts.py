"""Families with experts: recorded logits, the Hub's keys, the kernels and the routers' losses."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, linear, silu
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from d3llm.modeling import LLaDA2MoeModelLM, LLaDAMoEConfig, LLaDAMoEModelLM, SDARMoeForCausalLM
from d3llm.modeling.experts import RoutedExperts
from d3llm.modeling.loading import load_model
from tests.helpers.models import tiny_config, tiny_model


FAMILIES = [LLaDAMoEModelLM, LLaDA2MoeModelLM, SDARMoeForCausalLM]
KERNELS = ["eager", "grouped_mm", "batched_mm"]
OF_ALL = pytest.mark.parametrize("family", FAMILIES)


def with_kernel(family, kernel, **fields):
    model = tiny_model(family, **fields)
    model.set_experts_implementation(kernel)
    return model


def routed(model):
    """The MLPs with experts of a model."""
    return [module for module in model.modules() if isinstance(module, RoutedExperts)]


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 60, (2, 10), generator=torch.Generator().manual_seed(1))


@pytest.mark.golden
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("name", "forwards"), [("lladamoe_a", {"b2"}), ("llada2_a", {"block8", "block16"})])
def test_recorded_logits(golden, name, forwards, kernel):
    model = AutoModelForCausalLM.from_pretrained(golden / "ckpt" / name, experts_implementation=kernel)
    recorded = load_file(golden / "logits" / f"{name}.safetensors")
    assert {key.partition(".")[0] for key in recorded} == forwards
    for forward in forwards:
        mask = recorded.get(f"{forward}.attention_mask")
        mask = None if mask is None else mask[:, None].bool()
        with torch.no_grad():
            found = model(recorded[f"{forward}.input_ids"], attention_mask=mask).logits
        torch.testing.assert_close(found, recorded[f"{forward}.logits"], atol=1e-4, rtol=1e-5)


def qwen_twin(model):
    """Qwen3-MoE with the weights of an SDAR-MoE model."""
    fields = model.config.to_dict()
    dropped = ("model_type", "rope_parameters", "rope_scaling", "rope_theta", "architectures", "auto_map")
    kept = {name: value for name, value in fields.items() if name not in dropped}
    rotary = {"rope_type": "default", "rope_theta": model.config.rope_theta}
    twin = Qwen3MoeForCausalLM(Qwen3MoeConfig(**kept, rope_parameters=rotary)).eval()
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize(
    "fields", [{}, {"norm_topk_prob": False}, {"mlp_only_layers": [0]}, {"decoder_sparse_step": 2}]
)
def test_sdar_is_qwen_without_its_causal_mask(fields, tokens):
    model = tiny_model(SDARMoeForCausalLM, **fields)
    twin = qwen_twin(model)
    mask = torch.zeros(2, 1, 10, 10)
    with torch.no_grad():
        found = model(tokens, output_router_logits=True)
        expected = twin(tokens, attention_mask=mask, output_router_logits=False)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
        blocks = torch.arange(10) // 4
        visible = (blocks[:, None] >= blocks[None])[None, None].expand(2, 1, 10, 10)
        expected = twin(tokens, attention_mask=torch.zeros(2, 1, 10, 10).masked_fill(~visible, -1e9))
        torch.testing.assert_close(model(tokens, attention_mask=visible).logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert len(found.router_logits) == len(routed(model)) == (2 if "norm_topk_prob" in fields or not fields else 1)


@OF_ALL
def test_kernels_agree_with_their_gradients(family, tokens):
    found = []
    for kernel in KERNELS:
        model = with_kernel(family, kernel).train()
        logits = model(tokens).logits
        logits.logsumexp(-1).sum().backward()
        found.append([logits.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    assert len(found[0]) > len(list(tiny_model(family).parameters())) - 1
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-4, rtol=1e-4)


@OF_ALL
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_expert_without_tokens_does_nothing(family, kernel):
    model = with_kernel(family, kernel).train()
    mlp = routed(model)[-1]
    inputs = torch.randn(1, 1, 32)
    mixed, logits = mlp(inputs)
    mixed.sum().backward()
    _, weights, chosen = mlp.gate(inputs[0])
    expected = torch.zeros(1, 32) if mlp.shared_experts is None else mlp.shared_experts(inputs)[0]
    for weight, expert in zip(weights[0], chosen[0], strict=True):
        gate, up = linear(inputs[0], mlp.experts.gate_up_proj[expert]).chunk(2, -1)
        expected = expected + weight * linear(silu(gate) * up, mlp.experts.down_proj[expert])
    torch.testing.assert_close(mixed[0], expected, atol=1e-5, rtol=1e-5)
    idle = [expert for expert in range(8) if expert not in chosen]
    assert logits.shape == (1, 8) and len(idle) == 6
    assert not mlp.experts.down_proj.grad[idle].any() and mlp.experts.down_proj.grad[chosen[0]].any()


@OF_ALL
@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision(family, kernel, tokens):
    model = with_kernel(family, kernel)
    with torch.no_grad():
        expected = model(tokens).logits.softmax(-1)
        found = model.bfloat16()(tokens).logits
    assert found.dtype == torch.bfloat16
    assert (found.float().softmax(-1) - expected).abs().mean() < 0.01


def test_the_bias_of_an_expert_moves_the_choice_and_not_the_weights():
    gate = routed(tiny_model(LLaDA2MoeModelLM))[0].gate
    token = torch.randn(1, 32)
    with torch.no_grad():
        gate.expert_bias.zero_()
        scores = gate(token)[0].sigmoid()
        gate.expert_bias[[0, 7]] = 5.0  # of different groups, each of which is now among the best
        logits, weights, chosen = gate(token)
    assert sorted(chosen[0].tolist()) == [0, 7]
    torch.testing.assert_close(logits.sigmoid(), scores)
    torch.testing.assert_close(weights, 2.5 * scores[:, chosen[0]] / scores[:, chosen[0]].sum())
    with torch.no_grad():
        gate.expert_bias.copy_(torch.tensor([3.0, 0, 2, 2, 2, 2, 0, 0]))  # the best expert is in no group of the best
        assert set(gate(token)[2][0].tolist()) <= {2, 3, 4, 5}


@OF_ALL
def test_router_losses(family, tokens):
    model = tiny_model(family, router_aux_loss_coef=0.5)
    plain = model(tokens, labels=tokens)
    assert plain.router_logits is None and plain.aux_loss is None
    output = model(tokens, labels=tokens, output_router_logits=True)
    assert [logits.shape for logits in output.router_logits] == [(20, 8)] * len(routed(model))
    torch.testing.assert_close(plain.loss, cross_entropy(plain.logits.flatten(0, 1), tokens.flatten()))
    torch.testing.assert_close(output.loss, plain.loss + 0.5 * output.aux_loss)
    probabilities = torch.cat(output.router_logits).softmax(-1)
    used = torch.zeros_like(probabilities).scatter(1, probabilities.topk(2).indices, 1.0).mean(0)
    torch.testing.assert_close(output.aux_loss, 8 * (used * probabilities.mean(0)).sum())
    head_input = model(tokens, output_router_logits=True, run_head=False)
    torch.testing.assert_close(head_input.aux_loss, output.aux_loss)
    model.config.output_router_logits = True
    torch.testing.assert_close(model(tokens, labels=tokens).loss, output.loss)
    assert model(tokens, labels=tokens, output_router_logits=False).aux_loss is None


@OF_ALL
def test_padding_does_not_count_in_the_router_loss(family, tokens):
    model = tiny_model(family)
    alone = model(tokens, output_router_logits=True).aux_loss
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), tokens], dim=1)
    mask = (torch.arange(13) >= 3).long().expand(2, 13)
    found = model(padded, attention_mask=mask, output_router_logits=True).aux_loss
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


@OF_ALL
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_router_loss_trains_routers_with_gradient_checkpointing(family, reentrant, tokens):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(family).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(tokens, output_router_logits=True).aux_loss.backward()
        gradients.append([mlp.gate.weight.grad for mlp in routed(model)])
    assert all(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1])


@OF_ALL
def test_a_new_model_is_drawn_with_the_config_s_deviation(family):
    for mlp in routed(tiny_model(family, std=0.5)):
        for weight in (mlp.gate.weight, mlp.experts.gate_up_proj, mlp.experts.down_proj):
            assert abs(weight.std() - 0.5) < 0.06


@OF_ALL
def test_checkpoints_hold_experts_one_by_one(family, tmp_path, tokens):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    mlp = "model.layers.1.mlp"
    assert saved[f"{mlp}.experts.7.up_proj.weight"].equal(routed(model)[-1].experts.gate_up_proj[7, 16:])
    assert not any(name.endswith(("experts.gate_up_proj", "experts.down_proj")) for name in saved)
    with torch.no_grad():
        assert load_model(tmp_path)(tokens).logits.equal(model(tokens).logits)
    del saved[f"{mlp}.experts.7.up_proj.weight"]
    save_file(saved, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match=r"lack model\.layers\.1\.mlp\.experts\.7\.up_proj\.weight"):
        load_model(tmp_path)


@OF_ALL
def test_a_state_dict_may_have_the_names_of_checkpoints(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    again = tiny_model(family, seed=1)
    again.load_state_dict(saved)
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in model.state_dict().items())
    again.load_state_dict(tiny_model(family, seed=1).state_dict())
    for names in (list(saved)[::2], list(saved)[1::2]):  # as in two files
        again.load_state_dict({name: saved[name] for name in names}, strict=False)
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in model.state_dict().items())


@OF_ALL
def test_adapters_of_experts_are_merged(family, tmp_path, tokens):
    model = tiny_model(family)
    stacked = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    names = model.adapter_targets["projections"]
    adapted = get_peft_model(model, LoraConfig(target_modules=names, target_parameters=stacked))
    assert sum("lora_B" in name for name, _ in adapted.named_parameters()) > 2 * len(routed(model))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    with torch.no_grad():
        expected = adapted(tokens).logits
        merged = adapted.merge_and_unload()
        merged.save_pretrained(tmp_path)
        torch.testing.assert_close(load_model(tmp_path)(tokens).logits, expected, atol=1e-4, rtol=1e-4)
        assert not expected.allclose(tiny_model(family)(tokens).logits, atol=1e-2)


@OF_ALL
def test_more_tokens(family, tmp_path, tokens):
    model = tiny_model(family)
    model.resize_token_embeddings(72)
    model.save_pretrained(tmp_path)
    assert load_model(tmp_path)(tokens).logits.shape == (2, 10, 72)


def test_the_hub_s_name_of_a_config_is_not_kept():
    config = LLaDAMoEConfig.from_dict({"model_type": "llada", "num_experts": 4})
    assert config.model_type == config.to_dict()["model_type"] == "lladamoe" and config.num_experts == 4


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (LLaDAMoEModelLM, {"num_experts_per_tok": 9}, "num_experts_per_tok=9"),
        (LLaDAMoEModelLM, {"num_experts": 0}, "num_experts=0"),
        (LLaDAMoEModelLM, {"moe_layer_freq": [1]}, "moe_layer_freq=.1. must have one value for each of the 2 layers"),
        (
            LLaDAMoEModelLM,
            {"shared_expert_intermediate_size": 8},
            "shared_expert_intermediate_size=8 is not supported",
        ),
        (LLaDA2MoeModelLM, {"n_group": 3}, "n_group=3 and topk_group=2: n_group must divide num_experts=8"),
        (LLaDA2MoeModelLM, {"topk_group": 5}, "topk_group be at most n_group"),
        (LLaDA2MoeModelLM, {"num_experts_per_tok": 5}, "more than the experts of topk_group=2 groups"),
        (LLaDA2MoeModelLM, {"score_function": "softmax"}, "score_function=softmax is not supported"),
        (SDARMoeForCausalLM, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "SDARMoeConfig.rope_scaling"),
        (LLaDA2MoeModelLM, {"n_group": 0}, "n_group=0 must be a whole number of at least 1"),
        (LLaDA2MoeModelLM, {"num_shared_experts": -1}, "num_shared_experts=-1"),
        (LLaDA2MoeModelLM, {"partial_rotary_factor": 1.5}, "partial_rotary_factor=1.5 is out of its range"),
        (LLaDA2MoeModelLM, {"partial_rotary_factor": 0.375}, "rotates 3 of the 8 channels of a head"),
        (SDARMoeForCausalLM, {"moe_intermediate_size": 0}, "moe_intermediate_size=0"),
        (SDARMoeForCausalLM, {"decoder_sparse_step": 0}, "decoder_sparse_step=0"),
    ],
)
def test_a_config_of_another_model_is_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        family(tiny_config(family, **fields))


def test_layers_without_experts():
    model = tiny_model(LLaDAMoEModelLM, moe_layer_freq=[0, 1])
    assert len(routed(model)) == 1 and model.model.layers[0].mlp.up_proj.out_features == 48
    model = tiny_model(LLaDA2MoeModelLM, num_shared_experts=2)
    assert model.model.layers[0].mlp.up_proj.out_features == 48
    assert model.model.layers[1].mlp.shared_experts.up_proj.out_features == 32


def test_the_block_size_of_sdar_is_a_matter_of_its_config():
    assert tiny_model(SDARMoeForCausalLM).attention_block_size == 4
    assert tiny_model(SDARMoeForCausalLM, block_size=16).attention_block_size == 16
