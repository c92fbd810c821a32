"""Tasks whose answer is the choice that the model finds most likely."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from .data import HubData, Text, check_unique, load_rows
from .task import Sample, Task


MMLU = HubData("cais/mmlu", ("all",), {"test": "test", "validation": "validation"})
ARC = HubData("allenai/ai2_arc", ("ARC-Challenge",), {"test": "test", "validation": "validation"})
LETTERS = "ABCDEFGHIJ"

Choices = Annotated[list[str], Field(min_length=2, max_length=len(LETTERS))]


class MMLURow(TypedDict):
    """A row of MMLU; `answer` counts the choices from 0."""

    question: Text
    choices: Choices
    answer: Annotated[int, Field(ge=0)]


class ARCChoices(TypedDict):
    """The choices of a row of ARC, as many labels as texts."""

    label: Annotated[list[Text], Field(min_length=2)]
    text: Annotated[list[Text], Field(min_length=2)]


class ARCRow(TypedDict):
    """A row of ARC; `answerKey` is one of the labels."""

    id: NotRequired[Text | None]
    question: Text
    choices: ARCChoices
    answerKey: Text


def load_mmlu(file: Path | None, split: str, limit: int | None) -> list[Sample]:
    """MMLU (Hendrycks et al., arXiv 2009.03300): the choices are lettered, the answers are the letters."""
    samples = []
    for number, (where, row) in enumerate(load_rows(MMLURow, MMLU, file, split, limit)):
        choices, answer = row["choices"], row["answer"]
        if answer >= len(choices):
            raise ValueError(f"{where} has the `answer` {answer}, counted from 0, of {len(choices)} choices.")
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        prompt = "\n".join([row["question"].strip(), *lines, "Answer:"])
        letters = tuple(f" {letter}" for letter in LETTERS[: len(choices)])
        samples.append(Sample(str(number), prompt, answer, choices=letters))
    return samples


def load_arc(file: Path | None, split: str, limit: int | None) -> list[Sample]:
    """ARC-Challenge (Clark et al., arXiv 1803.05457): the answers are the choices themselves."""
    samples = []
    rows = load_rows(ARCRow, ARC, file, split, limit)
    for number, (where, row) in enumerate(rows):
        labels, texts = row["choices"]["label"], row["choices"]["text"]
        if len(labels) != len(texts):
            raise ValueError(f"{where} has {len(labels)} labels for {len(texts)} choices.")
        if row["answerKey"] not in labels:
            raise ValueError(f"{where} has the `answerKey` {row['answerKey']!r:.60}, which is none of its labels.")
        samples.append(
            Sample(
                row.get("id") or str(number),
                f"Question: {row['question']}\nAnswer:",
                labels.index(row["answerKey"]),
                choices=tuple(f" {text}" for text in texts),
            )
        )
    check_unique((where, sample.id) for (where, _), sample in zip(rows, samples, strict=True))
    return samples


def check(sample: Sample, text: str) -> bool:
    return text == str(sample.reference)


TASKS = (
    Task("mmlu", "MMLU", str(MMLU), load_mmlu, check, checker="most likely choice"),
    Task("arc_challenge", "ARC-C", str(ARC), load_arc, check, checker="most likely choice"),
)
