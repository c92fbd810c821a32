"""The teacher's own order: it decodes the prompts, and retries wrong answers at a higher temperature."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation import generate_as_rows_finish
from ..evaluation.answer_checks import Check
from .prompt_rows import Sample
from .row import OPTIONAL, Trajectory


class TeacherRuns:
    """
    Decodes samples, checks the answers, and retries the wrong ones at the next temperature.

    A row is a function of its sample, the attempt and the run's seed: it does not depend on its batch.

    Args:
        model (`PreTrainedModel`): The teacher.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        fields (`dict[str, Any]`): Fields of `DiffusionGenerationConfig`.
        temperatures (`Sequence[float]`): One for each attempt.
        seed (`int`): Seed of the run.
        batch_size (`int`): Rows per batch.
        check (`Check`, *optional*): Check of an answer; without one there is one attempt and no verdict.
        answer_column (`str`, *optional*): Column of the answer to compare with; a sample without one gets no verdict.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        fields: dict[str, Any],
        *,
        temperatures: Sequence[float],
        seed: int,
        batch_size: int,
        check: Check | None = None,
        answer_column: str | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.fields = fields
        self.temperatures = temperatures
        self.seed = seed
        self.batch_size = batch_size
        self.check = check
        self.answer_column = answer_column

    def __call__(self, samples: list[Sample]) -> list[Trajectory]:
        """
        The first correct attempt of each sample; for one that is never answered correctly, the first of all.

        Args:
            samples (`list[Sample]`): The samples, none too long for the model.

        Returns:
            `list[Trajectory]`: One for each sample.
        """
        kept = self._decode(samples, attempt=0)
        for attempt in range(1, len(self.temperatures)):
            wrong = [index for index, trajectory in enumerate(kept) if trajectory.correct is False]
            again = self._decode([samples[index] for index in wrong], attempt)
            for index, trajectory in zip(wrong, again, strict=True):
                if trajectory.correct:
                    kept[index] = trajectory
        return kept

    def _decode(self, samples: list[Sample], attempt: int) -> list[Trajectory]:
        if not samples:
            return []
        batches = generate_as_rows_finish(
            self.model,
            self.tokenizer,
            [sample.prompt_ids for sample in samples],
            batch_size=self.batch_size,
            seeds=[sample.seed(self.seed, attempt) for sample in samples],
            temperature=self.temperatures[attempt],
            **self.fields,
        )
        rows = sorted((row for batch in batches for row in batch.rows), key=lambda row: row.index)
        return [
            Trajectory(
                response_ids=row.token_ids,
                commit_steps=row.commit_steps,
                num_forwards=row.forwards,
                row_forwards=row.row_forwards,
                correct=self._verdict(sample, row.text),
                attempt=attempt,
                **{name: getattr(row, name) for name in OPTIONAL},
            )
            for sample, row in zip(samples, rows, strict=True)
        ]

    def _verdict(self, sample: Sample, text: str) -> bool | None:
        answer = sample.row[self.answer_column] if self.answer_column is not None else None
        return None if self.check is None or answer is None else self.check(text, answer)
