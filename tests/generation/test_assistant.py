"""A second model drafts: the text of the model alone, or its distribution; what an assistant must have."""

import numpy as np
import pytest
import torch

from d3llm.generation import DiffusionGenerationConfig, speculation
from d3llm.generation.foresight import moved
from d3llm.modeling import DreamModel, Fast_dLLM_QwenForCausalLM, LLaDA2MoeModelLM, LLaDAModelLM, SDARForCausalLM
from tests.helpers.decoding import MASK, left_pad, prompts
from tests.helpers.models import tiny_autoregressive, tiny_model
from tests.helpers.two_devices import FIRST, SECOND, Labels


RUN = {"max_new_tokens": 16, "return_dict_in_generate": True, "eos_token_id": 7, "block_size": 8}
BASES = {
    "llada": {"preset": "llada"},
    "dream": {"preset": "dream"},
    "d3llm": {"preset": "d3llm", "threshold": 1.0},
    "margin": {"score": "margin", "selection": "count"},
    "frechet": {"preset": "frechet", "frechet_margin": 0.05, "cache": "none"},
    "sdar": {"preset": "sdar", "threshold": 0.5, "attention_block_size": 8, "cache": "block"},
}
SPECULATIVE = {"preset": "sdar", "assistant_rule": "lossless_distribution"}
LEFT_TO_RIGHT = {"preset": "sdar_static", "block_size": 1, "attention_block_size": 1, "cache": "none"}


def double(family: type, seed: int, **options):
    """In float64, so that no tie of scores is broken by the order of a sum; experts are for float32."""
    model = tiny_model(family, seed=seed, **options)
    model = model if family is LLaDA2MoeModelLM else model.double()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3)
    return model


PAIRS = [(LLaDAModelLM, DreamModel), (DreamModel, SDARForCausalLM), (SDARForCausalLM, LLaDAModelLM)]


def pairs_in_turn():
    """Each base with one pair of families, in turn; the others are slow."""
    for index, base in enumerate(BASES):
        for turn, (family, other) in enumerate(PAIRS):
            marks = () if index % 3 == turn else pytest.mark.slow
            yield pytest.param(family, other, base, id=f"{base}-{family.__name__}-{other.__name__}", marks=marks)


@pytest.mark.parametrize(("family", "other", "base"), pairs_in_turn())
def test_the_text_is_that_of_the_model_alone(family, other, base):
    model, assistant = double(family, 0), double(other, 1)
    ids, mask = left_pad(prompts([5, 9, 3]))
    given = RUN | BASES[base] | {"attention_mask": mask}
    plain = model.generate(ids, **given)
    assert not plain.assistant_forwards.any()
    drafted = model.generate(ids, assistant_model=assistant, draft_states=5, **given)
    assert torch.equal(drafted.sequences, plain.sequences)
    assert (drafted.forward_passes <= plain.forward_passes).all()
    assert (drafted.row_forwards > drafted.forward_passes).all()
    assert (drafted.assistant_forwards == drafted.row_forwards).all()


def test_rows_of_a_batch_are_those_of_the_row_alone():
    model, assistant = double(LLaDAModelLM, 0), double(LLaDAModelLM, 1)
    texts = prompts([5, 9, 3])
    ids, mask = left_pad(texts)
    given = RUN | BASES["llada"] | {"assistant_model": assistant, "draft_states": 4}
    together = model.generate(ids, attention_mask=mask, **given)
    for row, text in enumerate(texts):
        alone = model.generate(text[None], **given)
        assert torch.equal(together.commit_steps[row], alone.commit_steps[0])
        for field in ("forward_passes", "row_forwards", "assistant_forwards"):
            assert getattr(together, field)[row] == getattr(alone, field)[0]


def test_a_model_that_knows_drafts_better_than_one_that_does_not():
    model, ids = double(LLaDAModelLM, 0), torch.cat([prompts([6], seed=seed)[0][None] for seed in range(4)])
    given = RUN | {"preset": "llada", "early_stop": False}
    knowing, not_knowing = (
        model.generate(ids, assistant_model=double(LLaDAModelLM, seed), **given).forward_passes.sum()
        for seed in (0, 1)
    )
    assert knowing < model.generate(ids, draft_states=8, **given).forward_passes.sum() < 4 * 16
    assert knowing < 0.7 * not_knowing


def test_more_states_than_masks():
    model, ids = double(LLaDAModelLM, 0), prompts([6])[0][None]
    given = {"preset": "llada", "max_new_tokens": 2}
    plain = model.generate(ids, **given)
    output = model.generate(
        ids, assistant_model=double(LLaDAModelLM, 1), draft_states=64, return_dict_in_generate=True, **given
    )
    assert torch.equal(output.sequences, plain) and output.row_forwards <= 2 * 4


@pytest.mark.parametrize(
    ("family", "assistant"),
    [
        pytest.param(SDARForCausalLM, None, id="SDAR-itself"),
        pytest.param(SDARForCausalLM, SDARForCausalLM, id="SDAR-SDAR"),
        pytest.param(SDARForCausalLM, LLaDAModelLM, id="SDAR-LLaDA"),
        pytest.param(LLaDA2MoeModelLM, None, id="LLaDA2-itself"),
        pytest.param(LLaDA2MoeModelLM, SDARForCausalLM, id="LLaDA2-SDAR", marks=pytest.mark.slow),
        pytest.param(LLaDA2MoeModelLM, LLaDAModelLM, id="LLaDA2-LLaDA", marks=pytest.mark.slow),
    ],
)
def test_at_temperature_0_the_text_is_that_of_decoding_from_left_to_right(family, assistant):
    model = double(family, 0)
    ids, mask = left_pad(prompts([5, 9, 3]))
    run = RUN | {"attention_mask": mask, "output_logprobs": True}
    plain = model.generate(ids, **run | LEFT_TO_RIGHT)
    other = None if assistant is None else double(assistant, 1)
    output = model.generate(ids, assistant_model=other, **run | SPECULATIVE)
    assert torch.equal(output.sequences, plain.sequences)
    torch.testing.assert_close(output.logprobs, plain.logprobs, equal_nan=True)
    assert (output.row_forwards == output.forward_passes).all()
    assert (output.assistant_forwards == (0 if other is None else output.forward_passes)).all()
    for row, text in enumerate(prompts([5, 9, 3])):
        alone = model.generate(text[None], assistant_model=other, **RUN | SPECULATIVE | {"cache": "none"})
        assert torch.equal(alone.commit_steps[0], output.commit_steps[row])


def test_a_draft_that_comes_true_is_committed_at_once():
    """The model agrees with itself on all tokens where the masks after them change nothing."""
    model = double(SDARForCausalLM, 0)
    ids = prompts([8])[0][None]
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    output = model.generate(ids, **RUN | SPECULATIVE | {"early_stop": False})
    assert output.forward_passes == 2 * 2


COPIES = 4000


def counts(model, assistant=None, **fields) -> torch.Tensor:
    """How often each text of three tokens is sampled."""
    output = model.generate(
        prompts([4])[0][None] % 5, assistant_model=assistant, max_new_tokens=3, num_return_sequences=COPIES, **fields
    )
    texts = output[:, 4:]
    return torch.bincount((texts * torch.tensor([36, 6, 1])).sum(dim=1), minlength=216)


@pytest.mark.parametrize("warped", [{}, {"top_k": 3}, {"temperature": 0.6, "top_p": 0.8}], ids=str)
def test_the_distribution_is_that_of_decoding_from_left_to_right(warped):
    small = {"vocab_size": 6, "mask_token_id": 5, "std": 0.5, "width": 16, "feedforward": 16}
    model = tiny_model(SDARForCausalLM, **small)
    given = {"temperature": 1.0, "early_stop": False, "seed": 0} | warped
    expected = counts(model, **LEFT_TO_RIGHT | given)
    assert distance(expected, counts(model, **LEFT_TO_RIGHT | given | {"seed": 1})) < 1.5  # what chance makes
    for assistant in (None, tiny_model(LLaDAModelLM, seed=1, **small)):
        given |= {"seed": 2, "block_size": 4}
        assert distance(expected, counts(model, assistant, **SPECULATIVE | given)) < 1.5


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The chi-square of two samples of equal size, for each degree of freedom."""
    seen = one + other > 8
    return float(((one - other)[seen] ** 2 / (one + other)[seen]).sum() / seen.sum())


def test_samples_are_those_of_their_seed_alone():
    model = double(SDARForCausalLM, 0)
    texts = prompts([5, 9, 3])
    ids, mask = left_pad(texts)
    given = RUN | SPECULATIVE | {"temperature": 1.0}
    together = model.generate(ids, attention_mask=mask, seed=[3, 4, 5], **given)
    for row, text in enumerate(texts):
        alone = model.generate(text[None], seed=3 + row, **given | {"cache": "none"})
        assert torch.equal(alone.sequences[0, -16:], together.sequences[row, -16:])
        assert alone.forward_passes[0] == together.forward_passes[row]


def test_masks_in_a_prompt_are_drafted_too():
    model = double(SDARForCausalLM, 0)
    ids = prompts([9])[0][None]
    ids[0, [2, 3, 6]] = MASK
    plain = model.generate(ids, **RUN | LEFT_TO_RIGHT)
    assert torch.equal(model.generate(ids, **RUN | SPECULATIVE).sequences, plain.sequences)


def test_only_the_first_drafts_in_a_row_are_kept():
    agrees = np.array([[True, False, True], [True, True, True], [False, True, True]])
    eligible = np.array([[True, True, True], [True, True, False], [True, True, True]])
    kept = speculation.accepted_from_the_left(agrees, eligible)
    assert kept.tolist() == [[True, True, False], [True, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("assistant", "message"),
    [
        (lambda: tiny_model(LLaDAModelLM, vocab_size=65), "`vocab_size`=65 and the model 64"),
        (lambda: tiny_model(LLaDAModelLM, mask_token_id=62), "`mask_token_id`=62 and the model 63"),
        (lambda: tiny_model(LLaDAModelLM, positions=16), "exceeds the 16 positions of `assistant_model`"),
        (lambda: tiny_autoregressive(), "is a LlamaForCausalLM: give a masked-diffusion model"),
        (lambda: "student", "is a str: give a masked-diffusion model"),
    ],
)
def test_what_does_not_fit_the_model(assistant, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(LLaDAModelLM).generate(prompts([4])[0][None], assistant_model=assistant(), max_new_tokens=24)


def test_another_eos_does_not_fit():
    assistant = tiny_model(LLaDAModelLM)
    assistant.generation_config.eos_token_id = [0, 5]
    with pytest.raises(ValueError, match=r"`eos_token_id`=\[0, 5\] and the model \[0\]"):
        tiny_model(LLaDAModelLM).generate(prompts([4])[0][None], assistant_model=assistant, max_new_tokens=4)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (LLaDAModelLM, {}, "`attention`='bidirectional': use it on block-causal models"),
        (Fast_dLLM_QwenForCausalLM, {"preset": "fast_dllm_v2"}, "predict the token after them"),
        (SDARForCausalLM, {"preset": "sdar", "cache": "dual"}, "`cache`='dual': use 'block' or 'none'"),
        (SDARForCausalLM, {"cache": "none", "preset": "sdar", "cfg_scale": 1.0}, "`cfg_scale`=1.0"),
    ],
)
def test_what_does_not_go_with_speculative_sampling(family, fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(family).generate(
            prompts([4])[0][None], assistant_rule="lossless_distribution", max_new_tokens=4, **fields
        )


def test_sampling_does_not_go_with_exact_drafts():
    model = tiny_model(LLaDAModelLM)
    with pytest.raises(ValueError, match=r"`draft_states`=8 does not go with `temperature`=0\.5"):
        model.generate(prompts([4])[0][None], assistant_model=model, max_new_tokens=4, temperature=0.5)


@pytest.mark.parametrize("rule", [BASES["llada"], SPECULATIVE | {"temperature": 1.0}], ids=["exact", "sampled"])
def test_an_assistant_on_another_device(rule):
    model, assistant, ids = double(SDARForCausalLM, 0), double(LLaDAModelLM, 1), prompts([6])[0][None]
    given = (
        RUN | {"attention": "block_causal", "cache": "none", "seed": 0, "max_new_tokens": 8, "block_size": 4} | rule
    )
    expected = model.generate(ids, assistant_model=assistant, **given)
    labels = Labels()
    for module, device in ((model, FIRST), (assistant, SECOND)):
        labels.of.update(dict.fromkeys((*module.parameters(), *module.buffers()), device))
    with labels:
        output = model.generate(ids.to(FIRST), assistant_model=assistant, **given)
        assert output.sequences.device == output.assistant_forwards.device == FIRST
    assert torch.equal(output.commit_steps, expected.commit_steps)
    assert torch.equal(output.sequences, expected.sequences)


def test_a_score_moves_as_that_of_the_assistant_has():
    score, before, now = (np.array([[value]], dtype=np.float32) for value in (0.9, 0.8, 0.6))
    for kind in ("probability", "margin"):  # twice the doubt
        config = DiffusionGenerationConfig(score=kind, selection="count").resolve()
        assert np.allclose(moved(score, before, now, config), 0.8)
        assert np.allclose(moved(score, before, before, config), score)
    config = DiffusionGenerationConfig(score="entropy").resolve()
    assert np.allclose(moved(-score, -now, -before, config), -1.2)
    config = DiffusionGenerationConfig(score="position", selection="count").resolve()
    assert np.array_equal(moved(-score, -before, -now, config), -score)
