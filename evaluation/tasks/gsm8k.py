"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school word problems."""

from collections.abc import Callable
from pathlib import Path

from typing_extensions import TypedDict

from ..answers import answers_match, extract_hash_answer, extract_number
from .data import HubData, Text, exemplars, load_rows
from .task import Sample, Task, joined


DATA = HubData("openai/gsm8k", ("main",), {"test": "test", "validation": "train"})
STOP_STRINGS = ("Q:", "</s>", "<|im_end|>")
LONG_STOP_STRINGS = ("Question:", "</s>", "<|im_end|>")


class Row(TypedDict):
    """A row of GSM8K."""

    question: Text
    answer: Text


def cot_prompt(question: str) -> str:
    return f"Q: {question}\nA: Let's think step by step."


def long_prompt(question: str) -> str:
    """The first five problems of the train split with their solutions, about 1,900 characters, and the question."""
    shots = [f"Question: {row['question']}\nAnswer: {row['answer']}" for row in exemplars()["gsm8k"]]
    return joined(shots, f"Question: {question}\nAnswer:")


def loader(prompt: Callable[[str], str]) -> Callable[[Path | None, str, int | None], list[Sample]]:
    """Loads the problems with prompts of a form."""

    def load(file: Path | None, split: str, limit: int | None) -> list[Sample]:
        samples = []
        for number, (where, row) in enumerate(load_rows(Row, DATA, file, split, limit)):
            reference = extract_hash_answer(row["answer"])
            if reference is None:
                raise ValueError(f"{where} has an `answer` without `#### `.")
            samples.append(Sample(str(number), prompt(row["question"]), reference))
        return samples

    return load


def check(sample: Sample, text: str) -> bool:
    """Compares the last number of the text, lm-evaluation-harness's `flexible-extract`."""
    return answers_match(extract_number(text), sample.reference)


TASKS = (
    Task("gsm8k_cot", "GSM8K-CoT", str(DATA), loader(cot_prompt), check, stop_strings=STOP_STRINGS),
    Task("gsm8k_cot_instruct", "GSM8K-CoT", str(DATA), loader(cot_prompt), check, chat=True),
    Task("gsm8k_long", "Long-GSM8K", str(DATA), loader(long_prompt), check, stop_strings=LONG_STOP_STRINGS),
    Task("gsm8k_long_instruct", "Long-GSM8K", str(DATA), loader(long_prompt), check, chat=True),
)
