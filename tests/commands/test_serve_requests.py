"""Requests of `d3llm serve` and the thread that decodes them, without a server."""

import asyncio

import pytest

from d3llm.commands.loading import load_model
from d3llm.commands.serve_requests import Limits, RequestError, read_request
from d3llm.commands.serve_worker import Worker
from d3llm.generation import DiffusionGenerationOutput
from d3llm.generation.scheduler import Scheduler


BODY = {"model": "tiny", "messages": [{"role": "user", "content": "one"}]}
LIMITS = Limits(new_tokens=100)


def read(**changes):
    return read_request({**BODY, **changes}, ["tiny", "path/tiny"], LIMITS)


def test_fields_of_openai_and_of_the_decoder():
    request = read(
        model="path/tiny", max_tokens=7, max_completion_tokens=9, temperature=0, seed=3, stop="end", stream=True
    )
    assert request.fields == {"max_new_tokens": 9, "temperature": 0.0, "seed": 3}
    assert request.stream and request.stop == ["end"] and not request.drafts and not request.with_usage
    request = read(preset="d3llm", threshold=0.3, cache="block", drafts=True, stream_options={"include_usage": True})
    assert request.fields == {"preset": "d3llm", "threshold": 0.3, "cache": "block"}
    assert request.drafts and request.with_usage and not request.stream
    assert read(temperature=None, user="someone", stop=None, n=1).fields == {}


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert read(messages=[{"role": "user", "content": parts}]).messages == [{"role": "user", "content": "one two"}]


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"model": "other"}, 404, "'other' is not served"),
        ({"model": None}, 400, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "one"}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text"),
        ({"messages": [{"content": "one"}]}, 400, "role"),
        ({"stop": ["ends", ""]}, 400, "stop"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": "7"}, 400, "max_tokens"),
        ({"max_tokens": 101}, 400, "at most 100"),
        ({"steps": 101}, 400, "at most 100"),
        ({"branches": 9}, 400, "at most 8"),
        ({"n": 2}, 400, "'n'"),
        ({"tools": []}, 400, "tools"),
        ({"num_return_sequences": 2}, 400, "num_return_sequences"),
        ({"stream": "yes"}, 400, "stream"),
        ({"seed": 2**70}, 400, "seed"),
        ({"seed": -1}, 400, r"\['seed'\] is -1: expected greater than or equal to 0"),
    ],
)
def test_refused(changes, status, words):
    with pytest.raises(RequestError, match=words) as caught:
        read(**changes)
    assert caught.value.status == status
    error = caught.value.body()["error"]
    assert error["message"] and error["type"].endswith("_error") and set(error) == {"message", "type", "param", "code"}


@pytest.fixture
def worker(tiny_checkpoint):
    model, tokenizer = load_model(tiny_checkpoint, device="cpu")
    running = Worker(Scheduler(model, tokenizer, rows=2), most=3)
    running.start()
    yield running
    running.stop()
    assert not running.is_alive()


def test_jobs_are_decoded_refused_and_left(worker):
    async def play():
        fields = {"max_new_tokens": 16, "block_size": 8}
        jobs = [worker.enter() for _ in range(3)]
        assert worker.enter() is None
        worker.submit(jobs[0], [4, 5], None, fields)
        worker.submit(jobs[1], [4, 5], None, {"preset": "nonsense"})
        worker.submit(jobs[2], [6], None, {**fields, "max_new_tokens": 100})
        worker.leave(jobs[2])
        assert isinstance(await jobs[0].events.get(), int)
        assert isinstance(await jobs[0].events.get(), DiffusionGenerationOutput)
        refused = await jobs[1].events.get()
        assert isinstance(refused, ValueError) and "nonsense" in str(refused)
        for job in jobs:
            worker.leave(job)
        assert not worker.open and worker.is_alive()
        last = worker.enter()
        worker.submit(last, [7, 8], None, fields)
        await last.events.get()
        assert isinstance(await last.events.get(), DiffusionGenerationOutput)
        assert not worker.scheduler.is_busy()

    asyncio.run(asyncio.wait_for(play(), 60))


def test_stop_fails_the_jobs_that_are_not_finished(worker):
    async def play():
        job = worker.enter()
        worker.submit(job, [4], None, {"preset": "llada", "max_new_tokens": 100, "block_size": 100, "steps": 100})
        await job.events.get()
        await asyncio.to_thread(worker.stop)
        assert isinstance(await job.events.get(), RequestError)

    asyncio.run(asyncio.wait_for(play(), 60))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failed_scheduler_fails_also_the_jobs_that_wait(worker):
    async def play():
        first, second = worker.enter(), worker.enter()
        worker.scheduler.step = lambda: 1 / 0
        worker.submit(first, [4], None, {"max_new_tokens": 16, "block_size": 8})
        await asyncio.to_thread(worker.thread.join)
        worker.submit(second, [4], None, {"max_new_tokens": 16, "block_size": 8})
        assert isinstance(await first.events.get(), int)
        assert isinstance(await first.events.get(), RequestError)
        assert isinstance(await second.events.get(), RequestError)

    asyncio.run(asyncio.wait_for(play(), 60))
