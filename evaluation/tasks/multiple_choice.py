"""Tasks whose answer is the choice that the model finds most likely."""

from pathlib import Path

from .data import HubData, load_rows
from .task import Sample, Task, field_of


MMLU = HubData("cais/mmlu", ("all",), {"test": "test", "validation": "validation"})
ARC = HubData("allenai/ai2_arc", ("ARC-Challenge",), {"test": "test", "validation": "validation"})
LETTERS = "ABCDEFGHIJ"


def load_mmlu(file: Path | None, split: str, limit: int | None) -> list[Sample]:
    """MMLU (Hendrycks et al., arXiv 2009.03300): the choices are lettered, the answers are the letters."""
    samples = []
    for number, row in enumerate(load_rows(MMLU, file, split)[:limit]):
        where = f"row {number + 1} of {file or MMLU}"
        choices = field_of(row, "choices", where)
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        prompt = "\n".join([field_of(row, "question", where).strip(), *lines, "Answer:"])
        letters = tuple(f" {letter}" for letter in LETTERS[: len(choices)])
        samples.append(Sample(str(number), prompt, int(field_of(row, "answer", where)), choices=letters))
    return samples


def load_arc(file: Path | None, split: str, limit: int | None) -> list[Sample]:
    """ARC-Challenge (Clark et al., arXiv 1803.05457): the answers are the choices themselves."""
    samples = []
    for number, row in enumerate(load_rows(ARC, file, split)[:limit]):
        where = f"row {number + 1} of {file or ARC}"
        choices = field_of(row, "choices", where)
        samples.append(
            Sample(
                str(row.get("id", number)),
                f"Question: {field_of(row, 'question', where)}\nAnswer:",
                choices["label"].index(field_of(row, "answerKey", where)),
                choices=tuple(f" {text}" for text in choices["text"]),
            )
        )
    return samples


def check(sample: Sample, text: str) -> bool:
    return text == str(sample.reference)


TASKS = (
    Task("mmlu", "MMLU", str(MMLU), load_mmlu, check, checker="most likely choice"),
    Task("arc_challenge", "ARC-C", str(ARC), load_arc, check, checker="most likely choice"),
)
