"""Reads prompts from a file, and encodes them as token ids."""

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from typing_extensions import TypedDict

from ..common.schema import check


Messages = Sequence[Mapping[str, str]]
TEMPLATE_SECONDS = 10  # for one prompt; templates take milliseconds


class Message(TypedDict):
    """The required fields of a chat message."""

    role: str
    content: str


@dataclass(frozen=True)
class PromptLine:
    """
    One line of a file of prompts.

    Attributes:
        id (`str` or `int`): The prompt's id in the file; by default the number of its line.
        line (`int`): Number of the line, counted from 1.
        prompt (`str` or `list[dict[str, str]]`): A text, or the messages of a chat.
    """

    id: str | int
    line: int
    prompt: str | Messages


def read_prompts(path: Path) -> tuple[list[PromptLine], list[str]]:
    """
    Reads a file of JSON lines with `prompt` (a text) or `messages` (a chat) and, optionally, `id` (a unique text or
    whole number). Other keys and blank lines are ignored.

    Args:
        path (`Path`): The file, in UTF-8.

    Returns:
        `tuple[list[PromptLine], list[str]]`: The prompts in the order of the file, at least one; and for each line
        that is not a prompt, its number and its fault.

    Raises:
        `ValueError`: For a file without any prompt.
        `OSError`: For a file that cannot be read.
    """
    lines: list[PromptLine] = []
    faults: list[str] = []
    line_of: dict[str | int, int] = {}
    for number, content in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not content.strip():
            continue
        try:
            line = _parse(content, number)
            if line.id in line_of:
                used = f"the id {line.id!r} is already used by line {line_of[line.id]}"
                raise ValueError(f"{used}; without `id`, a line has its number")
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: {_reason(error)}")
            continue
        line_of[line.id] = number
        lines.append(line)
    if not lines:
        found = f" ({faults[0]})" if faults else ""
        raise ValueError(
            f"{path} holds no prompts{found}: give one JSON object per line, with `prompt` or `messages`."
        )
    return lines, faults


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Messages, *, chat: bool | None = None
) -> list[int]:
    """
    Token ids of a prompt, either as the user's turn of a chat or as plain text.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        prompt (`str` or `list[dict[str, str]]`): A text that is not empty, or the messages of a chat.
        chat (`bool`, *optional*): Whether to use the chat template; by default if the tokenizer has one. Messages
            always use it.

    Returns:
        `list[int]`: The ids, without padding.

    Raises:
        `ValueError`: If the prompt is neither a text nor messages, is empty, or holds half of a surrogate pair, and if
            the chat template is missing, excluded by `chat=False`, or fails.
    """
    kind = str if isinstance(prompt, str) else Sequence[Message]
    check(kind, prompt, "The prompt", "give a text, or the messages of a chat")
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise ValueError("The prompt is empty: give at least one word.")
    for text in [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]:
        check_text(text, "The prompt")
    if isinstance(prompt, str) and (chat is False or (chat is None and tokenizer.chat_template is None)):
        return tokenizer(prompt)["input_ids"]
    if chat is False:
        raise ValueError("Messages need the chat template: omit `chat=False` (on the command line `--no-chat`).")
    if tokenizer.chat_template is None:
        remedy = "use `chat=False` (on the command line `--no-chat`)" if isinstance(prompt, str) else "give plain text"
        raise ValueError(f"The tokenizer has no chat template: {remedy}.")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    try:
        with time_limit(TEMPLATE_SECONDS):
            return tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
    except Exception as error:  # a template can raise anything
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"The tokenizer's chat template cannot be used: {what}") from error


def check_text(text: str, name: str) -> None:
    """
    Raises a `ValueError` for half of a surrogate pair, such as Python makes of arguments that are not UTF-8: no
    tokenizer takes it.

    Args:
        text (`str`): The text.
        name (`str`): What to call it in the error.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{name} holds half of a surrogate pair, which is not text: give it as UTF-8.")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """
    Raises a `TimeoutError` after some seconds. This needs a signal, so it works only in the main thread of a POSIX
    process. Elsewhere there is no time limit, but jinja's sandbox refuses loops over more than 100000 numbers there
    too. A timer of the caller continues afterwards; if it would end sooner, no time limit is set.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not in_main_thread or 0 < signal.getitimer(signal.ITIMER_REAL)[0] < seconds:
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"it did not end within {seconds} seconds")

    handler = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    delay, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)  # `None`: not set by Python
        if delay:
            signal.setitimer(signal.ITIMER_REAL, max(delay - (time.monotonic() - began), 1e-6), interval)


def _parse(content: bytes, number: int) -> PromptLine:
    record = json.loads(content.decode("utf-8"))
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    identity = record.get("id", number)
    if not isinstance(identity, (str, int)) or isinstance(identity, bool):
        raise ValueError(f"its `id` is neither a text nor a whole number: {json.dumps(identity)}")
    if ("prompt" in record) == ("messages" in record):
        raise ValueError("it needs either `prompt` or `messages`")
    prompt: Any = record.get("prompt", record.get("messages"))
    if "prompt" in record:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError("its `prompt` is not a text, or is empty")
    elif not isinstance(prompt, list) or not prompt or not all(_is_message(message) for message in prompt):
        raise ValueError("its `messages` are not a list of objects with the texts `role` and `content`")
    json.dumps([identity, prompt], ensure_ascii=False).encode("utf-8")  # fails for half of a surrogate pair
    return PromptLine(identity, number, prompt)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it is not valid UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({error.msg}, column {error.colno})"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
