"""What a task is: samples with prompts, and a check of what a model makes of them."""

from collections.abc import Callable, Mapping, Sequence
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


Check = Callable[[Sample, str], bool]


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
            Whether a generated text is right; the index of the choice as text when there are choices. This check
            decides: accuracy and AUP are by it.
        chat (`bool`): Whether the prompt is a user's turn of the chat template.
        stop_strings (`tuple[str, ...]`): The answer ends before the first of these.
        max_new_tokens (`int`): Length of the generated region.
        runs_code (`bool`): Whether the check runs what the model wrote.
        checker (`str`): What compares answers, for the result file.
        definition (`str`, *optional*): Which file defined the task, with a digest of it, for the result file: samples
            of another definition are not mixed with those of this one.
        verdict (`str`, *optional*): What results call `check`, such as `"solution"`; needed beside further checks.
        further_checks (`Mapping[str, Callable[[Sample, str], bool]]`): Other checks by name, such as
            `{"number": ...}`. Their accuracies stand beside that of the deciding check.

    Raises:
        `ValueError`: For further checks beside one without a name or of the same name.
    """

    name: str
    title: str
    source: str
    load: Callable[[Path | None, str, int | None], list[Sample]]
    check: Check
    chat: bool = False
    stop_strings: tuple[str, ...] = ()
    max_new_tokens: int = 256
    runs_code: bool = False
    checker: str = field(default="exact value or text")
    definition: str | None = None
    verdict: str | None = None
    further_checks: Mapping[str, Check] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.further_checks and (self.verdict is None or self.verdict in self.further_checks):
            raise ValueError(
                f"The task {self.name} has the further checks {', '.join(self.further_checks)}, and the deciding one "
                f"is called {self.verdict!r}: give it a name of its own (`verdict`)."
            )

    def judge(self, sample: Sample, text: str) -> tuple[bool, dict[str, bool]]:
        """
        What all checks say of a text.

        Args:
            sample ([`Sample`]): The sample.
            text (`str`): The answer, as [`cut`] gives it.

        Returns:
            `tuple[bool, dict[str, bool]]`: The verdict of the deciding check, and those of the further ones by name.
        """
        return self.check(sample, text), {name: check(sample, text) for name, check in self.further_checks.items()}

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
