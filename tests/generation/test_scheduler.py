"""Requests that arrive and are cancelled at any time have the output of `generate()` alone."""

import random

import pytest
import torch

from d3llm.generation.open_run import may_join
from d3llm.generation.scheduler import Scheduler
from tests.helpers.decoding import METHODS, RecordingStreamer, families_in_turn, prompts


LENGTHS = [3, 17, 9, 30, 1, 12, 24, 8]
ALONE = {"guided", "guided-cached", "published-edge", "drafts", "credits", "edits", "soft", "history"}
FIELDS = {
    **METHODS,
    "d3llm-opened": {"preset": "d3llm", "threshold": 1.0, "cache": "opened", "cache_refresh_interval": 3},
    "vicinity": {"preset": "d3llm", "threshold": 1.0, "cache": "vicinity", "cache_margin": 4, "cache_delay": 2},
    "sampled": {"preset": "d3llm", "threshold": 2.0, "temperature": 1.0, "cache": "block"},
    "random": {"preset": "llada", "steps": 12, "score": "random"},
    "new-eos": {"preset": "d3llm", "threshold": 1.5, "early_stop_rule": "new_eos"},
    "drafts": {"preset": "d3llm", "threshold": 1.0, "draft_states": 4},
    "credits": {"preset": "fast_dllm", "threshold": 0.5, "cache": "none", "credit_weight": 0.5},
    "edits": {"preset": "fast_dllm", "threshold": 0.5, "cache": "none", "edit_threshold": 0.4},
    "soft": {"preset": "fast_dllm", "threshold": 0.5, "cache": "none", "soft_inputs": True},
    "history": {"preset": "d3llm", "threshold": 1.0, "output_history": True},
}


def assert_same(output, alone):
    for name in ("sequences", "commit_steps", "forward_passes", "row_forwards"):
        assert torch.equal(getattr(output, name), getattr(alone, name)), name
    assert torch.equal(output.tokens_per_forward, alone.tokens_per_forward)


def run_with_arrivals(scheduler, requests, seed=5, cancelled=()):
    """Adds requests (prompt, fields) at random moments, and returns the outputs by the index of the request."""
    chance, waiting, index_of, outputs = random.Random(seed), list(enumerate(requests)), {}, {}
    cancelled = set(cancelled)
    while waiting or scheduler.is_busy():
        while waiting and chance.random() < 0.3:
            index, (prompt, fields) = waiting.pop(0)
            index_of[scheduler.add(prompt.tolist(), **fields)] = index
        for number, index in index_of.items():
            if index in cancelled and chance.random() < 0.2:
                cancelled.remove(index)
                scheduler.cancel(number)
        outputs |= {index_of[number]: output for number, output in scheduler.step().items()}
    return outputs


@pytest.mark.parametrize(("model", "method"), families_in_turn(FIELDS), indirect=["model"])
def test_output_is_that_of_generate_alone(model, method):
    fields = {"max_new_tokens": 12, "block_size": 8, **FIELDS[method]}
    requests = [(prompt, {**fields, "seed": seed}) for seed, prompt in enumerate(prompts(LENGTHS[:5]))]
    outputs = run_with_arrivals(Scheduler(model, rows=3), requests)
    assert outputs.keys() == set(range(len(requests)))
    for index, (prompt, fields) in enumerate(requests):
        assert_same(outputs[index], model.generate(prompt[None], return_dict_in_generate=True, **fields))


@pytest.mark.parametrize("method", FIELDS)
def test_which_rows_may_join(model, method):
    config = model.diffusion_config(None, {"max_new_tokens": 40, "block_size": 8, **FIELDS[method]})
    alone = method in ALONE
    assert may_join(model, config) != alone


def test_rows_that_join_share_forwards(model):
    calls = []
    model.register_forward_pre_hook(lambda *args: calls.append(1))
    scheduler, fields = Scheduler(model, rows=8), {"preset": "llada", "steps": 8, "max_new_tokens": 32}
    first = scheduler.add(prompts([9])[0].tolist(), **fields)
    for _ in range(3):
        assert not scheduler.step()
    second = scheduler.add(prompts([20])[0].tolist(), **fields)
    order = []
    while scheduler.is_busy():
        order += scheduler.step()
    assert order == [first, second]
    assert len(calls) == 8 + 3


def test_cancelled_rows_leave_and_the_others_stay_right(model):
    fields = {"preset": "d3llm", "threshold": 0.5, "cache": "block", "max_new_tokens": 32, "block_size": 8}
    requests = [(prompt, fields) for prompt in prompts(LENGTHS)]
    outputs = run_with_arrivals(Scheduler(model, rows=4), requests, seed=1, cancelled={1, 3, 6})
    assert outputs.keys() >= {0, 2, 4, 5, 7} and len(outputs) < len(requests)
    for index, output in outputs.items():
        assert_same(output, model.generate(requests[index][0][None], return_dict_in_generate=True, **fields))


def test_cancelled_row_costs_nothing_more(model):
    rows = []
    model.register_forward_pre_hook(lambda *args: rows.append(len(args[2]["input_ids"])), with_kwargs=True)
    scheduler, fields = Scheduler(model), {"preset": "llada", "steps": 6, "max_new_tokens": 24}
    numbers = [scheduler.add(prompt.tolist(), **fields) for prompt in prompts([4, 11, 7])]
    scheduler.step()
    scheduler.cancel(numbers[1])
    scheduler.cancel(numbers[1])
    scheduler.cancel(99)
    assert scheduler.running() == 2
    scheduler.step()
    assert rows == [3, 2]
    scheduler.cancel(numbers[0])
    scheduler.cancel(numbers[2])
    assert not scheduler.is_busy()


def test_settings_make_batches_and_take_turns(model):
    requests = [
        (prompt, {"max_new_tokens": length, "preset": preset, "block_size": 8, **more})
        for prompt, length, preset, more in zip(
            prompts(LENGTHS),
            [12, 20] * 4,
            ["d3llm", "llada", "d3llm", "d3llm"] * 2,
            [{}, {"steps": 20}, {"threshold": 0.9}, {"draft_states": 3}] * 2,
            strict=True,
        )
    ]
    outputs = run_with_arrivals(Scheduler(model, rows=5), requests)
    for index, (prompt, fields) in enumerate(requests):
        assert_same(outputs[index], model.generate(prompt[None], return_dict_in_generate=True, **fields))


def test_streamers_see_what_generate_shows(model):
    fields = {"preset": "d3llm", "threshold": 1.0, "cache": "block", "max_new_tokens": 32, "block_size": 8}
    scheduler, heard = Scheduler(model), {}
    for prompt in prompts([5, 22, 13]):
        scheduler.step()
        streamer = RecordingStreamer()
        heard[scheduler.add(prompt.tolist(), streamer=streamer, **fields)] = prompt, streamer
    while scheduler.is_busy():
        scheduler.step()
    for prompt, streamer in heard.values():
        alone = RecordingStreamer()
        model.generate(prompt[None], streamer=alone, **fields)
        assert streamer.events == alone.events


def test_failed_batch_is_reported_and_the_next_works(model):
    scheduler, fields = Scheduler(model), {"preset": "d3llm", "max_new_tokens": 16}
    numbers = [scheduler.add([5, 6], **fields), scheduler.add([7], **fields)]
    weight = model.get_output_embeddings().weight
    kept = weight.detach().clone()
    weight.data.fill_(float("nan"))
    failed = scheduler.step()
    weight.data.copy_(kept)
    assert failed.keys() == set(numbers) and all("not numbers" in str(error) for error in failed.values())
    number = scheduler.add([5, 6], **fields)
    outputs = {}
    while scheduler.is_busy():
        outputs |= scheduler.step()
    assert_same(outputs[number], model.generate(torch.tensor([[5, 6]]), return_dict_in_generate=True, **fields))


def test_bad_requests_are_refused_at_once(model):
    scheduler = Scheduler(model)
    for prompt, fields, fault in (
        ([], {}, "empty"),
        ([1], {"preset": "nonsense"}, "nonsense"),
        ([1] * 300, {}, "positions"),
        ([1], {"num_return_sequences": 2}, "num_return_sequences"),
    ):
        with pytest.raises(ValueError, match=fault):
            scheduler.add(prompt, **{"max_new_tokens": 16, **fields})
    assert not scheduler.is_busy()
