"""What users of `generate()` expect beside the method: sampling, processors, stops, streamers, pipelines."""

import copy

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CompileConfig,
    LogitsProcessorList,
    MaxTimeCriteria,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
    TextIteratorStreamer,
    pipeline,
)

from d3llm.generation import CanvasSpanStreamer, decoding_run
from d3llm.generation.noise import Draw, seeds_of_copies
from tests.helpers.decoding import FAMILIES, MASK, METHODS, left_pad, prompts
from tests.helpers.models import tiny_model
from tests.helpers.packed_head import pack_head


SAMPLED = {"temperature": 1.2, "max_new_tokens": 16, "block_size": 8, "return_dict_in_generate": True}
# The last one is of a later release than the oldest that the package works with.
STREAMERS = [
    getattr(transformers, name)
    for name in ("TextStreamer", "TextIteratorStreamer", "TextDiffusionStreamer")
    if hasattr(transformers, name)
]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize("method", ["llada", "d3llm", "fast_dllm-dual"])
def test_a_seed_gives_a_row_the_same_text_whatever_its_batch(model, method):
    rows = prompts([3, 11])
    ids, mask = left_pad(rows)
    batch = model.generate(ids, attention_mask=mask, seed=5, **METHODS[method], **SAMPLED)
    for index, row in enumerate(rows):
        alone = model.generate(row[None], seed=5, **METHODS[method], **SAMPLED)
        assert torch.equal(batch.sequences[index, ids.shape[1] :], alone.sequences[0, len(row) :])
        assert torch.equal(batch.commit_steps[index], alone.commit_steps[0])
    other = model.generate(ids, attention_mask=mask, seed=6, **METHODS[method], **SAMPLED)
    assert not torch.equal(batch.sequences, other.sequences)


def test_each_prompt_may_have_its_seed(model):
    ids, mask = left_pad(prompts([4, 9]))
    options = {"attention_mask": mask, "preset": "llada", "num_return_sequences": 2, **SAMPLED}
    output = model.generate(ids, seed=[1, 7], **options)
    for row, seed in enumerate((1, 7)):
        alone = model.generate(ids, seed=seed, **options)
        assert torch.equal(output.sequences[2 * row : 2 * row + 2], alone.sequences[2 * row : 2 * row + 2])
    for seeds, message in (([1], "lists 1 seeds for 2 prompts"), ([1, -1], "whole number"), ([1, None], "whole")):
        with pytest.raises(ValueError, match=message):
            model.generate(ids, seed=seeds, **options)


def test_return_sequences_lie_next_to_each_other_and_differ(model):
    ids, mask = left_pad(prompts([4, 9]))
    output = model.generate(ids, attention_mask=mask, preset="llada", num_return_sequences=3, seed=1, **SAMPLED)
    assert output.sequences.shape == (6, 9 + 16)
    assert torch.equal(output.sequences[:, :9], ids.repeat_interleave(3, dim=0))
    assert len({tuple(row) for row in output.sequences.tolist()}) == 6
    first = model.generate(ids, attention_mask=mask, preset="llada", seed=1, **SAMPLED)
    assert torch.equal(output.sequences[::3], first.sequences)


def test_return_sequences_of_neighbouring_seeds_have_nothing_in_common(model):
    ids = prompts([6])[0].expand(4, -1)
    output = model.generate(ids, preset="llada", seed=[0, 1, 2, 2**64 - 1], num_return_sequences=3, **SAMPLED)
    assert len({tuple(row) for row in output.sequences.tolist()}) == 12
    seeds = seeds_of_copies(np.arange(-1000, 1000), copies=8)
    assert np.array_equal(seeds[::8], np.arange(-1000, 1000))
    assert len(set(seeds.tolist())) == 16000


def test_a_seed_has_up_to_64_bits(model):
    ids = prompts([6])[0][None]
    seeds = (0, 1, 2**63 - 1, 2**63, 2**64 - 1)
    texts = {seed: model.generate(ids, preset="llada", seed=seed, **SAMPLED).sequences for seed in seeds}
    assert len({tuple(text[0].tolist()) for text in texts.values()}) == len(seeds)
    for seed, text in texts.items():
        listed = model.generate(ids, preset="llada", seed=[seed], **SAMPLED)
        assert torch.equal(listed.sequences, text)
    for seed in (2**64, [2**70]):
        with pytest.raises(ValueError, match=f"must be a whole number of at least 0 and at most {2**64 - 1}"):
            model.generate(ids, preset="llada", seed=seed, **SAMPLED)


def test_the_noise_is_what_it_says():
    candidates = np.arange(64).repeat(512), np.tile(np.arange(512), 64)
    numbers = Draw(*candidates, forward=3).uniform()
    assert numbers.dtype == np.float32
    assert 0 < numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(numbers.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers, Draw(*candidates, forward=4).uniform())[0, 1]) < 0.02
    noise = Draw(*candidates, forward=3).gumbel(2, "cpu").numpy()
    assert abs(noise.mean() - 0.5772) < 0.03  # Euler's constant
    for of_token in noise.T:
        assert abs(np.corrcoef(np.exp(-np.exp(-of_token)), numbers)[0, 1]) < 0.02


def test_sampling_follows_the_distribution(model):
    ids = prompts([6])[0][None]
    canvas = torch.cat([ids, torch.full((1, 1), MASK)], dim=1)
    rows = model.logit_rows(torch.tensor([[6]]))
    with torch.no_grad():
        logits = model(canvas, logits_to_keep=rows).logits[0, 0]
    logits[MASK] = -torch.inf
    expected = (logits / 1.5).softmax(dim=-1)
    drawn = model.generate(ids, temperature=1.5, max_new_tokens=1, num_return_sequences=2000, seed=0)[:, -1]
    found = torch.bincount(drawn, minlength=64) / 2000
    assert (found - expected).abs().max() < 4 * (0.25 / 2000) ** 0.5


@pytest.mark.parametrize("method", ["llada", "d3llm", "guided"])
def test_logprobs_and_history_tell_the_run(model, method):
    ids = prompts([6])[0][None]
    output = model.generate(
        ids,
        **METHODS[method] | {"steps": None},
        max_new_tokens=24,
        block_size=8,
        early_stop=False,
        output_logprobs=True,
        output_history=True,
        return_dict_in_generate=True,
    )
    forwards = int(output.forward_passes[0])
    assert output.history.shape == (1, forwards, 30)
    assert torch.equal(output.history[:, -1], output.sequences)
    for forward in range(1, forwards + 1):
        state = torch.where(output.commit_steps <= forward, output.sequences[:, 6:], MASK)
        assert torch.equal(output.history[:, forward - 1, 6:], state)
    if method == "guided":
        return
    before = torch.cat([ids, torch.full((1, 24), MASK)], dim=1)
    for forward in range(1, forwards + 1):
        committed = (output.commit_steps[0] == forward).nonzero()[:, 0] + 6
        with torch.no_grad():
            logits = model(before, logits_to_keep=model.logit_rows(committed)).logits[0]
        expected = logits.log_softmax(dim=-1).gather(1, output.sequences[0, committed, None])[:, 0]
        torch.testing.assert_close(output.logprobs[0, committed - 6], expected, atol=1e-4, rtol=1e-4)
        before = output.history[:, forward - 1]


def test_logprobs_are_nan_behind_the_end(model):
    ids = prompts([6])[0][None]
    arguments = {"preset": "d3llm", "max_new_tokens": 40, "block_size": 8}
    eos = int(model.generate(ids, early_stop=False, **arguments)[0, 6 + 10])
    output = model.generate(ids, eos_token_id=eos, output_logprobs=True, return_dict_in_generate=True, **arguments)
    length = int((output.sequences[0, 6:] == eos).long().argmax()) + 1
    assert not output.logprobs[0, :length].isnan().any()
    assert output.logprobs[0, length:].isnan().all()


@pytest.mark.parametrize("method", ["llada", "d3llm", "fast_dllm-dual", "dream"])
def test_a_forbidden_token_is_never_proposed(model, method):
    ids, mask = left_pad(prompts([4, 9]))
    arguments = METHODS[method] | {"max_new_tokens": 40, "attention_mask": mask, "early_stop": False}
    usual = model.generate(ids, **arguments)[:, 9:]
    frequent = usual.flatten().bincount().topk(3).indices.tolist()
    processor = LogitsProcessorList([SuppressTokensLogitsProcessor(frequent)])
    found = model.generate(ids, logits_processor=processor, **arguments)[:, 9:]
    assert not torch.isin(found, torch.tensor(frequent)).any()
    assert not (found == MASK).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_processors_do_not_see_the_padding(family):
    built = tiny_model(family)
    arguments = {"preset": "llada", "steps": 4, "max_new_tokens": 12, "block_size": 8, "early_stop": False}
    processed = arguments | {"logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.8)])}
    for number in range(6):
        torch.manual_seed(number)
        for parameter in built.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        rows = prompts([3, 9], seed=number)
        ids, mask = left_pad(rows)
        plain = built.generate(ids, attention_mask=mask, **arguments)
        found = built.generate(ids, attention_mask=mask, **processed)
        assert torch.equal(found[:, :9], ids)
        for index, row in enumerate(rows):
            alone = built.generate(row[None], **processed)
            assert torch.equal(found[index, 9:], alone[0, len(row) :]), number
        assert not torch.equal(plain, found)


def test_stopping_criteria_end_their_rows(model):
    ids, mask = left_pad(prompts([4, 9]))

    def half_of_the_first_row(input_ids, scores):
        return (input_ids[:, 0] == 0) & ((input_ids == MASK).sum(dim=1) < 20)  # the first row is padded

    arguments = {"preset": "llada", "max_new_tokens": 40, "block_size": 8, "attention_mask": mask}
    full = model.generate(ids, early_stop=False, return_dict_in_generate=True, **arguments)
    stopped = model.generate(
        ids,
        stopping_criteria=StoppingCriteriaList([half_of_the_first_row]),
        early_stop=False,
        return_dict_in_generate=True,
        **arguments,
    )
    assert stopped.forward_passes.tolist() == [21, 40]
    assert torch.equal(stopped.sequences[1], full.sequences[1])
    kept = int((stopped.sequences[0, 9:] != 0).sum())
    assert 16 <= kept <= 21
    assert torch.equal(stopped.sequences[0, : 9 + kept], full.sequences[0, : 9 + kept])
    assert (stopped.sequences[0, 9 + kept :] == 0).all()
    at_once = model.generate(ids, max_time=0.0, return_dict_in_generate=True, **arguments)
    assert at_once.forward_passes.tolist() == [1, 1]
    criteria = StoppingCriteriaList([MaxTimeCriteria(1e6)])
    assert torch.equal(model.generate(ids, stopping_criteria=criteria, early_stop=False, **arguments), full.sequences)


def test_stop_strings_end_a_row_behind_them(checkpoint):
    tiny, closed = checkpoint
    inputs = {"input_ids": closed(["one two three", "four five six"], return_tensors="pt")["input_ids"]}
    with pytest.raises(ValueError, match="a tokenizer that can spell any text"):
        tiny.generate(**inputs, max_new_tokens=4, stop_strings="six", tokenizer=closed)
    tokenizer = copy.deepcopy(closed)
    tokenizer.add_tokens(["abcdef"])  # transformers spells this to see what a token adds to a text
    arguments = {"preset": "d3llm", "max_new_tokens": 24, "block_size": 8, "early_stop": False, "threshold": 1.0}
    full = tiny.generate(**inputs, **arguments)
    wanted = tokenizer.decode(full[0, 3 + 9])
    stopped = tiny.generate(**inputs, **arguments, stop_strings=[wanted], tokenizer=tokenizer)
    for row in range(2):
        words = stopped[row, 3:].tolist()
        stop = tokenizer.convert_tokens_to_ids(wanted)
        if stop in words:
            assert set(words[words.index(stop) + 1 :]) <= {tokenizer.eos_token_id}
    assert tokenizer.convert_tokens_to_ids(wanted) in stopped[0, 3:].tolist()
    with pytest.raises(ValueError, match="`stop_strings` needs the model's `tokenizer`"):
        tiny.generate(**inputs, **arguments, stop_strings=[wanted])


@pytest.mark.parametrize("streamer_class", STREAMERS)
def test_streamers_of_transformers(checkpoint, streamer_class, capsys):
    tiny, tokenizer = checkpoint
    inputs = tokenizer("one two three", return_tensors="pt")
    streamer = streamer_class(tokenizer, skip_prompt=True)
    output = tiny.generate(
        inputs["input_ids"], preset="d3llm", max_new_tokens=24, block_size=8, early_stop=False, streamer=streamer
    )
    text = tokenizer.decode(output[0, 3:])
    if streamer_class is TextIteratorStreamer:
        assert "".join(streamer) == text
    else:
        assert capsys.readouterr().out.rstrip("\n").endswith(text[-12:])


def test_span_streamer_tells_what_is_committed(checkpoint):
    tiny, tokenizer = checkpoint
    ids, mask = tokenizer("one two three", return_tensors="pt")["input_ids"], tiny.config.mask_token_id
    streamer = CanvasSpanStreamer(tokenizer, timeout=30)
    arguments = {"max_new_tokens": 16, "block_size": 8, "early_stop": False, "return_dict_in_generate": True}
    output = tiny.generate(ids, streamer=streamer, preset="d3llm", output_history=True, **arguments)
    states = list(streamer)
    assert len(states) == output.forward_passes[0]
    for spans, canvas in zip(states, output.history[0], strict=True):
        flags = [span.committed for span in spans for _ in range(span.positions)]
        assert flags == (canvas[3:] != mask).tolist()
        committed = " ".join(span.text for span in spans if span.committed)
        assert committed.split() == tokenizer.decode(canvas[3:][canvas[3:] != mask]).split()
    assert [span.committed for span in states[-1]] == [True]


def test_a_committed_mask_token_is_not_a_draft(checkpoint):
    """A model may propose the mask token: what is committed is a fact of the canvas, not of the token."""
    tiny, tokenizer = checkpoint
    ids, mask = tokenizer("one two three", return_tensors="pt")["input_ids"], tiny.config.mask_token_id
    streamer = CanvasSpanStreamer(tokenizer, timeout=30)
    tokens = torch.tensor([5, mask, mask, 6])
    streamer.put(ids[0])
    streamer.put_draft(tokens, committed=torch.tensor([True, True, False, False]))
    streamer.end()
    assert [(span.positions, span.committed) for span in next(iter(streamer))] == [(2, True), (2, False)]


def test_text_generation_pipeline(checkpoint):
    tiny, tokenizer = checkpoint
    generate = pipeline("text-generation", model=tiny, tokenizer=tokenizer)
    prompt = "one two three"
    expected = tiny.generate(tokenizer(prompt, return_tensors="pt")["input_ids"], preset="d3llm", max_new_tokens=12)
    found = generate(prompt, preset="d3llm", max_new_tokens=12, do_sample=False, return_full_text=False)
    assert found[0]["generated_text"].split() == tokenizer.decode(expected[0, 3:], skip_special_tokens=True).split()
    chat = generate([{"role": "user", "content": prompt}], preset="llada", max_new_tokens=12, do_sample=False)
    assert chat[0]["generated_text"][-1]["role"] == "assistant"
    batch = generate([prompt, "four"], batch_size=2, preset="d3llm", max_new_tokens=12, do_sample=False)
    assert len(batch) == 2


def test_score_of_one_token_is_its_log_probability(model):
    ids = torch.stack(prompts([9, 9]))
    answer = torch.zeros_like(ids)
    answer[0, 8], answer[1, 4] = 1, 1
    found = model.score(ids, answer, num_samples=3)
    with torch.no_grad():
        noisy = ids.masked_fill(answer > 0, MASK)
        rows = model.logit_rows(torch.tensor([[8], [4]]))
        logprobs = model(noisy, logits_to_keep=rows).logits[:, 0].log_softmax(dim=-1)
    torch.testing.assert_close(found, logprobs.gather(1, ids[answer > 0][:, None])[:, 0], atol=1e-5, rtol=1e-5)


def test_score_is_the_mean_over_masks_of_every_size(model):
    ids = prompts([8])[0][None]
    answer = torch.zeros_like(ids)
    answer[0, 5:7] = 1
    rows = model.logit_rows(torch.tensor([[5, 6]]))

    def logprobs(masked):
        noisy = ids.clone()
        noisy[0, masked] = MASK
        with torch.no_grad():
            every = model(noisy, logits_to_keep=rows).logits[0].log_softmax(dim=-1)
        return sum(float(every[position - 5, ids[0, position]]) for position in masked)

    exact = 0.5 * logprobs([5, 6]) + 0.5 * 2 * 0.5 * (logprobs([5]) + logprobs([6]))
    found = float(model.score(ids, answer, num_samples=400))
    assert abs(found - exact) < 0.1 * abs(exact)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    shifted = torch.cat([torch.zeros(1, 3, dtype=torch.long), answer], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 8])
    few = model.score(ids, answer, num_samples=8, seed=1)
    assert model.score(ids, answer, num_samples=8, seed=1) == few
    torch.testing.assert_close(model.score(padded, shifted, mask, num_samples=8, seed=1), few, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="and an answer in every row"):
        model.score(ids, torch.zeros_like(ids))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["llada", "d3llm-block", "fast_dllm-dual"])
def test_compiled_forwards_keep_to_few_shapes_and_the_result(model, method):
    ids, mask = left_pad(prompts([4, 9, 13]))
    arguments = METHODS[method] | {"max_new_tokens": 96, "block_size": 32, "attention_mask": mask}
    shapes = set()

    def backend(graph, inputs):
        shapes.add(tuple(tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)))
        return graph.forward

    torch.compiler.reset()
    compiled = CompileConfig(backend=backend, mode=None, dynamic=False)
    found = model.generate(ids, compile_config=compiled, early_stop=False, **arguments)
    assert torch.equal(found, model.generate(ids, early_stop=False, **arguments))
    # rows finish one by one; window and candidates take at most 4 widths each
    assert 0 < len(shapes) <= 3 * 4 * 4
    torch.compiler.reset()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
def test_the_weights_of_the_head_may_be_packed(family, cfg_scale, monkeypatch):
    tiny = tiny_model(family)
    ids, mask = left_pad(prompts([4, 9, 13]))
    arguments = {"preset": "d3llm", "max_new_tokens": 20, "block_size": 20, "cfg_scale": cfg_scale}
    expected = tiny.generate(ids, attention_mask=mask, **arguments)
    head = pack_head(tiny)
    assert len(head.weight) != tiny.config.vocab_size
    monkeypatch.setitem(decoding_run.HEAD_ELEMENTS, "cpu", 8 * tiny.config.vocab_size)
    assert torch.equal(tiny.generate(ids, attention_mask=mask, **arguments), expected)
    assert max(head.rows) == 8  # as many as the logits of which fit
