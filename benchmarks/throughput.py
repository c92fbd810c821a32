"""How long a user waits: seconds for the problems of a task, a teacher with one token per forward and its student as
it is shipped, one by one and in batches, without and with a cache, in one run.

The ways take turns, round by round. A round is a batch of the largest size, of prompts of similar length, which each
way decodes in batches of its own size: so all decode the same problems, and a change of the machine's pace hits all
alike. Who comes first in a round changes from one to the next. Seconds are those inside `generate()`. Each way decodes
a batch before the first round, which does not count.

A round is kept as soon as all ways have decoded it, in `NAME.rounds.jsonl` beside the result file. The same command
resumes after the last one, on the same kind of machine.

    python -m benchmarks.throughput --task stories --json docs/results/throughput.json
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from typing_extensions import TypedDict

from benchmarks.introspective import interval
from benchmarks.lossless import SHIPPED, model_folder
from benchmarks.machine import describe_machine
from benchmarks.tables import render
from d3llm.common.files import write_atomically
from d3llm.common.fingerprints import fingerprint_checkpoint
from d3llm.evaluation.batches import batch_indices, decoding_fields, generate_in_batches, resolve_generation_config
from d3llm.evaluation.decoding import wilson_interval
from d3llm.evaluation.result import Count, Rate
from d3llm.evaluation.results_file import ResultsFile
from d3llm.evaluation.tasks import SPLITS, Sample, Task
from d3llm.generation import PRESETS
from d3llm.modeling.loading import load_model, load_tokenizer
from d3llm.quickstart.stories import task as stories


TASKS = {task.name: task for task in stories.TASKS}
SEED = 0  # with which the tasks draw their problems
TEACHER, STUDENT = SHIPPED


@dataclass(frozen=True)
class Way:
    """
    A way of decoding.

    Attributes:
        model (`str`): `"teacher"` or `"student"`.
        cache (`str`): Name of the cache.
        batch_size (`int`): Prompts per batch.
    """

    model: str
    cache: str
    batch_size: int


class Spent(TypedDict):
    """What a way took for a round, and how many of its answers are right."""

    seconds: Rate
    tokens: Count
    forwards: Count
    correct: Count


class Round(TypedDict):
    """A line of the file of rounds: its number from 0, and what each way took."""

    id: Count
    ways: list[Spent]


@dataclass
class Subject:
    """
    A model with its prompts.

    Attributes:
        model (`PreTrainedModel`): The model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        prompts (`list[list[int]]`): The prompt of each problem, as it encodes them.
        fields (`dict[str, Any]`): Arguments of `generate()`, the cache apart.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: list[list[int]]
    fields: dict[str, Any]

    def decoding(self, cache: str) -> dict[str, Any]:
        """All fields that its texts depend on, with a cache."""
        lengths = [len(prompt) for prompt in self.prompts]
        config = resolve_generation_config(self.model, lengths, cache=cache, **self.fields)
        return {"preset": config.preset, **decoding_fields(config)}

    def decode(self, way: Way, indices: Sequence[int], samples: Sequence[Sample], task: Task) -> Spent:
        """Decodes these problems in a way."""
        prompts = [self.prompts[index] for index in indices]
        spent = Spent(seconds=0.0, tokens=0, forwards=0, correct=0)
        for batch in generate_in_batches(
            self.model, self.tokenizer, prompts, batch_size=way.batch_size, cache=way.cache, **self.fields
        ):
            spent["seconds"] += batch.seconds
            for row in batch.rows:
                spent["tokens"] += row.tokens
                spent["forwards"] += row.forwards
                spent["correct"] += task.check(samples[indices[row.index]], row.text)
        return spent


def load_subject(folder: Path, task: Task, samples: Sequence[Sample], **fields: Any) -> Subject:
    """A checkpoint and the prompts of the samples."""
    model, tokenizer = load_model(folder).eval(), load_tokenizer(folder)
    return Subject(model, tokenizer, [task.encode(tokenizer, sample) for sample in samples], fields)


def measure(
    subjects: dict[str, Subject], ways: Sequence[Way], rounds: dict[int, list[int]], samples: list[Sample], task: Task
) -> Iterator[Round]:
    """
    Decodes the rounds in all ways.

    Args:
        subjects (`dict[str, Subject]`): The models by name.
        ways (`Sequence[Way]`): The ways.
        rounds (`dict[int, list[int]]`): Indices of the problems of each round by its number.
        samples (`list[Sample]`): The problems.
        task ([`Task`]): Checks the answers.

    Yields:
        [`Round`]: What a round took.
    """
    for way in ways if rounds else ():  # warm-up
        first = next(iter(rounds.values()))
        subjects[way.model].decode(way, first[: way.batch_size], samples, task)
    for number, indices in rounds.items():
        turn = number % len(ways)
        spent = {way: subjects[way.model].decode(way, indices, samples, task) for way in (*ways[turn:], *ways[:turn])}
        yield Round(id=number, ways=[spent[way] for way in ways])


def rows_of(ways: Sequence[Way], rounds: Sequence[Round], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """
    The rows of the result file.

    Args:
        ways (`Sequence[Way]`): The ways.
        rounds (`Sequence[Round]`): What each round took, in their order.
        settings (`dict[str, Any]`): With the number of prompts and the decoding of the models.

    Returns:
        `list[dict[str, Any]]`: A row per way. `times_faster` is the time of the teacher with the same batch size and
        cache over its own, with a 95 % interval by resampling the rounds.
    """
    columns = {
        way: {name: [round["ways"][place][name] for round in rounds] for name in Spent.__annotations__}  # type: ignore[literal-required]
        for place, way in enumerate(ways)
    }
    count, rows = settings["prompts"], []
    for way, column in columns.items():
        sums = {name: sum(values) for name, values in column.items()}
        teacher = columns[Way(TEACHER, way.cache, way.batch_size)]["seconds"]
        rows.append(
            {
                **asdict(way),
                "preset": settings["models"][way.model]["decoding"][way.cache]["preset"],
                "problems": count,
                "rounds": len(rounds),
                "seconds": sums["seconds"],
                "tokens": sums["tokens"],
                "forwards": sums["forwards"],
                "tokens_per_forward": sums["tokens"] / sums["forwards"],
                "tokens_per_second": sums["tokens"] / sums["seconds"],
                "times_faster": sum(teacher) / sums["seconds"],
                "times_faster_interval": interval(np.array(teacher), np.array(column["seconds"])),
                "accuracy": sums["correct"] / count,
                "accuracy_interval": list(wilson_interval(sums["correct"], count)),
            }
        )
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=TEACHER, help="teacher, student, or a checkpoint folder")
    parser.add_argument("--student", default=STUDENT, help="likewise, with its own generation config")
    parser.add_argument(
        "--preset", choices=PRESETS, help="preset of the teacher (default: as its generation config says)"
    )
    parser.add_argument("--task", choices=TASKS, default=stories.STORIES.name)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16], help="each divides the largest")
    parser.add_argument("--caches", nargs="+", default=["none", "block"])
    parser.add_argument("--new-tokens", type=int, help="default: as many as the task says")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", "--output", type=Path, default=Path("docs/results/throughput.json"), dest="json")
    parser.add_argument("--overwrite", action="store_true", help="start again if there are rounds")
    args = parser.parse_args()
    for name in ("problems", "batch_sizes", "new_tokens", "threads"):
        values = getattr(args, name)
        if values is not None and min(values if isinstance(values, list) else [values]) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {values}")
    if any(max(args.batch_sizes) % size for size in args.batch_sizes):
        parser.error(
            f"--batch-sizes must all divide the largest, got {args.batch_sizes}: the others would have a rest"
        )
    for name in ("teacher", "student"):
        if not (model_folder(getattr(args, name)) / "config.json").is_file():
            parser.error(f"--{name}: no checkpoint in {getattr(args, name)}: give a folder with a config.json")
    return args


def main() -> None:
    args = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    try:
        result = run(args)
    except (OSError, ValueError) as error:
        sys.exit(f"throughput: error: {error}")
    write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
    print(render(result))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Decodes the rounds that are missing, and returns the content of the result file."""
    task = TASKS[args.task]
    samples = task.load(None, args.split, args.problems)
    new_tokens = args.new_tokens or task.max_new_tokens
    folders = {TEACHER: model_folder(args.teacher), STUDENT: model_folder(args.student)}
    own: dict[str, dict[str, Any]] = {TEACHER: {"preset": args.preset} if args.preset else {}, STUDENT: {}}
    subjects = {
        name: load_subject(folder, task, samples, max_new_tokens=new_tokens, **own[name])
        for name, folder in folders.items()
    }
    ways = [Way(*each) for each in product(subjects, dict.fromkeys(args.caches), dict.fromkeys(args.batch_sizes))]
    settings = {
        **{name: getattr(args, name) for name in ("task", "split", "batch_sizes", "caches", "threads")},
        "prompts": len(samples),
        "new_tokens": new_tokens,
        "seed": SEED,
        "models": {name: facts_of(subject, folders[name], args.caches) for name, subject in subjects.items()},
    }
    machine = describe_machine()
    lengths = [len(prompt) for prompt in subjects[TEACHER].prompts]
    rounds = dict(enumerate(batch_indices(lengths, max(args.batch_sizes))))
    file = args.json.with_suffix(".rounds.jsonl")
    keys, plan = [(number, 0) for number in rounds], {**settings, "machine": machine}
    with ResultsFile(file, keys, plan, overwrite=args.overwrite, kind=Round) as results:
        missing = {number: indices for number, indices in rounds.items() if (number, 0) not in results.lines}
        for done in measure(subjects, ways, missing, samples, task):
            results.append([dict(done)])
            seconds = ", ".join(f"{spent['seconds']:.1f}" for spent in done["ways"])
            sys.stderr.write(f"round {done['id'] + 1} of {len(rounds)}: {seconds} s\n")
        results.finish()
        measured = [json.loads(line) for line in results.lines.values()]
    return {"rows": rows_of(ways, measured, settings), "settings": settings, "machine": machine}


def facts_of(subject: Subject, folder: Path, caches: Sequence[str]) -> dict[str, Any]:
    """What the results of a model depend on, for the result file."""
    return {
        "name": folder.name,
        "weights": fingerprint_checkpoint(folder),
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "decoding": {cache: subject.decoding(cache) for cache in caches},
    }


if __name__ == "__main__":
    main()
