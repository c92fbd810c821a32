"""Packed weights: the same products, for few rows on a CPU."""

import pytest
import torch

from d3llm import IntrospectiveModel
from d3llm.modeling.packed_weights import PackedWeights, can_pack
from tests.helpers.introspective import random_drafter, tiny_causal


pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1, 1)), reason="this build of torch has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 7, 40])
def test_products_are_the_same(bias, rows):
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80, bias=bias)
    values = torch.randn(2, rows, 48)
    expected = layer(values)
    with torch.inference_mode(), PackedWeights([layer]).used():
        torch.testing.assert_close(layer(values), expected.detach())
    assert torch.equal(layer(values), expected)


def test_a_row_does_not_depend_on_how_many_there_are():
    torch.manual_seed(0)
    layer, values = torch.nn.Linear(576, 200), torch.randn(1, 33, 576)
    with torch.inference_mode(), PackedWeights([layer]).used():
        whole = layer(values)
        assert all(torch.equal(layer(values[:, :rows]), whole[:, :rows]) for rows in (1, 2, 4, 9, 16, 33))


def test_hooks_and_weights_stay():
    layer = torch.nn.Linear(8, 8)
    layer.register_forward_hook(lambda module, inputs, output: output * 0)
    with torch.inference_mode(), PackedWeights([layer]).used():
        assert not layer(torch.ones(1, 8)).any()
    assert "forward" not in vars(layer) and layer.weight.shape == (8, 8)


def test_what_cannot_be_packed_stays_as_it_is():
    layers = [torch.nn.Linear(8, 8).bfloat16(), torch.nn.Embedding(3, 8), torch.nn.Linear(8, 8, device="meta")]
    assert PackedWeights(layers).packed == []


def test_a_model_packs_all_layers_or_none():
    base = tiny_causal("qwen2")
    packed = IntrospectiveModel(random_drafter(base)).packed.packed
    assert len(packed) == 7 * base.config.num_hidden_layers + 1
    assert IntrospectiveModel(random_drafter(base), pack_weights=False).packed.packed == []


def test_the_base_is_as_before_after_an_error(monkeypatch):
    model = IntrospectiveModel(random_drafter(tiny_causal("llama")))
    monkeypatch.setattr(model.drafter, "propose", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.generate(torch.tensor([[3, 4]]), max_new_tokens=5)
    assert not any("forward" in vars(layer) for layer in model.drafter.linear_layers())
