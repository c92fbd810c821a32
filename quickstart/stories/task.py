"""The stories as tasks of `d3llm eval`: the test problems, and those of forms and lengths held out."""

from collections.abc import Callable
from pathlib import Path

from ...evaluation.tasks import Sample, Task
from .checker import has_right_names, is_right, is_right_by_number
from .problem import generate_problems


NUM_PROBLEMS = 3000
HELD_OUT_STEPS = range(7, 9)
MAX_NEW_TOKENS = 192  # of solutions of 8 steps; those of 6 take up to 147


def draw_samples(
    split: str, count: int, seed: int = 0, forms: str = "train", steps: range | None = None
) -> list[Sample]:
    """
    Problems to measure a model on.

    Args:
        split (`str`), count (`int`), seed (`int`), forms (`str`), steps (`range`, *optional*):
            As for [`~d3llm.quickstart.stories.problem.generate_problems`].

    Returns:
        `list[Sample]`: The problems.

    Raises:
        `ValueError`: If the split has fewer problems.
    """
    problems = generate_problems(split, count, seed, forms, steps)
    return [Sample(str(index), problem.question, problem) for index, problem in enumerate(problems)]


def loader(
    name: str, forms: str = "train", steps: range | None = None
) -> Callable[[Path | None, str, int | None], list[Sample]]:
    """Draws the problems of a split with seed 0, rather than reading a file."""

    def load(file: Path | None, split: str, limit: int | None) -> list[Sample]:
        if file is not None:
            raise ValueError(f"The task {name} draws its own problems: omit --data {file}.")
        return draw_samples(split, NUM_PROBLEMS if limit is None else limit, forms=forms, steps=steps)

    return load


def check(sample: Sample, text: str) -> bool:
    """Whether the whole solution is right."""
    return is_right(sample.reference, text)


def check_number(sample: Sample, text: str) -> bool:
    """Whether the number after `####` is right."""
    return is_right_by_number(sample.reference, text)


def check_names(sample: Sample, text: str) -> bool:
    """Whether all names and things are those of the question."""
    return has_right_names(sample.reference, text)


def _task(name: str, title: str, forms: str = "train", steps: range | None = None) -> Task:
    return Task(
        name,
        title,
        "drawn by d3llm.quickstart.stories",
        loader(name, forms, steps),
        check,
        chat=True,
        max_new_tokens=MAX_NEW_TOKENS,
        checker="every equation, where its numbers come from, the words, and the number after ####",
        verdict="solution",
        further_checks={"number": check_number, "names": check_names},
    )


STORIES = _task("stories", "Stories")
TASKS = (
    STORIES,
    _task("stories_forms", "Stories, held-out forms", forms="held_out"),
    _task("stories_lengths", "Stories, held-out lengths", steps=HELD_OUT_STEPS),
)
