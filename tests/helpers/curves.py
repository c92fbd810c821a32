"""Measured points with chosen verdicts and counts per problem, for what resamples problems."""

from collections.abc import Sequence
from typing import Any

from d3llm.evaluation.result import Result, summarize

from .results import measured


def point_of(
    correct: Sequence[bool],
    tokens: Sequence[int] | int,
    forwards: Sequence[int] | int = 10,
    *,
    threshold: float | None = None,
    **changes: Any,
) -> Result:
    """
    A point on as many problems as there are verdicts.

    Args:
        correct (`Sequence[bool]`): A verdict per problem.
        tokens (`Sequence[int]` or `int`): Tokens of each problem, or of all alike.
        forwards (`Sequence[int]` or `int`, *optional*, defaults to 10): Forwards of each problem, or of all alike.
        threshold (`float`, *optional*): The swept field; `None` for a curve of one point.
        changes (`Any`): Further fields of the result.
    """
    count = len(correct)
    tokens, forwards = ([n] * count if isinstance(n, int) else n for n in (tokens, forwards))
    records = [
        {"id": str(index), "correct": bool(right), "tokens": int(made), "forwards": int(calls), "seconds": 0.1}
        for index, (right, made, calls) in enumerate(zip(correct, tokens, forwards, strict=True))
    ]
    swept = {} if threshold is None else {"threshold": threshold}
    decoding = {"preset": "d3llm", "block_size": 32, "threshold": threshold}
    return measured(**{"num_samples": count, "point": swept, "decoding": decoding, **changes, **summarize(records)})
