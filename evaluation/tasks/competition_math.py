"""MATH (Hendrycks et al., arXiv 2103.03874), with the four exemplars of Minerva (arXiv 2206.14858)."""

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from typing_extensions import TypedDict

from ..answers import answers_match, extract_boxed
from .data import HubData, Text, exemplars, load_rows
from .task import Sample, Task, joined


SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip
DATA = HubData("EleutherAI/hendrycks_math", SUBJECTS, {"test": "test", "validation": "train"})
FINAL_ANSWER = re.compile(r"final answer is(.*?)\.? I hope it is correct", re.DOTALL | re.IGNORECASE)


class Row(TypedDict):
    """A row of MATH."""

    problem: Text
    solution: Text


def zero_shot_prompt(problem: str) -> str:
    return f"Problem:\n{problem}\n\nSolution:"


def four_shot_prompt(problem: str) -> str:
    shots = [f"{zero_shot_prompt(row['problem'])} {row['solution']}" for row in exemplars()["math"]]
    return joined(shots, zero_shot_prompt(problem))


def loader(prompt: Callable[[str], str]) -> Callable[[Path | None, str, int | None], list[Sample]]:
    """Loads the problems with prompts of a form."""

    def load(file: Path | None, split: str, limit: int | None) -> list[Sample]:
        samples = []
        for number, (where, row) in enumerate(load_rows(Row, DATA, file, split, limit)):
            reference = extract_boxed(row["solution"])
            if reference is None:
                raise ValueError(f"{where} has a `solution` without \\boxed{{...}}.")
            samples.append(Sample(str(number), prompt(row["problem"]), reference))
        return samples

    return load


def extract_final_answer(text: str) -> str | None:
    r"""What Minerva's closing sentence says, else the last `\boxed{...}`."""
    sentence = FINAL_ANSWER.search(text)
    return sentence[1].strip().strip("$") if sentence else extract_boxed(text)


def check(sample: Sample, text: str) -> bool:
    """Compares the final answer by value or text and, where `math_verify` is installed, as expressions."""
    answer = extract_final_answer(text)
    return answers_match(answer, sample.reference) or (
        answer is not None and MATH_VERIFY and _same_expression(answer, sample.reference)
    )


@cache
def _same_expression(answer: str, reference: str) -> bool:
    from math_verify import parse, verify

    return verify(parse(f"${reference}$"), parse(f"${answer}$"))


MATH_VERIFY = find_spec("math_verify") is not None
CHECKER = f"math_verify {version('math_verify')}" if MATH_VERIFY else "exact value or text, no algebra"

TASKS = (
    Task("math", "MATH", str(DATA), loader(four_shot_prompt), check, stop_strings=("Problem:",), checker=CHECKER),
    Task("math_instruct", "MATH", str(DATA), loader(zero_shot_prompt), check, chat=True, checker=CHECKER),
)
