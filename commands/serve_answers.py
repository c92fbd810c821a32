"""The answers of `d3llm serve`, whole or streamed, in OpenAI's form."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from starlette.responses import JSONResponse, Response, StreamingResponse
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..generation import CanvasStreamer, DiffusionGenerationOutput
from .serve_requests import ReadRequest, RequestError
from .serve_worker import Job, Worker


logger = logging.get_logger(__name__)
CLIENT_LEFT = 499  # by custom
UNFINISHED = "\ufffd"  # what a tokenizer makes of the first bytes of a character


@dataclass(frozen=True)
class Draft:
    """The text after the final one that may still change, a dot for each masked position."""

    text: str


class TextStreamer(CanvasStreamer):
    """
    Tells a job the text of final blocks, and drafts on request.

    Args:
        job ([`~d3llm.commands.serve_worker.Job`]): The job.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        request ([`~d3llm.commands.serve_requests.ReadRequest`]): Its request.
    """

    def __init__(self, job: Job, tokenizer: PreTrainedTokenizerBase, request: ReadRequest):
        super().__init__()
        self.job, self.tokenizer, self.request = job, tokenizer, request
        self.sent = 0  # characters

    def put(self, value: torch.LongTensor) -> None:
        super().put(value)
        text = final_text(self.tokenizer, self.final or [], self.request.stop)
        self._send(held_back(text, self.request.stop))

    def show(self, tokens: list[int], committed: list[bool]) -> None:
        if not self.request.drafts or all(committed):
            return
        start, spans = len(self.final or []), []
        for is_committed, run in groupby(zip(tokens[start:], committed[start:], strict=True), lambda pair: pair[1]):
            ids = [token for token, _ in run]
            text = self.tokenizer.decode(ids, skip_special_tokens=True) if is_committed else "·" * len(ids)
            spans.append(text)
        self.job.tell(Draft("".join(spans)))

    def end(self) -> None:
        """Nothing: the output of the job has the whole text."""

    def _send(self, text: str) -> None:
        if len(text) > self.sent:
            self.job.tell(text[self.sent :])
            self.sent = len(text)


def final_text(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stop: list[str]) -> str:
    """The text of tokens, up to the first stop string."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    ends = [text.index(ending) for ending in stop if ending in text]
    return text[: min(ends)] if ends else text


def held_back(text: str, stop: list[str]) -> str:
    """The part of a text that is certain: without half a character or the beginning of a stop string at its end."""
    text = text.rstrip(UNFINISHED)
    longest = max((n for ending in stop for n in range(1, len(ending)) if text.endswith(ending[:n])), default=0)
    return text[: len(text) - longest]


class Answer(Response):
    """
    The response to a request that is being decoded. A client that leaves cancels it.

    Args:
        worker ([`~d3llm.commands.serve_worker.Worker`]), job ([`~d3llm.commands.serve_worker.Job`]): What decodes.
        request ([`~d3llm.commands.serve_requests.ReadRequest`]): The request.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        prompt_tokens (`int`): Number of tokens of the prompt.
        eos (`list[int]`): The tokens that end an answer.
        facts (`dict[str, Any]`): `id` and `model` of the answer.
    """

    def __init__(
        self,
        worker: Worker,
        job: Job,
        request: ReadRequest,
        tokenizer: PreTrainedTokenizerBase,
        prompt_tokens: int,
        eos: list[int],
        facts: dict[str, Any],
    ):
        super().__init__()
        self.worker, self.job, self.request, self.tokenizer = worker, job, request, tokenizer
        self.prompt_tokens, self.eos = prompt_tokens, eos
        self.facts = {**facts, "created": int(time.time())}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            if self.request.stream:
                response: Response = StreamingResponse(self._stream(), media_type="text/event-stream")
                await response(scope, receive, send)
                return
            whole, gone = asyncio.ensure_future(self._whole()), asyncio.ensure_future(until_gone(receive))
            await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if whole.done():
                await whole.result()(scope, receive, send)
            else:
                whole.cancel()
                await Response(status_code=CLIENT_LEFT)(scope, receive, send)  # nobody reads it
        finally:
            self.worker.leave(self.job)

    async def _whole(self) -> Response:
        event = None
        while not isinstance(event, (DiffusionGenerationOutput, Exception)):
            event = await self.job.events.get()
        if isinstance(event, Exception):
            return error_response(event)
        text, reason, usage = self._read(event)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return JSONResponse({**self.facts, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _stream(self) -> AsyncIterator[str]:
        yield self._chunk({"role": "assistant", "content": ""})
        sent = 0
        while True:
            event = await self.job.events.get()
            if isinstance(event, Draft):
                yield self._chunk({"draft": event.text})
            elif isinstance(event, str):
                sent += len(event)
                yield self._chunk({"content": event})
            elif isinstance(event, Exception):
                yield as_event(error_of(event).body())
                break
            else:
                text, reason, usage = self._read(event)
                if text[sent:]:
                    yield self._chunk({"content": text[sent:]})
                yield self._chunk({}, reason)
                if self.request.with_usage:
                    yield as_event({**self.facts, "object": "chat.completion.chunk", "choices": [], "usage": usage})
                break
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return as_event({**self.facts, "object": "chat.completion.chunk", "choices": [choice]})

    def _read(self, output: Any) -> tuple[str, str, dict[str, Any]]:
        """The text of a `DiffusionGenerationOutput`, why it ends, and what it took."""
        tokens = int(output.tokens[0])
        generated = output.sequences[0, self.prompt_tokens :].tolist()[:tokens]
        whole = self.tokenizer.decode(generated, skip_special_tokens=True)
        text = final_text(self.tokenizer, generated, self.request.stop)
        ended = text != whole or any(token in self.eos for token in generated)
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "forwards": int(output.forward_passes[0]),
            "tokens_per_forward": float(output.tokens_per_forward[0]),
        }
        return text, "stop" if ended else "length", usage


def as_event(value: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def error_of(error: Exception) -> RequestError:
    """What a client hears of an error: a `ValueError` is about its request. Of others only the log has the text."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ValueError):
        return RequestError(" ".join(str(error).split()))
    logger.error("A request failed: %s: %s", type(error).__name__, error)
    return RequestError("The server failed to decode this request.", 500)


def error_response(error: Exception) -> JSONResponse:
    """An error in OpenAI's form."""
    refusal = error_of(error)
    headers = {"Retry-After": "1"} if refusal.status in (429, 503) else None
    return JSONResponse(refusal.body(), refusal.status, headers)


async def until_gone(receive: Any) -> None:
    """Waits until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
