"""On-policy rounds: a student decodes prompts, and what it answers right is its next lesson."""

import filecmp
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from trl import ModelConfig

from ..common.files import own_folder, whole_file
from ..common.fingerprints import fingerprint_weights
from ..common.plan import check_plan, compare_plans, keep_plan, plan_values
from ..common.processes import Processes
from ..modeling.loading import load_tokenizer
from ..trajectories.store import Parts
from ..trajectories.trajectory_facts import ChunkCounts, extraction_counts
from .distill import check_model, load_named
from .pseudo_trajectory_config import PseudoTrajectoryConfig
from .round_steps import RoundFolder, choose_rows, decode_round, train_round
from .rounds_config import RoundsConfig
from .rounds_preflight import check_arguments, check_folder, check_student, prompt_fingerprints
from .training_plan import REMEDY, ROUNDS_FILE, recipe_plan


# Fields that do not affect the weights of a round. The prompts are in the plan of its trajectories.
WITHOUT_EFFECT = {"rounds", "resume", "trust_remote_code", "prompts", "decoding_batch_size", "allow_code_execution"}


@dataclass(frozen=True)
class Round:
    """
    A finished round.

    Attributes:
        number (`int`): Its number, counted from 1.
        student (`Path`): Folder of the student that it trained.
        trajectories (`Path`): Folder of what the student before it had decoded, or of the given texts.
        counts ([`~d3llm.trajectories.trajectory_facts.ChunkCounts`]): What was counted in them.
    """

    number: int
    student: Path
    trajectories: Path
    counts: ChunkCounts

    @classmethod
    def read(cls, folder: RoundFolder) -> "Round":
        """The round in a folder."""
        counts = extraction_counts(Parts.open(folder.trajectories))
        return cls(folder.number, folder.student, folder.trajectories, counts)

    def describe(self) -> str:
        """What was decoded, in a line."""
        counts = self.counts
        if counts.share_correct is None:
            return f"round {self.number}: {counts.rows} texts"
        return (
            f"round {self.number}: {counts.correct} of {counts.correct + counts.wrong} answers right "
            f"({counts.share_correct:.1%}), {counts.response_tokens / counts.forwards:.2f} tokens per forward"
        )


def train_rounds(
    model_args: ModelConfig,
    args: PseudoTrajectoryConfig,
    config: RoundsConfig,
    on_round: Callable[[Round], None] = lambda finished: None,
) -> list[Round]:
    """
    Trains a student on its own runs, in rounds, or resumes them. In a distributed run, every process calls this.

    One round:

    1. The student decodes the next prompts, as its generation config or `config.decoding` says.
    2. A check says which answers are right; runs with wrong ones are left out.
    3. The student is trained on the others, as `args` says, with a schedule and draws of the round's own.
    4. The result is the student of the next round, and after the last one the model in `args.output_dir`.

    Each round has a folder `output_dir/rounds/NUMBER` with its `trajectories` and its `student`. A run that was killed
    resumes where it was: finished rounds, parts of an extraction and complete checkpoints are kept.

    Args:
        model_args (`ModelConfig`): The student to start from, how it is loaded, and the adapters, which are merged
            after each round.
        args ([`PseudoTrajectoryConfig`]): The recipe, and the training arguments of each round.
        config ([`RoundsConfig`]): The prompts, the decoder and the check.
        on_round (`Callable[[Round], None]`, *optional*): Called for each finished round, on the first process.

    Returns:
        `list[Round]`: The rounds.

    Raises:
        `ValueError`: For arguments and data that do not fit, and a folder that holds another run.
        `ValueError`: If no answer of a round is right.
        `OSError`: For files that cannot be read or written.

    Example:

    ```python
    from trl import ModelConfig

    from d3llm import PseudoTrajectoryConfig, RoundsConfig, train_rounds

    train_rounds(
        ModelConfig(model_name_or_path="student", dtype="float32"),
        PseudoTrajectoryConfig(output_dir="better", corruption="state", layout="single", max_steps=72),
        RoundsConfig(rounds=2, prompts="problems.jsonl", check="number", prompts_per_round=4096),
    )
    ```
    """
    check_arguments(args, model_args)
    output = Path(str(args.output_dir))
    check_folder(output, config.resume)
    name = check_model(model_args, args)
    tokenizer = load_tokenizer(name, revision=model_args.model_revision, trust_remote_code=config.trust_remote_code)
    prompts = prompt_fingerprints(config, args, tokenizer)
    student = load_named(name, model_args, args)
    check_student(student, config, args)
    plan = rounds_plan(args, model_args, config, student)
    check_plan(output / ROUNDS_FILE, plan, REMEDY)
    processes = Processes.launched(cpu=args.use_cpu)
    processes.wait()  # until every process has seen the folder as it was
    rounds = []
    with own_folder(output) if processes.is_main else nullcontext():
        if processes.is_main:
            keep_plan(output / ROUNDS_FILE, plan, REMEDY)
        processes.wait()
        check_count(output, config.rounds)
        for number in range(1, config.rounds + 1):
            folder = RoundFolder(output, number)
            if folder.student.exists():
                check_prompts(folder, prompts[number - 1])
            else:
                if number > 1:
                    student = load_named(str(RoundFolder(output, number - 1).student), model_args, args)
                counts = decode_round(student, tokenizer, args, config, folder, processes)
                train_round(student, tokenizer, choose_rows(counts, config, folder), args, model_args, config, folder)
            processes.wait()
            rounds.append(Round.read(folder))
            if processes.is_main:
                shutil.rmtree(folder.training, ignore_errors=True)  # the optimizer's state is of no more use
                on_round(rounds[-1])
        if processes.is_main:
            publish(rounds[-1].student, output)
        processes.wait()
    return rounds


def rounds_plan(
    args: PseudoTrajectoryConfig, model_args: ModelConfig, config: RoundsConfig, student: PreTrainedModel
) -> dict[str, Any]:
    """
    What the students depend on, besides the prompts of each round. The number of rounds is not part of it: finished
    rounds can be continued.

    Args:
        args ([`PseudoTrajectoryConfig`]), model_args (`ModelConfig`), config ([`RoundsConfig`]): The rounds.
        student (`PreTrainedModel`): The student before the first one.

    Returns:
        `dict[str, Any]`: JSON values by name.
    """
    names = sorted(RoundsConfig.__annotations__.keys() - WITHOUT_EFFECT)
    plan = {**recipe_plan(args, model_args), **{name: getattr(config, name) for name in names}}
    return plan_values({**plan, "model": fingerprint_weights(student)})


def check_count(output: Path, rounds: int) -> None:
    """Raises a `ValueError` if the folder has finished more rounds: its model is the student of the last one."""
    finished = rounds
    while RoundFolder(output, finished + 1).student.exists():
        finished += 1
    if finished > rounds:
        raise ValueError(f"{output} holds {finished} finished rounds: give --rounds {finished} or more.")


def check_prompts(folder: RoundFolder, fingerprint: str) -> None:
    """Raises a `ValueError` if a finished round has decoded other prompts than it would now."""
    before = Parts.open(folder.trajectories).plan["settings"]
    compare_plans({"rows": before["rows"]}, {"rows": fingerprint}, folder.path, f"its prompts differ; {REMEDY}")


def publish(student: Path, output: Path) -> None:
    """
    Copies the student of the last round to the output folder. Its config.json is removed first and comes last, so that
    what an interrupted copy leaves is not a model.

    Args:
        student (`Path`): The student.
        output (`Path`): The folder; the student of an earlier round in it is replaced.

    Raises:
        `OSError`: If it cannot be written.
    """
    files = sorted(
        (path for path in student.rglob("*") if path.is_file()), key=lambda path: path.name == "config.json"
    )
    copies = [output / path.relative_to(student) for path in files]
    if all(copy.exists() and filecmp.cmp(path, copy, shallow=False) for path, copy in zip(files, copies, strict=True)):
        return
    (output / "config.json").unlink(missing_ok=True)
    for path, copy in zip(files, copies, strict=True):
        with whole_file(copy) as unfinished:
            shutil.copyfile(path, unfinished)
