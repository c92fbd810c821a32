"""Is the teacher's answer right? One check a kind of task, on the response alone."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from .answers import answers_match, extract_boxed, extract_hash_answer, extract_number
from .code_execution import run_program


Check = Callable[[str, Any], bool]
Reference = str | int | Annotated[float, Field(allow_inf_nan=False)]
Test = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]  # without one, every program passes

# Not `FENCE` of tasks/code.py, which also takes `python3`, spaces before the name and CRLF: one in place of the other
# would change verdicts, and those of this one are kept with trajectories (`correct`), those of the other with results.
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def check_boxed(text: str, reference: Any) -> bool:
    r"""Compares the last `\boxed{...}` of `text` with that of `reference`, or with all of it when it has none."""
    return answers_match(extract_boxed(text), extract_boxed(str(reference)) or str(reference))


def check_hash(text: str, reference: Any) -> bool:
    """Compares what follows the last `####` of `text` with the same of `reference`, or with all of it."""
    return answers_match(extract_hash_answer(text), extract_hash_answer(str(reference)) or str(reference))


def check_number(text: str, reference: Any) -> bool:
    """Compares the last number of `text` with that of `reference`."""
    return answers_match(extract_number(text), extract_number(str(reference)))


def check_code(text: str, reference: Any) -> bool:
    """Runs the code of `text`, the first fenced block or all, with the tests of `reference` (a text or a list)."""
    fenced = _FENCE.search(text)
    tests = reference if isinstance(reference, str) else "\n".join(reference)
    return run_program(f"{fenced[1] if fenced else text}\n\n{tests}\n").passed


CHECKS: dict[str, Check] = {
    "boxed": check_boxed,
    "hash": check_hash,
    "number": check_number,
    "code": check_code,
}
"""The checks: `(generated text, the dataset's answer) -> whether it is right`."""

ANSWERS: dict[str, Any] = {
    "boxed": Reference,
    "hash": Reference,
    "number": Reference,
    "code": Test | Annotated[list[Test], Field(min_length=1)],
}
"""What an answer of the dataset may be for each check."""


def register_check(name: str, check: Check, answers: Any = Reference) -> None:
    """
    Adds a check, for `d3llm extract --check`, `--held_out_check` and on-policy rounds.

    Args:
        name (`str`): Its name.
        check (`Callable[[str, Any], bool]`): Says of a generated text and the dataset's answer whether it is right.
        answers (`type`, *optional*): What an answer of the dataset may be; by default a text or a number.

    Raises:
        `ValueError`: If there is such a check.
    """
    if name in CHECKS or name == "none":
        raise ValueError(f"There is a check {name!r} already: give another name.")
    CHECKS[name], ANSWERS[name] = check, answers


def _known(name: str) -> str:
    if name not in CHECKS:
        *others, last = map(repr, CHECKS)
        raise ValueError(f"expected {', '.join(others)} or {last}")
    return name


CheckName = Annotated[str, AfterValidator(_known)]
"""The name of a check."""
