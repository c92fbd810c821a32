"""`d3llm serve`, asked by the `openai` client on loopback."""

import http.client
import json
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from d3llm.commands.loading import load_model
from d3llm.commands.main import main
from d3llm.commands.serve import listen
from d3llm.evaluation import encode_prompt
from tests.helpers.models import WORDS
from tests.helpers.serving import serving, wait_until


for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package)
openai = pytest.importorskip("openai")
SHORT = {"max_tokens": 24, "extra_body": {"block_size": 8, "threshold": 1.0}}


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return load_model(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def server(tiny):
    with serving(*tiny, requests=64, prompt_tokens=60, new_tokens=100, body_bytes=20_000, body_seconds=1) as running:
        yield running


def chat(text):
    return [{"role": "user", "content": text}]


def ask(server, text, **options):
    return server.client.chat.completions.create(model="tiny", messages=chat(text), **{**SHORT, **options})


def expected(tiny, text, **fields):
    """The text of `generate()` alone, its tokens and forwards."""
    model, tokenizer = tiny
    prompt = encode_prompt(tokenizer, chat(text))
    fields = {"max_new_tokens": 24, "block_size": 8, "threshold": 1.0, **fields}
    output = model.generate(torch.tensor([prompt]), return_dict_in_generate=True, tokenizer=tokenizer, **fields)
    tokens = int(output.tokens[0])
    generated = output.sequences[0, len(prompt) :][:tokens]
    text = tokenizer.decode(generated, skip_special_tokens=True)
    return text, len(prompt), tokens, int(output.forward_passes[0]), 0 in generated.tolist()


def post(server, body, path="/v1/chat/completions"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_answer_is_that_of_generate(server, tiny):
    answer = ask(server, "one plus two")
    text, prompt, tokens, forwards, ended = expected(tiny, "one plus two")
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == ("stop" if ended else "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, tokens)
    assert answer.usage.total_tokens == prompt + tokens
    assert answer.usage.forwards == forwards
    assert answer.usage.tokens_per_forward == pytest.approx(tokens / forwards)
    assert answer.model == "tiny"


def test_an_eos_is_a_stop_and_the_tail_does_not_count(server, tiny):
    model, _ = tiny
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        kept = weight.clone()
        weight[0] = weight.mean(dim=0) * 0 + 1.0  # EOS is proposed at about half of the positions
    try:
        answers = [(ask(server, text), expected(tiny, text)) for text in WORDS[:6]]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    ended = [answer for answer, (*_, at_eos) in answers if at_eos]
    assert ended
    assert all(answer.choices[0].finish_reason == "stop" for answer in ended)
    assert any(answer.usage.completion_tokens < 24 for answer in ended)
    for answer, (text, _, tokens, *_) in answers:
        assert answer.choices[0].message.content == text and answer.usage.completion_tokens == tokens


def test_fields_of_the_decoder_are_those_of_the_request(server, tiny):
    body = {"preset": "llada", "steps": 12, "block_size": 24}
    answer = ask(server, "three plus", extra_body=body)
    text, _, _, forwards, _ = expected(tiny, "three plus", threshold=None, **body)
    assert (answer.choices[0].message.content, answer.usage.forwards) == (text, forwards)
    sampled = [ask(server, "three plus", temperature=1.0, seed=seed).choices[0].message.content for seed in (1, 2, 1)]
    assert sampled[0] == sampled[2] == expected(tiny, "three plus", temperature=1.0, seed=1)[0]
    assert sampled[1] == expected(tiny, "three plus", temperature=1.0, seed=2)[0]


def test_content_in_parts_is_one_text(server):
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "plus two"}]
    messages = [{"role": "user", "content": parts}]
    answer = server.client.chat.completions.create(model="tiny", messages=messages, **SHORT)
    assert answer.choices[0].message.content == ask(server, "one plus two").choices[0].message.content


def test_stream_is_the_text_in_parts_with_usage(server, tiny):
    chunks = list(ask(server, "four plus", stream=True, stream_options={"include_usage": True}, max_tokens=40))
    text, _, tokens, forwards, ended = expected(tiny, "four plus", max_new_tokens=40)
    parts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(parts) == text and len(parts) > 1
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == ("stop" if ended else "length") and set(reasons[:-1]) == {None}
    assert chunks[-1].usage.completion_tokens == tokens and chunks[-1].usage.forwards == forwards
    assert not any(getattr(chunk.choices[0].delta, "draft", None) for chunk in chunks if chunk.choices)


def test_stream_with_drafts_shows_what_may_change(server):
    chunks = list(ask(server, "five plus", stream=True, extra_body={**SHORT["extra_body"], "drafts": True}))
    drafts = [chunk.choices[0].delta.draft for chunk in chunks if getattr(chunk.choices[0].delta, "draft", None)]
    assert drafts and any("·" in draft for draft in drafts)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_a_thousandth_of_a_load_is_not_mixed_up(server, tiny):
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 12))) for _ in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: ask(server, text).choices[0].message.content, texts))
    assert answers == [expected(tiny, text)[0] for text in texts]


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_is_dropped(server, stream):
    body = {"model": "tiny", "messages": chat("six"), "max_tokens": 100, "stream": stream, "preset": "llada"}
    text = json.dumps({**body, "steps": 100, "block_size": 100}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port))
    turns = server.worker.scheduler.step

    def slow_step():
        threading.Event().wait(0.05)
        return turns()

    server.worker.scheduler.step = slow_step
    try:
        connection.sendall(head + f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
        wait_until(lambda: server.worker.scheduler.running())
        connection.close()
        wait_until(lambda: not server.worker.scheduler.is_busy(), seconds=4)  # 100 forwards take 5
        assert not server.worker.open
    finally:
        server.worker.scheduler.step = turns


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "other"}, openai.NotFoundError, "not served"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user"}]}, openai.BadRequestError, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, openai.BadRequestError, "text"),
        ({"messages": chat("one " * 80)}, openai.BadRequestError, "at most 60"),
        ({"max_tokens": 101}, openai.BadRequestError, "at most 100"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"n": 2}, openai.BadRequestError, "'n'"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"tools": []}, openai.BadRequestError, "tools"),
        ({"extra_body": {"preset": "nonsense"}}, openai.BadRequestError, "nonsense"),
        ({"extra_body": {"threshold": "high"}}, openai.BadRequestError, "threshold"),
        ({"extra_body": {"draft_states": 1000}}, openai.BadRequestError, "at most 8"),
        ({"extra_body": {"num_return_sequences": 2}}, openai.BadRequestError, "num_return_sequences"),
        ({"messages": chat("x" * 30_000)}, openai.APIStatusError, "bytes"),
    ],
)
def test_bad_requests_have_their_status_and_the_server_goes_on(server, options, error, words):
    with pytest.raises(error) as caught:
        server.client.chat.completions.create(**{"model": "tiny", "messages": chat("one"), **SHORT, **options})
    assert caught.value.body["type"].endswith("_error")
    assert words in caught.value.body["message"] and "\n" not in caught.value.body["message"]
    assert ask(server, "one").choices[0].finish_reason in ("stop", "length")
    assert not server.worker.open


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '{"model": "tiny"}', '{"messages": 3, "model": "tiny"}', "\xff", "[" * 9000]
)
def test_malformed_bodies_are_400(server, body):
    status, answer = post(server, body.encode("latin-1"))
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"
    assert "Served are" not in answer["error"]["message"]  # which is about paths


def test_unknown_paths_are_404_and_only_ours_are_served(server):
    for path in ("/v1/nonsense", "/reset", "/load_model", "/v1/responses"):
        status, answer = post(server, "{}", path)
        assert status == 404 and path in answer["error"]["message"]
    assert [model.id for model in server.client.models.list()] == ["tiny"]


def test_slow_body_is_408(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        connection.settimeout(10)
        assert b"408" in connection.recv(100)


def test_full_queue_is_429(tiny):
    with serving(*tiny, requests=2) as small:
        step, gate = small.worker.scheduler.step, threading.Event()
        small.worker.scheduler.step = lambda: (gate.wait(20), step())[1]
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask, small, "one") for _ in range(2)]
            wait_until(lambda: len(small.worker.open) == 2)
            with pytest.raises(openai.RateLimitError):
                ask(small, "two")
            gate.set()
            assert all(answer.result().choices for answer in asked)
        assert ask(small, "two").choices


def test_failed_forward_is_500_and_the_server_goes_on(server, tiny):
    weight = tiny[0].get_output_embeddings().weight
    kept = weight.detach().clone()
    weight.data.fill_(float("nan"))
    with pytest.raises(openai.InternalServerError):
        ask(server, "seven")
    with pytest.raises(openai.APIError):
        list(ask(server, "seven", stream=True))
    weight.data.copy_(kept)
    assert ask(server, "seven").choices


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_a_shutdown_does_not_wait_for_are_503(tiny, stream):
    options = {"max_tokens": 100, "extra_body": {"preset": "llada", "steps": 100, "block_size": 100}, "stream": stream}
    with serving(*tiny, shutdown_seconds=0.2) as small, ThreadPoolExecutor(1) as pool:
        step = small.worker.scheduler.step
        small.worker.scheduler.step = lambda: (threading.Event().wait(0.1), step())[1]  # 100 forwards take 10 s
        asked = pool.submit(lambda: list(ask(small, "one", **options)))
        wait_until(lambda: small.worker.scheduler.running())
        small.server.should_exit = True
        with pytest.raises(openai.APIError, match="shuts down"):
            asked.result(timeout=20)


def test_stop_string_ends_the_text_and_is_not_in_it(server, tiny):
    text = expected(tiny, "eight plus")[0]
    ending = text.split()[len(text.split()) // 2]
    parts = list(ask(server, "eight plus", stop=ending, stream=True))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in parts)
    assert ending not in streamed and text.startswith(streamed) and streamed
    assert parts[-1].choices[0].finish_reason == "stop"


def test_port_in_use_and_missing_model_are_one_line(capsys, tmp_path):
    with listen("127.0.0.1", 0) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
    assert main(["serve", "--port", "0", "--model", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
    assert main(["serve", "--host", ""]) == 2  # of a variable that is not set: it would be every address
    assert "--host is empty" in capsys.readouterr().err
    assert main(["serve", "--queue", "0"]) == 2
    assert "--queue" in capsys.readouterr().err
