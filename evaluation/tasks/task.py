"""What a task is: samples with prompts, and a check of what a model makes of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..prompts import encode_prompt


SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Sample:
    """
    One problem of a task.

    Attributes:
        id (`str`): Unique in the task.
        prompt (`str`): The text up to the model's answer, without a chat template; exemplars included.
        reference (`Any`): What the check needs to know: an answer, tests.
        prefix (`str`): Beginning of the answer that the model is given.
        choices (`tuple[str, ...]`): The answers to choose from by likelihood; empty for a task that generates.
    """

    id: str
    prompt: str
    reference: Any
    prefix: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """
    A task that a model is measured on.

    Attributes:
        name (`str`): On the command line.
        title (`str`): In tables, as in the published ones.
        source (`str`): Where the data comes from by default, for people.
        load (`Callable[[Path | None, str, int | None], list[Sample]]`):
            The samples of a file, or by default of a split, `"test"` or `"validation"`; at most so many.
        check (`Callable[[Sample, str], bool]`):
            Whether a generated text is right; the index of the choice as text when there are choices.
        chat (`bool`): Whether the prompt is a user's turn of the chat template.
        stop_strings (`tuple[str, ...]`): The answer ends before the first of these.
        max_new_tokens (`int`): Length of the generated region.
        runs_code (`bool`): Whether the check runs what the model wrote.
        checker (`str`): What compares answers, for the result file.
        definition (`str`, *optional*): Which file defined the task, with a digest of it, for the result file: samples
            of another definition are not mixed with those of this one.
    """

    name: str
    title: str
    source: str
    load: Callable[[Path | None, str, int | None], list[Sample]]
    check: Callable[[Sample, str], bool]
    chat: bool = False
    stop_strings: tuple[str, ...] = ()
    max_new_tokens: int = 256
    runs_code: bool = False
    checker: str = field(default="exact value or text")
    definition: str | None = None

    def cut(self, text: str) -> str:
        """What of a generated text is the answer."""
        return text[: min((text.find(stop) for stop in self.stop_strings if stop in text), default=len(text))]

    def encode(self, tokenizer: PreTrainedTokenizerBase, sample: Sample, chat: bool | None = None) -> list[int]:
        """
        Token ids of a sample's prompt.

        Args:
            tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
            sample ([`Sample`]): The sample.
            chat (`bool`, *optional*): Whether to use the chat template instead of what the task says.

        Returns:
            `list[int]`: The ids, without padding.

        Raises:
            `ValueError`: When there is no chat template to use.
        """
        if not (self.chat if chat is None else chat):
            return encode_prompt(tokenizer, sample.prompt + sample.prefix, chat=False)
        ids = encode_prompt(tokenizer, sample.prompt, chat=True)
        return ids + (tokenizer(sample.prefix, add_special_tokens=False)["input_ids"] if sample.prefix else [])


def joined(exemplars: Sequence[str], prompt: str) -> str:
    """A few-shot prompt: the exemplars and the problem, with an empty line in between."""
    return "\n\n".join([*exemplars, prompt])
