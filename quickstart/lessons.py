"""What a teacher is taught: a tokenizer, batches that are pure functions of recipe and step, and problems to watch."""

from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from .problems import generate_problems
from .stories.lesson import StoryLesson
from .tokenizer import build_tokenizer
from .training_rows import Batch, TokenIds, make_batch, render_prompt


class Lesson(Protocol):
    """
    What [`TeacherTrainer`] needs to know of a task.

    Attributes:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        ids ([`TokenIds`]): Its special ids, for masking.
    """

    tokenizer: PreTrainedTokenizerBase
    ids: TokenIds

    def make_batch(self, recipe: dict[str, Any], step: int) -> Batch:
        """The batch of a training step, counted from 0."""

    def validation_texts(self, num_problems: int) -> tuple[list[str], list[str]]:
        """Prompts and solutions of validation problems, always the same."""


class ProblemLesson:
    """The word problems of [`problems`]."""

    def __init__(self) -> None:
        self.tokenizer: PreTrainedTokenizerBase = build_tokenizer()
        self.ids = TokenIds.of(self.tokenizer)

    def make_batch(self, recipe: dict[str, Any], step: int) -> Batch:
        return make_batch(recipe, self.tokenizer, self.ids, step)

    def validation_texts(self, num_problems: int) -> tuple[list[str], list[str]]:
        problems = generate_problems("validation", num_problems, seed=0)
        return [render_prompt(problem) for problem in problems], [problem.solution for problem in problems]


LESSONS: dict[str, type[Lesson]] = {"problems": ProblemLesson, "stories": StoryLesson}
