"""HumanEval (Chen et al., arXiv 2107.03374), MBPP (Austin et al., arXiv 2108.07732), and EvalPlus's tests for both."""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from ..code_execution import run_program
from .data import HubData, Text, check_unique, exemplars, load_rows
from .task import Sample, Task, joined


HUMANEVAL = HubData("openai/openai_humaneval", (None,), {"test": "test"})
HUMANEVAL_PLUS = HubData("evalplus/humanevalplus", (None,), {"test": "test"})
MBPP = HubData("google-research-datasets/mbpp", ("full",), {"test": "test", "validation": "validation"})
MBPP_PLUS = HubData("evalplus/mbppplus", (None,), {"test": "test"})
MBPP_TASK_IDS = {"test": range(11, 511), "validation": range(511, 601)}  # of a file that has all 974 problems
FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)
HUMANEVAL_STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


class HumanEvalRow(TypedDict):
    """A row of HumanEval or HumanEval+; `prompt` has the head of the function `entry_point`."""

    task_id: Text
    prompt: Text
    entry_point: Text
    test: Text


class MBPPRow(TypedDict):
    """A row of MBPP, whose problem is `text`, or of MBPP+, where it is `prompt` and `test` may replace `test_list`."""

    task_id: int | Text
    text: NotRequired[Text | None]
    prompt: NotRequired[Text | None]
    test_list: Annotated[list[Text], Field(min_length=1)]
    test_imports: NotRequired[list[str] | None]
    test_setup_code: NotRequired[str | None]
    test: NotRequired[str | None]


@dataclass(frozen=True)
class Tests:
    """
    What makes a program of a generated function.

    Attributes:
        header (`str`): What a function that repeats its signature needs before it: imports, helpers.
        signature (`str`): What a function's body continues.
        entry_point (`str`): Name of the function; empty when the tests say it.
        tests (`str`): What follows the function, and raises when it is wrong.
    """

    header: str
    signature: str
    entry_point: str
    tests: str


def extract_code(text: str, *, inside_fence: bool = False) -> str:
    """
    The program in a text: its first fenced block, or all of it; without the lines at the end that are no Python.

    Args:
        text (`str`): A generated text.
        inside_fence (`bool`, *optional*, defaults to `False`): Whether the text began within a fence.

    Returns:
        `str`: Source.
    """
    block = FENCE.search(text)
    if inside_fence:
        text = text.split("```")[0]
    elif block:
        text = block[1]
    return text.replace("\r\n", "\n")


def without_broken_end(code: str, signature: str = "") -> str:
    """
    Cuts code before the line where Python stops reading it, which drops an unfinished function or closing remarks.

    Args:
        code (`str`): Source.
        signature (`str`, *optional*): What stands before it.

    Returns:
        `str`: The part that can be read; all of it when nothing can.
    """
    lines, offset = code.split("\n"), signature.count("\n")
    end = len(lines)
    while end:
        try:
            ast.parse(signature + "\n".join(lines[:end]))
            return "\n".join(lines[:end])
        except SyntaxError as error:
            end = min(end - 1, max(0, (error.lineno or 1) - 1 - offset))
        except (ValueError, RecursionError, MemoryError):  # null bytes, nesting
            break
    return code


def complete_program(text: str, tests: Tests, *, inside_fence: bool = False) -> str:
    """
    The program that passes when the generated function is right.

    Args:
        text (`str`): A generated text: the body of the function, or all of it.
        tests ([`Tests`]): What it is checked with.
        inside_fence (`bool`, *optional*, defaults to `False`): See [`extract_code`].

    Returns:
        `str`: Source.
    """
    code = extract_code(text, inside_fence=inside_fence)
    whole = not tests.signature or re.search(rf"^def\s+{re.escape(tests.entry_point)}\b", code, re.MULTILINE)
    before = tests.header if whole else tests.signature
    return f"{before}{without_broken_end(code, before)}\n\n{tests.tests}\n"


def check(sample: Sample, text: str) -> bool:
    """Runs the program. Only to be called when the user allowed it."""
    return run_program(complete_program(text, sample.reference, inside_fence="```" in sample.prefix)).passed


def load_humaneval(data: HubData, instruct: bool) -> Callable[[Path | None, str, int | None], list[Sample]]:
    """Loads HumanEval or HumanEval+; the instruct form asks for the function and begins it."""

    def load(file: Path | None, split: str, limit: int | None) -> list[Sample]:
        samples = []
        rows = load_rows(HumanEvalRow, data, file, split, limit)
        for where, row in rows:
            prompt, entry_point = row["prompt"], row["entry_point"]
            if f"def {entry_point}" not in prompt:
                raise ValueError(f"{where} has no `def {entry_point:.60}` in its `prompt`.")
            tests = Tests(
                header=prompt[: prompt.index(f"def {entry_point}")],
                signature=prompt,
                entry_point=entry_point,
                tests=f"{row['test']}\ncheck({entry_point})",
            )
            ask = (
                "Write a solution to the following problem and make sure that it passes the tests:\n"
                f"```python\n{prompt}\n```\n"
            )
            begin = f"Here is the completed function:\n```python\n{prompt}\n"
            sample = Sample(row["task_id"], prompt, tests)
            samples.append(replace(sample, prompt=ask, prefix=begin) if instruct else sample)
        check_unique((where, row["task_id"]) for where, row in rows)
        return samples

    return load


def mbpp_prompt(row: dict[str, Any]) -> str:
    ask = f"You are an expert Python programmer, and here is your task: {_mbpp_text(row)}"
    return f"{ask} Your code should pass these tests:\n\n" + "\n".join(row["test_list"][:3]) + "\n[BEGIN]\n"


def mbpp_instruct_prompt(row: dict[str, Any]) -> str:
    ask = f"You are an expert Python programmer, and here is your task:\n{_mbpp_text(row)}"
    return f"{ask}\nYour code should pass these tests:\n" + "\n".join(row["test_list"][:3])


def _mbpp_text(row: dict[str, Any]) -> str:
    return row.get("text") or row.get("prompt") or ""  # MBPP and MBPP+ name it so


def load_mbpp(data: HubData, instruct: bool) -> Callable[[Path | None, str, int | None], list[Sample]]:
    """Loads MBPP with three exemplars, or MBPP+; the instruct form has none, and begins a fence."""

    def load(file: Path | None, split: str, limit: int | None) -> list[Sample]:
        rows = load_rows(MBPPRow, data, file, split)
        if data is MBPP and len(rows) == 974:
            rows = [(where, row) for where, row in rows if row["task_id"] in MBPP_TASK_IDS[split]]
        shots = [f"{mbpp_prompt(row)}{row['code']}\n[DONE]" for row in exemplars()["mbpp"]]
        samples = []
        for where, row in rows[:limit]:
            if not _mbpp_text(row):
                raise ValueError(f"{where} has neither `text` nor `prompt`: give the data of this task (--data).")
            task_id = str(row["task_id"])
            imports = "".join(f"{line}\n" for line in row.get("test_imports") or [])
            setup = row.get("test_setup_code") or ""  # may use what the code defines
            tests = Tests(imports, "", "", f"{setup}\n{row.get('test') or chr(10).join(row['test_list'])}")
            samples.append(
                Sample(task_id, mbpp_instruct_prompt(row), tests, prefix="```python\n")
                if instruct
                else Sample(task_id, joined(shots, mbpp_prompt(row)), tests)
            )
        check_unique((where, str(row["task_id"])) for where, row in rows[:limit])
        return samples

    return load


def _tasks(name: str, title: str, data: HubData, load: Callable, stop_strings: tuple[str, ...]) -> tuple[Task, Task]:
    plus = data in (HUMANEVAL_PLUS, MBPP_PLUS)
    common: dict[str, Any] = {
        "check": check,
        "runs_code": True,
        "checker": "the data's own tests, run",
        "max_new_tokens": 512 if plus else 256,
    }
    return (
        Task(name, title, str(data), load(data, False), stop_strings=stop_strings, **common),
        Task(f"{name}_instruct", f"{title}-Instruct", str(data), load(data, True), chat=True, **common),
    )


TASKS = (
    *_tasks("humaneval", "HumanEval", HUMANEVAL, load_humaneval, HUMANEVAL_STOP_STRINGS),
    *_tasks("humaneval_plus", "HumanEval+", HUMANEVAL_PLUS, load_humaneval, HUMANEVAL_STOP_STRINGS),
    *_tasks("mbpp", "MBPP", MBPP, load_mbpp, ("[DONE]",)),
    *_tasks("mbpp_plus", "MBPP+", MBPP_PLUS, load_mbpp, ("[DONE]",)),
)
