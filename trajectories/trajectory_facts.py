"""What an extraction measured: the counts of a chunk, their sums, and the facts of the dataset's card."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..hub_cards.facts import TrajectoryFacts
from .prompt_rows import Sample
from .row import Trajectory
from .store import Parts


SHOWN_SETTINGS = ("temperatures", "check", "keep", "loops")


@dataclass
class ChunkCounts:
    """
    The outcome of the samples of a chunk.

    Attributes:
        samples (`int`): How many there were.
        too_long (`list[str]`): Ids of those that were skipped, since the model has no room for prompt and response.
        correct, wrong, unjudged (`int`): The others by the verdict on their answer.
        retried (`int`): Samples that became correct at a later attempt.
        corrected (`int`): Wrong ones that a given response replaced.
        rows (`int`): Trajectories that were kept.
        correct_rows, wrong_rows (`int`): Those of them with a verdict.
        looping (`int`): Texts of an autoregressive model that end in a loop, kept or not.
        cut (`int`): Kept responses without an EOS: they were truncated.
        prompt_tokens, response_tokens, forwards, row_forwards (`int`): Sums over them.
    """

    samples: int = 0
    too_long: list[str] = field(default_factory=list)
    correct: int = 0
    wrong: int = 0
    unjudged: int = 0
    retried: int = 0
    corrected: int = 0
    rows: int = 0
    correct_rows: int = 0
    wrong_rows: int = 0
    looping: int = 0
    cut: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    forwards: int = 0
    row_forwards: int = 0

    @classmethod
    def of_part(cls, values: dict[str, Any]) -> "ChunkCounts":
        """What a part says of itself; older ones say nothing of row forwards, which were as many as forwards."""
        return cls(**{"row_forwards": values.get("forwards", 0), **values})

    @classmethod
    def of(
        cls,
        samples: list[Sample],
        trajectories: list[Trajectory],
        kept: list[tuple[Sample, Trajectory]],
        *,
        too_long: list[Sample],
        eos_token_ids: list[int],
    ) -> "ChunkCounts":
        corrected = sum(trajectory.corrected for trajectory in trajectories)
        verdicts = Counter(trajectory.correct for trajectory in trajectories if not trajectory.corrected)
        kept_verdicts = Counter(trajectory.correct for _, trajectory in kept)
        return cls(
            samples=len(samples),
            too_long=[sample.id for sample in too_long],
            correct=verdicts[True],
            wrong=verdicts[False] + corrected,
            unjudged=verdicts[None],
            retried=sum(trajectory.attempt > 0 for trajectory in trajectories),
            corrected=corrected,
            rows=len(kept),
            correct_rows=kept_verdicts[True],
            wrong_rows=kept_verdicts[False],
            looping=sum(trajectory.loops for trajectory in trajectories),
            cut=sum(trajectory.response_ids[-1] not in eos_token_ids for _, trajectory in kept),
            prompt_tokens=sum(len(sample.prompt_ids) for sample, _ in kept),
            response_tokens=sum(len(trajectory.response_ids) for _, trajectory in kept),
            forwards=sum(trajectory.num_forwards for _, trajectory in kept),
            row_forwards=sum(trajectory.row_forwards or trajectory.num_forwards for _, trajectory in kept),
        )

    def __add__(self, other: "ChunkCounts") -> "ChunkCounts":
        mine, theirs = asdict(self), asdict(other)
        return ChunkCounts(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def share_correct(self) -> float | None:
        """Correct samples among those with a verdict."""
        judged = self.correct + self.wrong
        return self.correct / judged if judged else None


def extraction_counts(parts: Parts) -> ChunkCounts:
    """
    The counts of all finished parts.

    Args:
        parts ([`Parts`]): The parts of an extraction.

    Returns:
        [`ChunkCounts`]: Their sum.
    """
    return sum((ChunkCounts.of_part(parts.counts(index)) for index in parts.finished()), ChunkCounts())


def trajectory_facts(folder: str | Path, license: str = "other") -> TrajectoryFacts:
    """
    The facts of an extraction, for its card.

    Args:
        folder (`str` or `Path`): Folder that `d3llm extract` wrote.
        license (`str`, *optional*, defaults to `"other"`): SPDX id of the prompts' licence, in lower case.

    Returns:
        [`~d3llm.hub_cards.facts.TrajectoryFacts`]: The facts.

    Raises:
        `OSError`: If the folder is not an extraction.
        `ValueError`: If it is not finished.
    """
    parts = Parts.open(Path(folder))
    if not parts.is_complete():
        raise ValueError(f"{folder} is an unfinished extraction: run the same `d3llm extract` again.")
    settings, counts = parts.plan["settings"], extraction_counts(parts)
    decoding = {name: value for name, value in settings["decode_config"].items() if value is not None}
    return TrajectoryFacts(
        name=f"Trajectories of {settings['teacher']} on {settings['dataset']}",
        license=license,
        teacher=settings["teacher"],
        source=settings["order"],
        rows=counts.rows,
        prompt_tokens=counts.prompt_tokens,
        response_tokens=counts.response_tokens,
        forwards=counts.forwards,
        row_forwards=counts.row_forwards,
        cut=counts.cut,
        checked=counts.correct_rows + counts.wrong_rows,
        correct=counts.correct_rows,
        mask_token_id=settings["decode_config"]["mask_token_id"],
        decoding={**decoding, **{name: settings[name] for name in SHOWN_SETTINGS if name in settings}},
        prompts=settings["dataset"].rpartition("/")[0],
    )
