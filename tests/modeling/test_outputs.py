"""What a forward takes and returns besides logits: labels and losses, attentions, hidden states, tuples."""

import re

import pytest
import torch
from torch.nn.functional import cross_entropy

from d3llm.modeling import FAMILIES, LLaDAModelLM
from d3llm.modeling.modeling_dream import DreamBaseModel
from d3llm.modeling.modeling_llada import LLaDAModel
from d3llm.modeling.modeling_llada2_moe import LLaDA2MoeModel
from d3llm.modeling.modeling_lladamoe import LLaDAMoEModel
from d3llm.modeling.modeling_sdar_moe import SDARMoeModel
from tests.helpers.models import tiny_config


VOCAB, POSITIONS, LAYERS, HEADS = 16, 6, 2, 4


def build(cls: type, attention: str = "sdpa", **fields):
    config = tiny_config(cls, vocab_size=VOCAB, mask_token_id=1, layers=LAYERS, heads=HEADS, std=0.3, **fields)
    torch.manual_seed(0)
    return cls._from_config(config, attn_implementation=attention).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(2, VOCAB, (2, POSITIONS), generator=torch.Generator().manual_seed(1))


BASES = [LLaDAModel, DreamBaseModel, LLaDAMoEModel, LLaDA2MoeModel, SDARMoeModel]
LM_CLASSES = pytest.mark.parametrize("cls", FAMILIES)
BASE_CLASSES = pytest.mark.parametrize("cls", BASES)
ALL_CLASSES = pytest.mark.parametrize("cls", [*FAMILIES, *BASES])


@LM_CLASSES
def test_labels_are_aligned_to_positions_whatever_the_rows_are(cls, tokens):
    model = build(cls)
    labels = torch.full_like(tokens, -100)
    labels[0, 2], labels[0, 5], labels[1, 3] = tokens[0, 2], tokens[0, 5], tokens[1, 3]
    output = model(tokens, labels=labels)
    back = cls.logits_shift
    predicted = torch.stack([output.logits[0, 2 - back], output.logits[0, 5 - back], output.logits[1, 3 - back]])
    torch.testing.assert_close(output.loss, cross_entropy(predicted, labels[labels != -100]))
    assert output.to_tuple()[0] is output.loss


@LM_CLASSES
def test_loss_is_float32_and_divided_by_the_items_of_the_whole_batch(cls, tokens):
    model = build(cls).to(torch.bfloat16)
    mean = model(tokens, labels=tokens).loss
    assert mean.dtype == torch.float32
    whole = model(tokens, labels=tokens, num_items_in_batch=torch.tensor(4 * tokens.numel())).loss
    torch.testing.assert_close(whole, mean / 4)


@LM_CLASSES
@pytest.mark.parametrize(
    "partial", [{"logits_to_keep": 2}, {"logits_to_keep": torch.tensor([1])}, {"run_head": False}]
)
def test_labels_need_the_logits_of_every_position(cls, partial, tokens):
    with pytest.raises(ValueError, match="`labels` need the logits of every position"):
        build(cls)(tokens, labels=tokens, **partial)


@LM_CLASSES
@pytest.mark.parametrize("shape", [(2, POSITIONS - 1), (2, POSITIONS + 1), (1, POSITIONS), (POSITIONS,), (2, 1)])
def test_labels_of_another_shape_are_refused(cls, shape, tokens):
    shapes = re.escape(f"`labels` have the shape {shape}, the logits {(2, POSITIONS, VOCAB)}")
    with pytest.raises(ValueError, match=shapes):
        build(cls)(tokens, labels=torch.zeros(shape, dtype=torch.long))


@ALL_CLASSES
@pytest.mark.parametrize("padding", [None, [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]])
def test_attentions_are_those_of_the_eager_implementation(cls, padding, tokens):
    mask = None if padding is None else torch.tensor(padding)
    eager, other = build(cls, "eager"), build(cls, "sdpa")
    expected = eager(tokens, attention_mask=mask, output_attentions=True)
    found = other(tokens, attention_mask=mask, output_attentions=True)
    assert [weights.shape for weights in expected.attentions] == [(2, HEADS, POSITIONS, POSITIONS)] * LAYERS
    for wanted, weights in zip(expected.attentions, found.attentions, strict=True):
        torch.testing.assert_close(weights, wanted)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, POSITIONS))
        if mask is not None:
            assert not weights[0, :, 2:, :2].any()
    torch.testing.assert_close(found[0][1], other(tokens, attention_mask=mask)[0][1])
    assert other.config._attn_implementation == "sdpa"
    assert other(tokens, attention_mask=mask).attentions is None


@ALL_CLASSES
def test_another_attention_implementation_is_set_in_place(cls, tokens):
    model = build(cls, "sdpa")
    expected = model(tokens)[0]
    model.set_attn_implementation("eager")
    assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {"eager"}
    torch.testing.assert_close(model(tokens)[0], expected)


@ALL_CLASSES
def test_what_is_returned_is_a_matter_of_the_config_and_then_of_the_call(cls, tokens):
    model = build(cls, "eager")
    assert model(tokens).hidden_states is None
    model.config.output_hidden_states = True
    model.config.output_attentions = True
    output = model(tokens)
    assert len(output.hidden_states) == LAYERS + 1 and len(output.attentions) == LAYERS
    output = model(tokens, output_hidden_states=False, output_attentions=False)
    assert output.hidden_states is None and output.attentions is None


@ALL_CLASSES
def test_tuples(cls, tokens):
    model = build(cls)
    expected = model(tokens).to_tuple()
    by_keyword = model(tokens, return_dict=False)
    model.config.return_dict = False
    for found in (by_keyword, model(tokens)):
        assert isinstance(found, tuple) and len(found) == 1
        torch.testing.assert_close(found[0], expected[0])


@LM_CLASSES
def test_a_config_that_asks_for_tuples_is_decoded_as_another(cls, tokens):
    model = build(cls)
    expected = model.generate(tokens, max_new_tokens=4, block_size=4)
    model.config.return_dict = False
    assert model.generate(tokens, max_new_tokens=4, block_size=4).equal(expected)


@BASE_CLASSES
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("output_attentions", [False, True])
def test_base_model_trains_alike_with_gradient_checkpointing(cls, reentrant, output_attentions, tokens):
    model = build(cls, "eager").train()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(tokens, output_attentions=output_attentions).last_hidden_state[:, 0].square().sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients()
    without = {"transformer.ff_out.weight"}  # LLaDA's base model holds the head, and does not run it
    assert found.keys() == expected.keys() == {name for name, _ in model.named_parameters()} - without
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cls", [LLaDAModelLM, LLaDAModel])
def test_resized_llada_is_loaded_again(cls, tied, tmp_path):
    model = build(cls, weight_tying=tied)
    model.resize_token_embeddings(VOCAB + 8)
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert again.config.vocab_size == again.config.embedding_size == VOCAB + 8
    assert again.get_input_embeddings().weight.equal(model.get_input_embeddings().weight)
    assert again.get_output_embeddings().weight.shape[0] == VOCAB + 8
