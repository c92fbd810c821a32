"""Extracts the answer from a generated text, and compares answers."""

import re
from fractions import Fraction


NUMBER = re.compile(r"(?:(?<![\w)\]}])-)?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
BOXES = ("\\boxed{", "\\fbox{")

# Parts that do not change the value of an answer: LaTeX commands for sizes and spaces, units, outer punctuation.
_LATEX_WORDS = re.compile(r"\\(?:left|right|big|Big|displaystyle|textstyle|,|;|!|:|quad|qquad)(?![A-Za-z])")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))")
_ASSIGNMENT = re.compile(r"^[A-Za-z]\s*=(?!=)")
_RATIO = re.compile(r"(-?)\(?(-?\d+(?:\.\d+)?)\)?/\(?(\d+(?:\.\d+)?)\)?")


def extract_boxed(text: str) -> str | None:
    r"""
    The content of the last closed `\boxed{...}` (or `\fbox{...}`), which may contain braces.

    Args:
        text (`str`): A solution in LaTeX.

    Returns:
        `str` or `None`: The content without surrounding white space; `None` if there is no closed box.
    """
    starts = sorted(match.end() for box in BOXES for match in re.finditer(re.escape(box), text))
    for start in reversed(starts):
        depth = 1
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            if depth == 0:
                return text[start:end].strip()
    return None


def extract_hash_answer(text: str) -> str | None:
    """
    The text after the last `####` on its line, as in GSM8K's references.

    Args:
        text (`str`): A solution.

    Returns:
        `str` or `None`: The answer; `None` if there is no `####`, or nothing after it.
    """
    _, marker, rest = text.rpartition("####")
    return (rest.strip().splitlines() or [""])[0].strip() or None if marker else None


def extract_number(text: str) -> str | None:
    """
    The last number in a text, as in lm-evaluation-harness's `flexible-extract` filter.

    Args:
        text (`str`): A solution.

    Returns:
        `str` or `None`: The number without `$` and thousands separators; `None` if there is none.
    """
    numbers = NUMBER.findall(text)
    return numbers[-1].replace("$", "").replace(",", "") if numbers else None


def answers_match(answer: str | None, reference: str | None) -> bool:
    r"""
    Whether two answers are equal.

    Numbers are compared by value, exactly: `1,200`, `$1200`, `1200.00` and `1200 ` are equal, and so are `0.5`, `1/2`
    and `\frac{1}{2}`. Units, that is `%` and degrees, are ignored. Other answers are compared as text, without spaces
    and LaTeX that only affects the typesetting (`\left`, `\text{...}`, `\dfrac` for `\frac`). Nothing is simplified:
    `2x` is not `x+x`.

    Args:
        answer (`str` or `None`): An answer; `None` if none was found, which matches nothing.
        reference (`str` or `None`): The correct answer.

    Returns:
        `bool`: Whether they are equal.
    """
    if answer is None or reference is None:
        return False
    answer, reference = _normalize(answer), _normalize(reference)
    values = _value(answer), _value(reference)
    if None not in values:
        return values[0] == values[1]
    return answer == reference != ""


def numbers_match(answer: str | None, reference: str | None) -> bool:
    r"""
    Whether two answers are the same number, exactly, in the forms that [`answers_match`] reads: `1,200` and `1200.00`,
    `0.5` and `\frac{1}{2}`.

    Args:
        answer (`str` or `None`): An answer; what is not a number matches nothing.
        reference (`str` or `None`): The answer that is right.

    Returns:
        `bool`: Whether both are numbers, and the same.
    """
    if answer is None or reference is None:
        return False
    value = _value(_normalize(answer))
    return value is not None and value == _value(_normalize(reference))


def _normalize(answer: str) -> str:
    answer = answer.strip().strip("$").rstrip(".").strip()
    answer = _LATEX_TEXT.sub(r"\1", _LATEX_WORDS.sub("", answer))
    answer = _DEGREES.sub("", answer).replace("\\%", "").replace("%", "").replace("\\$", "").replace("$", "")
    answer = _ASSIGNMENT.sub("", answer)
    answer = re.sub(r"(?<=\d),(?=\d{3}(?!\d))(?![^()\[\]]*[)\]])", "", answer)  # (1,200) is a pair of numbers
    answer = _FRACTION.sub(lambda part: rf"\frac{{{part[1] or part[2]}}}{{{part[3] or part[4]}}}", answer)
    return re.sub(r"\s+", "", answer).rstrip(".,;")


def _value(answer: str) -> Fraction | None:
    """The value of an answer, or `None` if it is not a number."""
    answer = re.sub(r"\\frac\{(-?[\d.]+)\}\{([\d.]+)\}", r"\1/\2", answer)
    ratio = _RATIO.fullmatch(answer)
    try:
        if ratio:
            return Fraction(f"{ratio[1]}1") * Fraction(ratio[2]) / Fraction(ratio[3])
        return Fraction(answer) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", answer) else None
    except ZeroDivisionError:
        return None
