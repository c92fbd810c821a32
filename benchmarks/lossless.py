"""What drafts save and cost: a preset, and the same with `draft_states`, on the same problems in one run.

The ways of decoding take turns batch by batch, so that a change of the machine's pace hits all of them. Every text is
compared, token by token, with that of the preset alone in the same batch; that of the preset alone in a larger batch
with the first batch size. A run of its own counts ties of the preset alone: decisions of a row in a forward that
rounding may turn around.

- A tie of scores: the decision would be another one if every accepted score were lower and every refused one higher by
  half of a tie, so that two whose difference is a tie change places. It is an absolute difference in the unit of the
  score (a probability, or nats).
- A tie of tokens: the two largest logits of a committed position differ by at most a tie, absolutely.

The result file is written after each batch; a row that is not finished has fewer `problems` than were asked for.

    python -m benchmarks.lossless --model teacher --presets llada dparallel --json docs/results/lossless.json
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.machine import describe_machine
from d3llm.common.files import check_writable, write_atomically
from d3llm.common.fingerprints import fingerprint_checkpoint
from d3llm.evaluation.batches import DecodedBatch, DecodedRow, generate_in_batches, resolve_generation_config
from d3llm.evaluation.tasks import SPLITS
from d3llm.generation import decoding_run
from d3llm.generation.selection import select
from d3llm.modeling.loading import load_model, load_tokenizer
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.problem import generate_problems
from d3llm.quickstart.stories.task import STORIES


SHIPPED = ("teacher", "student")


@dataclass
class Ties:
    """
    While it is entered, counts the ties of runs without drafts.

    Attributes:
        within (`float`): The largest absolute difference that is a tie.
        forwards (`int`): Decisions: forwards, counted for each row.
        scores, tokens, either (`int`): Those with a tie of scores, of tokens, of one or the other.
    """

    within: float
    forwards: int = 0
    scores: int = 0
    tokens: int = 0
    either: int = 0

    def __enter__(self) -> "Ties":
        run_class = decoding_run.DecodingRun
        self.methods = propose, selected = run_class.propose, run_class.select

        def watched_propose(run, states):
            self.gaps = self._gaps(run, states)
            return propose(run, states)

        def watched_select(run, proposal):
            accepted = selected(run, proposal)
            self._count(run, proposal, accepted)
            return accepted

        run_class.propose, run_class.select = watched_propose, watched_select  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        run_class = decoding_run.DecodingRun
        run_class.propose, run_class.select = self.methods  # type: ignore[method-assign]

    def summary(self) -> dict[str, float | int]:
        """For the result file."""
        names = ("within", "forwards", "scores", "tokens", "either")
        return {name: getattr(self, name) for name in names}

    @staticmethod
    def _gaps(run: Any, states: torch.Tensor) -> Any:
        """What lies between the two largest logits of each candidate (B, K)."""
        gaps = []
        for logits in run.logits_in_parts(states):
            logits[:, run.special.mask] = -torch.inf
            best = logits.topk(2, dim=-1).values.float()
            gaps.append(best[:, 0] - best[:, 1])
        return torch.cat(gaps).view(states.shape[:2]).numpy(force=True)

    def _count(self, run: Any, proposal: Any, accepted: Any) -> None:
        def decision(proposal: Any) -> Any:
            return select(proposal, run.positions, run.eligible, run.canvas, run.config)

        made = decision(proposal)
        nudge = (0.5 - made) * self.within  # in float64: it may be less than what a score in float32 resolves
        nudged = replace(proposal, score=proposal.score + nudge, forced_score=proposal.forced_score + nudge)
        scores = (decision(nudged) != made).any(axis=1)
        tokens = (accepted & (self.gaps <= self.within)).any(axis=1)
        self.forwards += len(scores)
        self.scores += int(scores.sum())
        self.tokens += int(tokens.sum())
        self.either += int((scores | tokens).sum())


@dataclass
class Way:
    """
    A way of decoding, and what it took so far.

    Attributes:
        fields (`dict[str, Any]`): Its arguments of `generate()`.
        decoded (`list[DecodedRow]`): What it decoded.
        differing (`list[dict[str, str]]`): The problems whose tokens are others than they should be, with both texts.
        seconds (`float`): Inside `generate()`.
        ties (`list[dict[str, Any]]`, *optional*): See [`Ties`]; of the preset alone at the first batch size.
    """

    fields: dict[str, Any]
    decoded: list[DecodedRow] = field(default_factory=list)
    differing: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    ties: list[dict[str, Any]] | None = None

    def add(self, batch: DecodedBatch, expected: dict[int, DecodedRow], names: list[str]) -> None:
        """Adds what a batch became; `expected` are the rows that it should be, by number of the problem."""
        self.seconds += batch.seconds
        self.decoded += batch.rows
        for row in batch.rows:
            if row.token_ids != expected[row.index].token_ids:
                texts = {"expected": expected[row.index].text, "text": row.text}
                self.differing.append({"problem": names[row.index], **texts})

    def summary(self) -> dict[str, Any]:
        """The figures of a row of the result file."""
        sums = {
            name: sum(getattr(row, name) for row in self.decoded)
            for name in ("tokens", "forwards", "row_forwards", "assistant_forwards")
        }
        ties = {} if self.ties is None else {"ties": self.ties}
        return {
            "problems": len(self.decoded),
            **sums,
            "tokens_per_forward": sums["tokens"] / sums["forwards"],
            "seconds": self.seconds,
            "tokens_per_second": sums["tokens"] / self.seconds,
            "identical": 1 - len(self.differing) / len(self.decoded),
            "differing": self.differing,
            **ties,
        }


def side_by_side(
    model: Any, tokenizer: Any, prompts: list[str], names: list[str], ways: list[Way], batch_size: int, first: Way
) -> Iterator[None]:
    """
    Decodes the prompts in all ways, a batch in one way after another; yields after each batch.

    Args:
        model, tokenizer: The model.
        prompts, names (`list[str]`): The problems.
        ways (`list[Way]`): The first one is without drafts: the others should have its texts.
        batch_size (`int`): Prompts per batch.
        first (`Way`): Without drafts at the first batch size: its texts are those of the first way.
    """
    runs = [
        generate_in_batches(model, tokenizer, prompts, batch_size=batch_size, chat=STORIES.chat, **way.fields)
        for way in ways
    ]
    for batches in zip(*runs, strict=True):  # the generators take turns
        plain = {row.index: row for row in batches[0].rows}
        for way, batch in zip(ways, batches, strict=True):
            alone = plain if way is not ways[0] or way is first else {row.index: row for row in first.decoded}
            way.add(batch, alone, names)
        yield


def measure(
    model: Any, tokenizer: Any, args: argparse.Namespace, assistant: Any = None
) -> Iterator[list[dict[str, Any]]]:
    """The rows of the result file, after each batch."""
    problems = generate_problems(args.split, args.problems, args.seed)
    prompts, names = [problem.question for problem in problems], [str(index) for index in range(len(problems))]
    finished: list[dict[str, Any]] = []
    for preset in args.presets:
        first = None
        for batch_size in args.batch_sizes:
            ways = [Way({**decoding(args, preset), "draft_states": states}) for states in (1, *args.states)]
            if assistant is not None:
                ways += [Way({**way.fields, "assistant_model": assistant}) for way in ways[1:]]
            first = first or ways[0]
            for way in ways:  # warm-up
                model.generate(torch.ones(1, 4, dtype=torch.long), **way.fields)
            rows: list[dict[str, Any]] = []
            for _ in side_by_side(model, tokenizer, prompts, names, ways, batch_size, first):
                rows = [row_of(args, preset, batch_size, way) for way in ways]
                yield [*finished, *rows]
            if ways[0] is first:
                options = {"batch_size": batch_size, "chat": STORIES.chat, **first.fields}
                with ExitStack() as stack:
                    ties = [stack.enter_context(Ties(within)) for within in args.ties]
                    for _ in generate_in_batches(model, tokenizer, prompts, **options):
                        pass
                first.ties = [each.summary() for each in ties]
                rows = [row_of(args, preset, batch_size, way) for way in ways]
                yield [*finished, *rows]
            finished += rows


def row_of(args: argparse.Namespace, preset: str, batch_size: int, way: Way) -> dict[str, Any]:
    """A row of the result file."""
    settings = {"preset": preset, "cache": args.cache or "own", "draft_states": way.fields["draft_states"]}
    if "assistant_model" in way.fields:
        settings["assistant"] = model_folder(args.assistant).name
    return {"model": model_folder(args.model).name, **settings, "batch_size": batch_size, **way.summary()}


def decoding(args: argparse.Namespace, preset: str) -> dict[str, Any]:
    """The arguments of `generate()` of a preset."""
    cache = {} if args.cache is None else {"cache": args.cache}
    threshold = {} if args.threshold is None else {"threshold": args.threshold}
    return {"preset": preset, "max_new_tokens": args.new_tokens, **cache, **threshold}


def model_folder(name: str) -> Path:
    return checkpoint_path(name) if name in SHIPPED else Path(name)


def write_result(args: argparse.Namespace, rows: list[dict[str, Any]], weights: str) -> None:
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    result = {"rows": rows, "settings": {**settings, "weights": weights, "repeats": 1}, "machine": describe_machine()}
    write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())


def line_of(row: dict[str, Any]) -> str:
    """A row on the terminal."""
    ties = row.get("ties")
    assisted = (
        f", {row['assistant']} as assistant ({row['assistant_forwards']} forwards)" if "assistant" in row else ""
    )
    told = "".join(f", ties within {t['within']:g} in {t['either']} of {t['forwards']}" for t in ties or ())
    return (
        f"{row['model']} {row['preset']}, {row['draft_states']} states{assisted}, batch {row['batch_size']}: "
        f"{row['problems']} problems, {row['forwards']} forwards ({row['row_forwards']} row forwards), "
        f"TPF {row['tokens_per_forward']:.2f}, {row['seconds']:.1f} s, TPS {row['tokens_per_second']:.0f}, "
        f"identical {row['identical']:.1%}{told}"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="teacher", help="teacher, student, or a checkpoint folder (default: teacher)"
    )
    parser.add_argument("--assistant", help="drafts too, with `assistant_model`: teacher, student, or a folder")
    parser.add_argument("--presets", nargs="+", default=["llada"], help="each without drafts and with them")
    parser.add_argument("--threshold", type=float, help="threshold of the presets (default: their own)")
    parser.add_argument("--cache", help="one that is exact for the model (default: the preset's own)")
    parser.add_argument(
        "--states", nargs="+", type=int, default=[2, 4, 8, 16], help="values of `draft_states`, 2 to 64"
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--problems", type=int, default=32, help="number of problems of the task `stories` (default: 32)"
    )
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems")
    parser.add_argument("--new-tokens", type=int, default=STORIES.max_new_tokens)
    parser.add_argument("--ties", nargs="+", type=float, default=[1e-5, 1e-6, 1e-7], help="differences that are ties")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for name in ("states", "batch_sizes", "problems", "new_tokens", "threads"):
        values, least = getattr(args, name), 2 if name == "states" else 1
        if any(value < least for value in (values if isinstance(values, list) else [values])):
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {values}")
    if not all(math.isfinite(tie) and tie >= 0 for tie in args.ties):
        parser.error(f"--ties must be numbers from 0 on, got {args.ties}")
    for name in ("model", "assistant"):
        given = getattr(args, name)
        if given is not None and not (model_folder(given) / "config.json").is_file():
            parser.error(f"--{name}: no checkpoint in {given}: give teacher, student or a folder with a config.json")
    return args


def main() -> None:
    args = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    try:
        if args.json is not None:
            check_writable(args.json)
        folder = model_folder(args.model)
        model, tokenizer = load_model(folder).eval(), load_tokenizer(folder)
        assistant = None if args.assistant is None else load_model(model_folder(args.assistant)).eval()
        for preset in args.presets:
            for states in (1, *args.states):  # refused before anything is decoded
                resolve_generation_config(model, [1], **decoding(args, preset), draft_states=states)
    except (OSError, ValueError) as error:
        sys.exit(f"lossless: error: {error}")
    weights, rows = fingerprint_checkpoint(folder), []
    for rows in measure(model, tokenizer, args, assistant):
        if args.json is not None:
            write_result(args, rows, weights)
    for row in rows:
        print(line_of(row))
    different = sum(len(row["differing"]) for row in rows)
    if different:
        sys.exit(f"lossless: {different} texts differ from those of the preset alone, see `differing` of each row")


if __name__ == "__main__":
    main()
