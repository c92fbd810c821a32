"""Introspective decoding: the base's own text, greedily and in distribution, in fewer forwards."""

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerFast, StoppingCriteria, TextStreamer
from transformers.generation.streamers import BaseStreamer

from d3llm import IntrospectiveModel
from d3llm.generation import introspective_run
from d3llm.generation.introspective_run import IntrospectiveRun
from d3llm.generation.introspective_settings import prepare_settings
from tests.helpers.introspective import (
    CAUSAL,
    WINDOW,
    learnt_drafter,
    ragged_prompts,
    random_drafter,
    tiny_causal,
)


NEW = 24


@cache
def learnt(family: str) -> IntrospectiveModel:
    """A model whose drafter knows its texts; none of them ends early."""
    base = tiny_causal(family)
    prompts, mask = ragged_prompts()
    options: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    texts = base.generate(prompts, attention_mask=mask, **options)[:, -NEW:]
    return IntrospectiveModel(learnt_drafter(base, texts, steps=45))


@pytest.fixture(scope="module", params=["llama", pytest.param("qwen2", marks=pytest.mark.slow), "qwen3"])
def model(request) -> IntrospectiveModel:
    return learnt(request.param)


@pytest.fixture(scope="module")
def llama() -> IntrospectiveModel:
    return learnt("llama")


@pytest.fixture(scope="module")
def llama_text(llama) -> torch.Tensor:
    """What the base makes of the ragged prompts."""
    return own_text(llama, *ragged_prompts())


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Token 7 is the text w7; letters are tokens too, since transformers looks for stop strings after "abcdef"."""
    texts = [f"w{number}" for number in range(42)] + list("abcdef")
    words = Tokenizer(models.WordLevel({text: number for number, text in enumerate(texts)}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"w\d+|[a-f]"), "isolated")
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w0")


def own_text(model: IntrospectiveModel, prompts: torch.Tensor, mask: torch.Tensor | None = None, **fields: Any):
    mask = torch.ones_like(prompts) if mask is None else mask
    return model.base.generate(prompts, attention_mask=mask, **{"max_new_tokens": NEW, "do_sample": False} | fields)


def own_texts_alone(model: IntrospectiveModel, prompts: torch.Tensor, mask: torch.Tensor, **fields: Any):
    """Generated tokens, each row without its padding, which older releases take for text that repeats."""
    pairs = zip(prompts, mask.bool(), strict=True)
    texts = [own_text(model, row[kept][None], **fields)[0, int(kept.sum()) :] for row, kept in pairs]
    return pad_sequence(texts, batch_first=True)


def one_prompt() -> torch.Tensor:
    return ragged_prompts()[0][:1]


# Greedy text


def test_eager_attention_gives_the_base_s_text(llama):
    llama.base.set_attn_implementation("eager")
    texts = llama.generate(*ragged_prompts(), max_new_tokens=NEW)
    expected = own_text(llama, *ragged_prompts())
    llama.base.set_attn_implementation("sdpa")
    assert torch.equal(texts, expected)


def test_ragged_batches_get_the_base_s_text_in_fewer_forwards(model):
    prompts, mask = ragged_prompts()
    expected = own_text(model, prompts, mask)
    output = model.generate(prompts, mask, max_new_tokens=NEW, return_dict_in_generate=True)
    assert torch.equal(output.sequences, expected)
    assert output.tokens_per_forward.mean() > 1.5
    assert len(output.forward_passes.unique()) > 1  # rows at their own pace
    assert (output.accepted[:, 1:] > 0).any() and (output.accepted < output.proposed).any()


def test_a_row_is_decoded_the_same_alone(model):
    prompts, mask = ragged_prompts()
    together = model.generate(prompts, mask, max_new_tokens=NEW, return_dict_in_generate=True)
    for row, given in enumerate(mask.bool()):
        alone = model.generate(prompts[row : row + 1, given], max_new_tokens=NEW, return_dict_in_generate=True)
        count = alone.sequences.shape[1] - int(given.sum())
        expected = together.sequences[row, prompts.shape[1] :][:count]
        assert torch.equal(alone.sequences[0, -count:], expected)
        assert alone.tokens_per_forward > 1


@pytest.mark.parametrize("draft_tokens", range(WINDOW + 1))
@pytest.mark.parametrize("max_rows", [2, 7, 100])
def test_any_number_of_drafts_and_rows_gives_the_same_text(llama, llama_text, draft_tokens, max_rows):
    prompts, mask = ragged_prompts()
    options = {"draft_tokens": draft_tokens, "max_rows": max_rows, "max_new_tokens": NEW}
    output = llama.generate(prompts, mask, return_dict_in_generate=True, **options)
    assert torch.equal(output.sequences, llama_text)
    assert output.proposed.shape == (len(prompts), draft_tokens)


@pytest.mark.parametrize("family", CAUSAL)
def test_nonsense_drafts_cost_forwards_and_change_nothing(family):
    base = tiny_causal(family, seed=1)
    model = IntrospectiveModel(random_drafter(base))
    prompts, mask = ragged_prompts()
    output = model.generate(prompts, mask, max_new_tokens=NEW, return_dict_in_generate=True)
    assert torch.equal(output.sequences, own_text(model, prompts, mask))
    assert output.tokens_per_forward.max() < 1.5


@pytest.mark.parametrize("new_tokens", [1, 2, 3, 4, 5])
def test_short_answers_end_at_their_length(llama, new_tokens):
    prompts, mask = ragged_prompts()
    texts = llama.generate(prompts, mask, max_new_tokens=new_tokens)
    assert torch.equal(texts, own_text(llama, prompts, mask, max_new_tokens=new_tokens))


def test_eos_ends_rows_one_by_one_and_padding_follows(llama):
    prompts, mask = ragged_prompts()
    text = own_text(llama, prompts, mask)[:, prompts.shape[1] :]
    fields = {"eos_token_id": [int(text[0, 9]), int(text[3, 4])], "pad_token_id": 46}
    expected = own_text(llama, prompts, mask, **fields)
    assert (expected == 46).any()
    output = llama.generate(prompts, mask, max_new_tokens=NEW, return_dict_in_generate=True, **fields)
    assert torch.equal(output.sequences, expected)
    generated = output.sequences[:, prompts.shape[1] :]
    lengths = (generated != 46).sum(dim=1)
    assert torch.allclose(output.tokens_per_forward, lengths / output.forward_passes)


def test_padding_is_inferred_as_transformers_does(llama):
    prompts, mask = ragged_prompts()
    fields = {"pad_token_id": 0, "eos_token_id": 5, "max_new_tokens": 8}
    assert torch.equal(llama.generate(prompts, **fields), own_text(llama, prompts, mask, **fields))


def test_lengths_default_as_in_transformers(llama):
    prompts = one_prompt()
    assert torch.equal(llama.generate(prompts), own_text(llama, prompts, max_new_tokens=None))
    config = GenerationConfig(max_length=17, eos_token_id=0, pad_token_id=0)
    assert llama.generate(prompts, generation_config=config).shape == (1, 17)
    assert llama.generate(prompts, max_length=13).shape == (1, 13)


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 12, "eos_token_id": 33},
        {"suppress_tokens": [33, 9, 44]},
        {"bad_words_ids": [[33, 33], [9]]},
        {"forced_eos_token_id": 5, "eos_token_id": 5},
        {"encoder_repetition_penalty": 1.5},
        {"encoder_no_repeat_ngram_size": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_logits_processors_of_the_base_are_applied(llama, fields):
    prompts, mask = (part[::2] for part in ragged_prompts())
    fields = {"max_new_tokens": 16} | fields
    expected = own_texts_alone(llama, prompts, mask, **fields)
    usual = {name: fields[name] for name in ("max_new_tokens", "eos_token_id") if name in fields}
    assert not torch.equal(expected, own_texts_alone(llama, prompts, mask, **usual))
    assert torch.equal(llama.generate(prompts, mask, **fields)[:, prompts.shape[1] :], expected)


# Which rows are taken


class Rows(list):
    """Spies on the forwards: base rows and mask rows of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        body = introspective_run.run_body

        def spy(base, cache, **inputs):
            self.append(inputs["inputs_embeds"].shape[1])
            return body(base, cache, **inputs)

        monkeypatch.setattr(introspective_run, "run_body", spy)


@pytest.mark.parametrize("max_rows", [2, 5, 8, 12])
def test_the_rows_of_a_forward_are_limited_and_keep_one_group(llama, monkeypatch, max_rows):
    rows = Rows(monkeypatch)
    output = llama.generate(one_prompt(), max_new_tokens=NEW, max_rows=max_rows, return_dict_in_generate=True)
    least = 1 + WINDOW + WINDOW
    assert max(rows[1:]) <= max(max_rows, least)
    assert max(rows[1:]) > min(max_rows, least) - WINDOW
    assert output.proposed.sum() > 0


def test_the_likeliest_acceptances_keep_their_groups(llama):
    prompts, _ = ragged_prompts(1)
    run = run_of(llama, prompts, max_rows=10, draft_tokens=3)
    run.rows.ends, run.rows.cached, run.rows.drafts = np.array([9]), np.array([8]), np.array([3])
    run.rows.confidences = np.array([[0.9, 0.3, 0.2]], dtype=np.float32)
    # exactly 0, 1, 2 and 3 accepted: 0.1, 0.6, 0.1 and 0.2
    assert run.plan().anchors.tolist() == [[1, 3]]


def test_rows_see_the_text_before_them_and_masks_their_own_group(llama, monkeypatch):
    taken = []
    body = introspective_run.run_body

    def spy(base, cache, **inputs):
        taken.append(inputs)
        return body(base, cache, **inputs)

    monkeypatch.setattr(introspective_run, "run_body", spy)
    run = run_of(llama, ragged_prompts(2)[0], max_rows=100, draft_tokens=3)
    with llama.drafter.attached(), torch.no_grad():
        run.forward(run.plan())
        run.rows.ends, run.rows.cached, run.rows.drafts = np.array([9, 6]), np.array([8, 5]), np.array([2, 1])
        run.forward(run.plan())
    seen, positions = taken[1]["attention_mask"][:, 0], taken[1]["position_ids"]
    width, window = 3, 3  # of the base rows, and of each of 3 groups
    for row, (cached, drafts) in enumerate([(8, 2), (5, 1)]):
        for place in range(drafts + 1):
            assert positions[row, place] == cached + place
            assert seen[row, place].nonzero()[:, 0].tolist() == list(range(cached + place + 1))
        for group in range(drafts + 1):
            for number in range(window):
                taken_row = width + group * window + number
                assert positions[row, taken_row] == cached + group + 1 + number
                own = [cached + width + group * window + before for before in range(number + 1)]
                assert seen[row, taken_row].nonzero()[:, 0].tolist() == list(range(cached + group + 1)) + own


@pytest.mark.parametrize("accepted", [0, 1, 2])
@pytest.mark.parametrize("max_rows", [100, 7])
def test_the_group_after_the_last_accepted_draft_drafts_anew(llama, monkeypatch, accepted, max_rows):
    text = own_text(llama, one_prompt())[0].numpy()
    run = run_of(llama, one_prompt(), max_rows=max_rows, draft_tokens=3)
    hidden, picked = [], []
    run_base, propose = run.run_base, llama.drafter.propose
    monkeypatch.setattr(run, "run_base", lambda plan: hidden.append(run_base(plan)) or hidden[-1])
    monkeypatch.setattr(llama.drafter, "propose", lambda rows, *rest: picked.append(rows) or propose(rows, *rest))
    with llama.drafter.attached(), torch.no_grad():
        run.forward(run.plan())
        run.rows.ends, run.rows.cached, run.rows.drafts = np.array([8]), np.array([7]), np.array([2])
        run.rows.texts[0, :10] = text[:10]
        if accepted < 2:
            run.rows.texts[0, 8 + accepted] = (text[8 + accepted] + 1) % 48
        run.rows.confidences = np.array([[0.9, 0.8, 0]], dtype=np.float32)  # both are accepted, most likely
        plan = run.plan()
        _, count, _, confidences = run.forward(plan)
    assert count.tolist() == [accepted]
    if max_rows == 7:
        assert plan.anchors.tolist() == [[2]]
        assert confidences.any() == (accepted == 2)
    else:
        first = plan.width + 3 * accepted
        assert torch.equal(picked[-1], hidden[-1][0][:, first : first + 3])


def run_of(model: IntrospectiveModel, prompts: torch.Tensor, **fields: Any) -> IntrospectiveRun:
    settings = prepare_settings(model.base, WINDOW, prompts, None, None, None, {"max_new_tokens": NEW} | fields)
    lengths = np.full(len(prompts), prompts.shape[1])
    return IntrospectiveRun(model.base, model.drafter, settings, prompts.numpy(), lengths)


def test_low_confidence_ends_a_chain(llama, llama_text):
    prompts, mask = ragged_prompts()
    options: dict[str, Any] = {"max_new_tokens": NEW, "return_dict_in_generate": True}
    proposed = []
    for least in (0, 0.5, 1):
        output = llama.generate(prompts, mask, draft_confidence=least, **options)
        assert torch.equal(output.sequences, llama_text)
        assert (output.accepted <= output.proposed).all()
        proposed.append(int(output.proposed.sum()))
    assert proposed[0] > proposed[1] > proposed[2]
    some, every = (llama.generate(prompts, mask, draft_confidence=least, **options) for least in (0.5, 0))
    share = [float(output.accepted.sum() / output.proposed.sum()) for output in (some, every)]
    assert share[0] > share[1]


def test_counts_are_those_of_the_rows_alone(llama, monkeypatch):
    rows = Rows(monkeypatch)
    output = llama.generate(one_prompt(), max_new_tokens=NEW, max_rows=100, return_dict_in_generate=True)
    assert len(rows) == int(output.forward_passes)
    assert int(output.proposed[0, 0]) <= len(rows) - 1
    filled = sum(rows[1:]) + 1 + WINDOW - int(output.row_forwards)  # of the prompt, its last token counts
    assert 0 <= filled <= 3  # the last forwards, which would have 2 or 3 rows, are filled up to 4
    assert int(output.accepted.sum()) + len(rows) == NEW
    prompts, mask = ragged_prompts()
    together = llama.generate(prompts, mask, max_new_tokens=NEW, max_rows=100, return_dict_in_generate=True)
    for name in ("forward_passes", "row_forwards", "proposed", "accepted"):
        assert torch.equal(together[name][:1], output[name]), name


def test_no_adapter_works_without_mask_rows(llama, monkeypatch):
    def fail(*args):
        raise AssertionError("mask rows were asked for")

    monkeypatch.setattr(llama.drafter, "mask_rows", fail)
    monkeypatch.setattr(llama.drafter, "propose", fail)
    rows = Rows(monkeypatch)
    output = llama.generate(one_prompt(), max_new_tokens=6, draft_tokens=0, return_dict_in_generate=True)
    assert rows == [7, 1, 1, 1, 1, 1]
    assert output.row_forwards.tolist() == output.forward_passes.tolist() == [6]
    assert llama.generate(one_prompt(), max_new_tokens=2).shape == (1, 9)  # too short for drafts


READS = ("cpu", "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "nonzero")


def test_a_forward_is_read_once(llama, monkeypatch):
    prompts, mask = ragged_prompts()
    reads = []
    for name in READS:
        original = getattr(torch.Tensor, name)

        def spy(tensor, *args, name=name, original=original, **kwargs):
            reads.append(name)
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)
    counts = []
    for new_tokens in (2, NEW):
        reads.clear()
        output = llama.generate(prompts, mask, max_new_tokens=new_tokens, return_dict_in_generate=True)
        counts.append((len([name for name in reads if name != "numpy"]), output.forward_passes))
    monkeypatch.undo()
    (short, few), (long, many) = counts
    assert long - short == int(many.max() - few.max())


# Sampling


def test_a_seeded_text_does_not_depend_on_drafts_or_batch(model):
    prompts, mask = ragged_prompts()
    sample = partial(model.generate, do_sample=True, temperature=0.7, top_k=20, top_p=0.95, max_new_tokens=NEW)
    plain = sample(prompts, mask, seed=6, draft_tokens=0)
    output = sample(prompts, mask, seed=6, return_dict_in_generate=True)
    assert torch.equal(output.sequences, plain)
    assert output.accepted.sum() > 5
    count = (plain[2, prompts.shape[1] :] != 0).sum()
    alone = sample(prompts[2:3, mask[2].bool()], seed=6)
    assert torch.equal(alone[0, int(mask[2].sum()) :][:count], plain[2, prompts.shape[1] :][:count])
    assert not torch.equal(sample(prompts, mask, seed=5), plain)


def test_without_a_seed_torch_s_own_decides(llama):
    prompts, mask = ragged_prompts()
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(llama.generate(prompts, mask, do_sample=True, max_new_tokens=12).tolist())
    assert texts[0] == texts[1] != texts[2]


def test_sampled_texts_have_the_base_s_distribution():
    """Three tokens of a vocabulary of 6, whose joint probabilities are known, from drafts that are often right."""
    base = tiny_causal("llama", vocab_size=6, seed=3, std=0.4)
    prompts = torch.tensor([[2, 3, 4]])
    warped = {"do_sample": True, "temperature": 0.8, "top_k": 5}
    likely = base.generate(prompts, attention_mask=torch.ones_like(prompts), min_new_tokens=12, max_new_tokens=12)
    model = IntrospectiveModel(learnt_drafter(base, likely, steps=40))
    texts = torch.cartesian_prod(*[torch.arange(6)] * 3)
    with torch.no_grad():
        logits = base(torch.cat([prompts.expand(216, -1), texts], dim=1)).logits[:, 2:5] / 0.8
    logits[logits < logits.topk(5).values[..., -1:]] = -torch.inf
    expected = logits.softmax(-1).gather(2, texts[..., None])[..., 0].prod(dim=1)
    count = 6000
    output = model.generate(
        prompts.expand(count, -1),
        torch.ones(count, 3),
        max_new_tokens=4,
        eos_token_id=None,
        seed=list(range(count)),
        return_dict_in_generate=True,
        **warped,
    )
    assert output.accepted[:, 0].sum() > count / 5
    codes = (output.sequences[:, 3:6] * torch.tensor([36, 6, 1])).sum(dim=1)
    found = torch.bincount(codes, minlength=216).float()
    assert found[expected == 0].sum() == 0
    common = expected * count >= 5
    chi_squared = ((found - expected * count)[common] ** 2 / (expected * count)[common]).sum()
    freedom = int(common.sum()) - 1
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5  # four standard deviations


def test_top_k_of_one_is_greedy(llama, llama_text):
    prompts, mask = ragged_prompts()
    texts = llama.generate(prompts, mask, do_sample=True, top_k=1, max_new_tokens=NEW)
    assert torch.equal(texts, llama_text)


# Streams and stops


class Recorder(BaseStreamer):
    def __init__(self):
        self.parts, self.ended = [], False

    def put(self, value):
        self.parts.append(value.tolist())

    def end(self):
        self.ended = True


def test_a_streamer_gets_what_each_forward_accepted(llama, tokenizer, capsys):
    streamer = Recorder()
    output = llama.generate(one_prompt(), max_new_tokens=NEW, streamer=streamer, return_dict_in_generate=True)
    prompt, *parts = streamer.parts
    assert prompt == one_prompt().tolist() and streamer.ended
    assert [token for part in parts for token in part] == output.sequences[0, 7:].tolist()
    assert len(parts) == int(output.forward_passes) and max(map(len, parts)) > 1
    llama.generate(one_prompt(), max_new_tokens=5, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.strip() == tokenizer.decode(output.sequences[0, 7:12])


def test_stop_strings_end_rows_where_the_base_ends_them(llama, tokenizer):
    prompts, mask = ragged_prompts()
    text = own_text(llama, prompts, mask)[:, prompts.shape[1] :]
    stops = [tokenizer.decode(text[0, 8]), tokenizer.decode(text[2, 5:7])]
    fields = {"stop_strings": stops, "tokenizer": tokenizer}
    expected = own_text(llama, prompts, mask, **fields)
    assert (expected[:, -1] == 0).any()
    assert torch.equal(llama.generate(prompts, mask, max_new_tokens=NEW, **fields), expected)


class EndsWith(StoppingCriteria):
    def __init__(self, token: int):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == self.token


def test_criteria_see_every_token(llama):
    prompts, mask = ragged_prompts()
    token = int(own_text(llama, prompts, mask)[1, prompts.shape[1] + 6])
    expected = own_text(llama, prompts, mask, stopping_criteria=[EndsWith(token)])
    texts = llama.generate(prompts, mask, max_new_tokens=NEW, stopping_criteria=[EndsWith(token)])
    assert torch.equal(texts, expected)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"draft_tokens": WINDOW + 1}, "`draft_tokens`=4 exceeds the window of the drafter, which is 3"),
        ({"draft_tokens": -1}, "`draft_tokens`=-1 must be a whole number"),
        ({"draft_confidence": 1.5}, "`draft_confidence`=1.5 is out of its range"),
        ({"max_rows": 1}, "`max_rows`=1 must be"),
        ({"generation_config": {"max_new_tokens": 3}}, "`generation_config` is a dict"),
        ({"num_beams": 4}, "introspective decoding has no `num_beams`=4: set it to 1"),
        ({"guidance_scale": 2.0}, "no `guidance_scale`=2.0"),
        ({"output_scores": True}, "no `output_scores`=True"),
        ({"draft_token": 2}, r"unknown generation field `draft_token` \(did you mean `draft_tokens`\?\)"),
        ({"preset": "d3llm"}, "`preset`='d3llm' is not for a causal model"),
        ({"stop_strings": "w3"}, "pass the `tokenizer` too"),
        ({"max_length": 7}, "`max_length`=7 ends at a prompt of 7 tokens"),
        ({"do_sample": True, "seed": [1, 2]}, "`seed` lists 2 seeds for 1 prompts"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fields_that_it_cannot_follow_are_refused(llama, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        llama.generate(one_prompt(), **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompts", "mask", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.long), None, "empty prompt"),
        (torch.tensor([[3, 4], [5, 6]]), torch.tensor([[1, 1], [0, 0]]), "no row of zeros only"),
        (torch.tensor([[3, 4]]), torch.tensor([[1, 0]]), "on the left"),
        (torch.tensor([[3, 4]]), torch.tensor([[1, 1, 1]]), "does not fit `input_ids`"),
        (torch.full((1, 129), 3), None, "129 tokens exceeds the 128 positions"),
        (torch.tensor([[3, 48]]), None, "ids outside of the 48"),
        ([[3, 4]], None, "must be a tensor"),
    ],
)
def test_prompts_that_it_cannot_read_are_refused(llama, prompts, mask, message):
    with pytest.raises(ValueError, match=message) as error:
        llama.generate(prompts, mask)
    assert "\n" not in str(error.value)


def test_a_streamer_is_for_one_row(llama):
    with pytest.raises(ValueError, match="a `streamer` takes one row, and `input_ids` has 5"):
        llama.generate(*ragged_prompts(), streamer=Recorder())
