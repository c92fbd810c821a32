"""What `d3llm serve` takes: the fields of a chat request, their ranges and limits, and errors in OpenAI's form."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import Required, TypedDict

from ..common.schema import check
from .fields import config_fields


# Fields of the decoder that a request does not set: what it returns has one text, and no room for more.
NOT_SERVED = ("num_return_sequences", "compile_config", "max_new_tokens", "max_time", "stop_strings", "seed")
MOST_STATES = 8  # of `draft_states` and `branches`: each is a row


class StreamOptions(TypedDict, total=False):
    """`stream_options` of a request."""

    include_usage: bool
    include_obfuscation: bool


class ChatRequest(TypedDict, total=False):
    """The fields of OpenAI's chat completions that have a meaning here, and `drafts`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    model: Required[str]
    messages: Required[Annotated[list[dict[str, Any]], Field(min_length=1)]]
    stream: bool | None
    stream_options: StreamOptions | None
    drafts: bool | None
    max_tokens: Annotated[int, Field(ge=1)] | None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None
    temperature: Annotated[float, Field(ge=0, le=2)] | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None
    stop: str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)] | None
    n: Literal[1] | None
    user: str | None  # this and the following have no effect
    metadata: dict[str, Any] | None
    store: bool | None


class RequestError(Exception):
    """
    A request that is refused.

    Args:
        message (`str`): What is wrong.
        status (`int`, *optional*, defaults to 400): The HTTP status.
        code (`str`, *optional*): OpenAI's code of the fault.
    """

    def __init__(self, message: str, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        return error_body(str(self), self.status, self.code)


def error_body(message: str, status: int, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form, of the type that belongs to its HTTP status."""
    kinds = {429: "rate_limit_error", 404: "not_found_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@dataclass(frozen=True)
class Limits:
    """
    What the server takes.

    Attributes:
        prompt_tokens (`int`, *optional*): Most tokens of a prompt; by default what the model's positions allow.
        new_tokens (`int`): Most tokens of an answer.
        requests (`int`): Most requests that are decoded or wait.
        body_bytes (`int`): Most bytes of a request.
        body_seconds (`float`): Seconds within which the body of a request has to arrive.
    """

    prompt_tokens: int | None = None
    new_tokens: int = 1024
    requests: int = 256
    body_bytes: int = 2**20
    body_seconds: float = 30


@dataclass(frozen=True)
class ReadRequest:
    """
    A request that has the right form.

    Attributes:
        messages (`list[dict[str, str]]`): The chat, as texts.
        fields (`dict[str, Any]`): The given fields of `DiffusionGenerationConfig`.
        stop (`list[str]`): The stop strings.
        stream, drafts, with_usage (`bool`): Whether to stream, drafts too, and the usage at its end.
    """

    messages: list[dict[str, str]]
    fields: dict[str, Any]
    stop: list[str] = field(default_factory=list)
    stream: bool = False
    drafts: bool = False
    with_usage: bool = False


def read_request(body: dict[str, Any], names: Sequence[str], limits: Limits) -> ReadRequest:
    """
    Reads the body of a request.

    Args:
        body (`dict[str, Any]`): The JSON object.
        names (`Sequence[str]`): Names of the model.
        limits ([`Limits`]): Limits of the server.

    Returns:
        [`ReadRequest`]: The request.

    Raises:
        [`RequestError`]: For a body of another form, another model, and values over the limits.
    """
    served = config_fields().keys() - set(NOT_SERVED) | {"preset"}
    fields = {name: body[name] for name in served & body.keys() if name not in ChatRequest.__annotations__}
    try:
        rest = {name: value for name, value in body.items() if name not in fields}
        request = check(ChatRequest, rest, "The request")
        messages = [_as_text(message) for message in request["messages"]]
    except ValueError as error:
        raise RequestError(str(error)) from error
    if request["model"] not in names:
        asked = request["model"][:80]
        raise RequestError(f"The model {asked!r} is not served here: use {names[0]!r}.", 404, "model_not_found")
    for name, source in (
        ("max_new_tokens", "max_tokens"),
        ("max_new_tokens", "max_completion_tokens"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("seed", "seed"),
    ):
        if request.get(source) is not None:
            fields[name] = request[source]
    stop = request.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    most = {"max_new_tokens": limits.new_tokens, "steps": limits.new_tokens}
    for name, limit in (most | dict.fromkeys(("draft_states", "branches"), MOST_STATES)).items():
        if isinstance(fields.get(name), int) and fields[name] > limit:
            raise RequestError(f"`{name}` is {fields[name]}: this server takes at most {limit}.")
    return ReadRequest(
        messages,
        fields,
        stop,
        stream=bool(request.get("stream")),
        drafts=bool(request.get("drafts")),
        with_usage=bool((request.get("stream_options") or {}).get("include_usage")),
    )


def _as_text(message: dict[str, Any]) -> dict[str, str]:
    """A message whose content is one text, from one or from parts that are texts."""
    role, content = message.get("role"), message.get("content")
    parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
    is_text = isinstance(parts, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    )
    if not isinstance(role, str) or not is_text:
        raise ValueError("Every message needs a `role` and a `content` of text: this model reads nothing else.")
    return {"role": role, "content": "".join(part["text"] for part in parts)}
