"""Soft inputs (DMax, arXiv 2604.08302), against the method written out for one row."""

import numpy as np
import pytest
import torch

from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.selection import by_prefix
from d3llm.generation.soft_inputs import mixed_embeddings
from d3llm.modeling import SDARForCausalLM
from tests.helpers.decoding import FAMILIES, MASK, left_pad, prompts
from tests.helpers.models import tiny_model


BLOCK, NEW = 8, 20
RUN = {"preset": "dmax", "block_size": BLOCK, "max_new_tokens": NEW, "threshold": 0.3, "edit_until": 0.6}
RUN |= {"edit_forwards": 6, "early_stop": False, "return_dict_in_generate": True}


def sharp(family):
    built = tiny_model(family)
    with torch.no_grad():
        built.get_output_embeddings().weight[[MASK, 0]] = 0.0
        built.get_output_embeddings().weight.mul_(3)
    return built


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def model(request):
    return sharp(request.param)


def mix(embedding, token, probability):
    """Equation 10 of the paper."""
    word, mask = embedding.weight[token], embedding.weight[MASK]
    mixed = probability * word + (1 - probability) * mask
    return mixed / mixed.norm() * (probability * word.norm() + (1 - probability) * mask.norm())


@torch.no_grad()
def written_out(model, prompt):
    """One row, one position after another: the canvases after each forward."""
    embedding = model.get_input_embeddings()
    canvas, canvases = torch.cat([prompt, torch.full((NEW,), MASK)]), []
    for start in range(len(prompt), len(canvas), BLOCK):
        block, soft, complete_for = range(start, min(start + BLOCK, len(canvas))), {}, 0
        while True:
            inputs = embedding(canvas).clone()
            for position, (token, probability) in soft.items():
                inputs[position] = mix(embedding, token, probability)
            logits = model(inputs_embeds=inputs[None]).logits[0][model.logit_rows(torch.arange(len(canvas)))]
            probability, token = logits.softmax(dim=-1).index_fill(-1, torch.tensor([MASK]), 0).max(dim=-1)
            masked = [position for position in block if canvas[position] == MASK]
            complete_for = 0 if masked else complete_for + 1
            sure = next((i for i, position in enumerate(masked) if probability[position] < 0.3), len(masked))
            written = masked[: max(sure, 1)] + [position for position in block if canvas[position] != MASK]
            changed = [position for position in written if canvas[position] != token[position]]
            canvas[written] = token[written]
            soft = {position: (token[position], probability[position]) for position in written}
            canvases.append(canvas.clone())
            complete = not (canvas[block] == MASK).any()
            if complete and (not changed or (probability[block] >= 0.6).all() or complete_for == 6):
                break
    return torch.stack(canvases)


def test_against_the_method_written_out(model):
    prompt = prompts([5])[0]
    output = model.generate(prompt[None], output_history=True, **RUN)
    canvases = written_out(model, prompt)
    assert torch.equal(output.history[0], canvases)
    before, after = canvases[:-1], canvases[1:]
    assert ((before != after) & (before != MASK)).any()  # something was revised
    hard = model.generate(prompt[None], output_history=True, **RUN | {"soft_inputs": False})
    assert hard.history.shape != output.history.shape or not torch.equal(hard.history, output.history)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "block"])
def test_rows_of_a_batch_are_those_of_the_row_alone(model, cache):
    texts = prompts([5, 9, 3])
    ids, mask = left_pad(texts)
    together = model.generate(ids, attention_mask=mask, cache=cache, **RUN)
    for row, text in enumerate(texts):
        alone = model.generate(text[None], cache=cache, **RUN)
        assert torch.equal(together.sequences[row, -NEW:], alone.sequences[0, -NEW:])
        assert torch.equal(together.commit_steps[row], alone.commit_steps[0])


def test_a_cache_is_not_reused_where_its_inputs_were_soft():
    """The next turn of a chat has the same text with the cache of the first turn as without."""
    model = sharp(SDARForCausalLM)
    given = {**RUN, "attention_block_size": BLOCK, "cache": "block", "cache_delay": 0}
    first = model.generate(prompts([4])[0][None], **given)
    soft = first.cache.tokens[0] == -1
    assert soft.any() and not soft[: 4 + BLOCK].any()  # the finished blocks were computed from their tokens
    second = torch.cat([first.sequences, prompts([5], seed=2)[0][None]], dim=1)
    fresh = model.generate(second, **given)
    assert torch.equal(fresh.sequences, model.generate(second, **given | {"cache": first.cache}).sequences)


def test_a_mix_is_as_long_as_its_parts():
    token, mask = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]]), torch.tensor([0.0, 1.0])
    mixed = mixed_embeddings(token, mask, torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(mixed[[0, 2]], torch.stack([token[0], mask]))
    torch.testing.assert_close(mixed.norm(dim=-1), torch.tensor([3.0, 2.0, 1.0]))


def test_a_prefix_ends_at_the_first_doubt():
    config = DiffusionGenerationConfig(preset="dmax").resolve()
    score = np.array([[0.9, 0.5, 0.4, 0.9], [0.1, 0.9, 0.9, 0.9], [-np.inf, 0.2, 0.9, -np.inf]], dtype=np.float32)
    accepted = by_prefix(score, score > 0, np.arange(4)[None].repeat(3, axis=0), None, config)
    assert accepted.tolist() == [[True, True, False, False], [True, False, False, False], [False, True, False, False]]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"score": "entropy", "edit_threshold": None, "edit_until": None}, "`score`='entropy'"),
        ({"cfg_scale": 0.5}, "`soft_inputs` does not go with `cfg_scale`"),
        ({"credit_weight": 0.7}, "`soft_inputs` does not go with `credit_weight`"),
        ({"draft_states": 4}, "`draft_states`=4 does not go with `edit_threshold`"),
        ({"branches": 2, "edit_threshold": None, "edit_until": None}, "`branches`=2 does not go with `soft_inputs`"),
        ({"preset": None, "edit_until": 0.9}, "`edit_until`=0.9 ends edits"),
        ({"preset": "refusion", "soft_inputs": True}, "`soft_inputs` does not go with `selection`='slots'"),
        ({"assistant_rule": "lossless_distribution", "attention": "block_causal"}, "does not go with"),
    ],
)
def test_what_does_not_go_together_is_said(fields, fault):
    model = tiny_model(SDARForCausalLM if "attention" in fields else FAMILIES[0])
    settings = {"preset": "dmax", **fields}
    if settings["preset"] == "dmax" and None in fields.values():  # a field of None is the preset's
        preset = {"score": "probability", "selection": "prefix", "soft_inputs": True}
        settings = preset | {name: value for name, value in fields.items() if value is not None}
    with pytest.raises(ValueError, match=fault.replace("(", r"\(")):
        model.generate(prompts([5])[0][None], max_new_tokens=8, **settings)
