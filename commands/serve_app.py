"""The application of `d3llm serve`: that of transformers' server, with a handler that decodes in batches."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from http import HTTPStatus
from inspect import signature
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from transformers import PreTrainedTokenizerBase
from transformers.cli.serving.server import build_server
from transformers.generation.stopping_criteria import StopStringCriteria

from ..evaluation import encode_prompt
from .serve_answers import Answer, TextStreamer, error_of, error_response
from .serve_requests import Limits, RequestError, error_body, read_request
from .serve_worker import Worker


SERVED = ("/v1/chat/completions", "/v1/models", "/health")
LAST_SECONDS = 5  # for the forward that is being made at the end, and for the errors


class ChatHandler:
    """
    Answers chat completions. It has the method of transformers' `ChatCompletionHandler` that the application calls;
    that one decodes one request at a time, and has its own count of tokens and reason to finish.

    Args:
        worker ([`~d3llm.commands.serve_worker.Worker`]): What decodes.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        names (`list[str]`): Names of the model; answers have the first.
        limits ([`~d3llm.commands.serve_requests.Limits`]): Limits of the server.
    """

    def __init__(self, worker: Worker, tokenizer: PreTrainedTokenizerBase, names: list[str], limits: Limits):
        self.worker, self.tokenizer, self.names, self.limits = worker, tokenizer, names, limits

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Answer:
        """
        Has a request decoded.

        Args:
            body (`dict[str, Any]`): Its JSON object.
            request_id (`str`): The id of the request.

        Returns:
            [`~d3llm.commands.serve_answers.Answer`]: The response.

        Raises:
            [`~d3llm.commands.serve_requests.RequestError`]: For a request that is refused.
        """
        if not self.worker.is_alive():
            raise RequestError("The server shuts down or has failed.", 503)
        request = read_request(body, self.names, self.limits)
        job = self.worker.enter()
        if job is None:
            raise RequestError(f"{self.worker.most} requests are decoded or wait: try again later.", 429, "queue_full")
        try:
            prompt = await self._encode(request.messages)
            streamer = TextStreamer(job, self.tokenizer, request) if request.stream else None
            stop = await asyncio.to_thread(self._stop_fields, request.stop)
            self.worker.submit(job, prompt, streamer, {**request.fields, **stop})
            accepted = await job.events.get()
            if isinstance(accepted, Exception):
                raise error_of(accepted)
            facts = {"id": f"chatcmpl-{request_id}", "model": self.names[0]}
            return Answer(self.worker, job, request, self.tokenizer, len(prompt), self._eos(), facts)
        except BaseException:
            self.worker.leave(job)
            raise

    async def _encode(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            prompt = await asyncio.to_thread(encode_prompt, self.tokenizer, messages)
        except ValueError as error:
            raise RequestError(str(error)) from error
        most = self.limits.prompt_tokens
        if most is not None and len(prompt) > most:
            raise RequestError(
                f"The prompt has {len(prompt)} tokens: this server takes at most {most}.",
                code="context_length_exceeded",
            )
        return prompt

    def _stop_fields(self, stop: list[str]) -> dict[str, Any]:
        """The field of the decoder for stop strings. With a tokenizer that cannot spell any text it has none: the
        answer is cut at them."""
        try:
            StopStringCriteria(self.tokenizer, stop)
        except (ValueError, IndexError):
            return {}
        return {"stop_strings": stop} if stop else {}

    def _eos(self) -> list[int]:
        model = self.worker.scheduler.model
        return model.special_tokens(model.diffusion_config()).eos


class ServedModel:
    """The one model, as the application of transformers asks for it."""

    def __init__(self, worker: Worker, name: str):
        self.worker, self.name, self.created = worker, name, int(time.time())

    def list_models(self) -> list[dict[str, Any]]:
        """The list of models."""
        return [{"id": self.name, "object": "model", "created": self.created, "owned_by": "d3llm"}]

    get_gen_models = list_models  # its name before transformers 5.24

    def is_cb_alive(self) -> bool:
        """Whether /health says `ok`."""
        return self.worker.is_alive()

    def shutdown(self) -> None:
        """The server has ended."""
        self.worker.stop()


class BodyLimit:
    """Reads the whole body of a request before the application does: not more of it, and not longer, than allowed."""

    def __init__(self, app: Any, limits: Limits):
        self.app, self.limits = app, limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), self.limits.body_seconds)
        except (asyncio.TimeoutError, RequestError) as error:
            slow = RequestError(f"The body did not arrive within {self.limits.body_seconds:g} seconds.", 408)
            await error_response(error if isinstance(error, RequestError) else slow)(scope, receive, send)
            return
        if body is None:
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)

    async def _read(self, receive: Any) -> bytes | None:
        """The body; `None` if the client leaves."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.limits.body_bytes:
                raise RequestError(f"The request has over {self.limits.body_bytes} bytes.", 413)
            if not message.get("more_body"):
                return body


def build_app(worker: Worker, tokenizer: PreTrainedTokenizerBase, names: list[str], limits: Limits) -> FastAPI:
    """
    The application.

    Args:
        worker ([`~d3llm.commands.serve_worker.Worker`]): What decodes.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        names (`list[str]`): Names of the model, as requests may call it.
        limits ([`~d3llm.commands.serve_requests.Limits`]): Limits of the server.

    Returns:
        `FastAPI`: The application; when it ends, so does the worker.
    """
    model, handler = ServedModel(worker, names[0]), ChatHandler(worker, tokenizer, names, limits)
    # those of the other routes, which are removed; their number grows with the releases
    handlers: dict[str, Any] = {n: None for n in signature(build_server).parameters if n.endswith("_handler")}
    app = build_server(model_manager=model, generation_state=model, **{**handlers, "chat_handler": handler})
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in SERVED]
    app.add_middleware(BodyLimit, limits=limits)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    return app


class Server(uvicorn.Server):
    """
    A server that gives open answers some time when it is asked to stop. Those that are not finished then get an error,
    where uvicorn would drop them.

    Args:
        app (`FastAPI`): The application.
        worker ([`~d3llm.commands.serve_worker.Worker`]): What decodes.
        seconds (`float`): Seconds for open answers.
        log_level (`str`, *optional*, defaults to `"warning"`): Level of uvicorn's log.
    """

    def __init__(self, app: FastAPI, worker: Worker, seconds: float, log_level: str = "warning"):
        patience = math.ceil(seconds) + LAST_SECONDS
        super().__init__(
            uvicorn.Config(app, log_level=log_level, access_log=False, timeout_graceful_shutdown=patience)
        )
        self.worker, self.seconds = worker, seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections, and ends when all answers have."""
        timer = asyncio.get_running_loop().call_later(self.seconds, self.worker.end)
        await super().shutdown(sockets)
        timer.cancel()


async def _refused(request: Request, error: Any) -> JSONResponse:
    return error_response(error)


async def _malformed(request: Request, error: Any) -> JSONResponse:
    return error_response(RequestError("The body is not a JSON object: send one, as application/json."))


async def _http(request: Request, error: Any) -> JSONResponse:
    if error.status_code == HTTPStatus.BAD_REQUEST:  # fastapi cannot read the body: bytes, depth or digits
        return await _malformed(request, error)
    what = error.detail or HTTPStatus(error.status_code).phrase
    message = f"{request.method} {request.url.path}: {what}. Served are {', '.join(SERVED)}."
    return JSONResponse(error_body(message, error.status_code), error.status_code)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return error_response(RuntimeError(error))
