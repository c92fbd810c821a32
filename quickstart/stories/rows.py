"""Stories as rows of a file, for training that decodes and checks them."""

import json
from pathlib import Path

from ...common.files import write_atomically
from .problem import generate_problems
from .reference import reference_of


PROMPT, ANSWER, SOLUTION = "prompt", "answer", "solution"  # the columns


def write_rows(file: Path, count: int, seed: int) -> Path:
    """
    Writes problems of the train split as JSON lines, unless they are there.

    Args:
        file (`Path`): The file.
        count (`int`): How many problems.
        seed (`int`): Seed of the draw.

    Returns:
        `Path`: `file`.

    Raises:
        `ValueError`: If the split has fewer problems.
        `OSError`: If it cannot be written.
    """
    problems = generate_problems("train", count, seed)
    rows = [{PROMPT: each.question, ANSWER: reference_of(each), SOLUTION: each.solution} for each in problems]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if not file.exists() or file.read_bytes() != content:  # a new file is read into a new cache
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    return file
