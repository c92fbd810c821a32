"""A causal model and its drafter beside the model alone, on the same prompts in one run.

The ways of decoding take turns prompt by prompt, greedily: plain `generate()`, the same with packed weights, the
drafter, prompt lookup of transformers, and its assisted generation by an early exit of the model itself. Forwards are
those that reach the last layer. Each text is compared with the plain one token by token: one that differs is an error.

Prompts are questions of GSM8K's test split, descriptions of MBPP's test split, and `instructions.txt`, as many of
each, drawn with the seed. The result file is written after each prompt.

    python -m benchmarks.introspective --base MODEL --drafter DRAFTER --gsm8k test.jsonl --mbpp mbpp.jsonl \
        --json docs/results/introspective.json
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from benchmarks.machine import describe_machine
from d3llm import IntrospectiveModel
from d3llm.common.files import check_writable, write_atomically
from d3llm.evaluation.greedy_ways import PLAIN, WAYS, GreedyText, GreedyWays


INSTRUCTIONS = Path(__file__).with_name("instructions.txt")
FILES = ("base", "drafter", "gsm8k", "mbpp", "json")  # a result does not tell where they were
RESAMPLED = 2000
MBPP_TEST = range(11, 511)  # ids, as its authors divide it
OTHERS = [way for way in WAYS if way != PLAIN]


@dataclass
class Cost:
    """
    What a way of decoding took so far, prompt by prompt.

    Attributes:
        tokens, forwards, rows (`list[int]`): New tokens, forwards to the last layer, and rows of those of the drafter.
        seconds (`list[float]`): Inside `generate()`, the prompt's forward too.
        differing (`list[str]`): Prompts whose text is not the plain one.
        proposed, accepted (`list[int]`): Drafts by their place, of all prompts.
    """

    tokens: list[int] = field(default_factory=list)
    forwards: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    proposed: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def add(self, text: GreedyText, plain: GreedyText, prompt: str) -> None:
        self.tokens.append(len(text.tokens))
        self.forwards.append(text.forwards)
        self.seconds.append(text.seconds)
        self.rows.append(text.forwards if text.output is None else int(text.output.row_forwards.sum()))
        if text.tokens != plain.tokens:
            self.differing.append(prompt)
        if text.output is not None:
            for name in ("proposed", "accepted"):
                before, new = getattr(self, name), getattr(text.output, name)[0].tolist()
                setattr(self, name, [a + b for a, b in zip(before or [0] * len(new), new, strict=True)])


def draw_prompts(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(kind, prompt), of each kind in turn, so that any number from the start has as many of each."""
    pick = random.Random(args.seed)
    kinds = {"instruction": INSTRUCTIONS.read_text(encoding="utf-8").splitlines()}
    if args.gsm8k is not None:
        kinds["gsm8k"] = [row["question"] for row in read_lines(args.gsm8k)]
    if args.mbpp is not None:
        kinds["mbpp"] = [row["text"] for row in read_lines(args.mbpp) if row["task_id"] in MBPP_TEST]
    each = -(-args.prompts // len(kinds))
    drawn = [[(kind, prompt) for prompt in pick.sample(texts, min(each, len(texts)))] for kind, texts in kinds.items()]
    return [prompt for turn in zip_longest(*drawn) for prompt in turn if prompt is not None][: args.prompts]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measure(ways: GreedyWays, costs: dict[str, Cost], tokenizer: Any, prompts: list[tuple[str, str]]) -> Iterator[int]:
    """Decodes the prompts in all ways in turn; yields how many are done, after each."""
    for number, (_, prompt) in enumerate(prompts, 1):
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        texts = {way: ways.decode(way, inputs) for way in costs}
        for way, text in texts.items():
            costs[way].add(text, texts[PLAIN], prompt)
        yield number


def rows_of(costs: dict[str, Cost], kinds: list[str]) -> list[dict[str, Any]]:
    """The rows of the result file: for each way all prompts, and those of each kind."""
    plain = costs[PLAIN].seconds
    rows = []
    for way, cost in costs.items():
        row = {"way": way, "prompts": len(kinds), **summary(cost, plain, [*range(len(kinds))])}
        of_kind = {kind: [place for place, other in enumerate(kinds) if other == kind] for kind in sorted({*kinds})}
        row["kinds"] = {kind: summary(cost, plain, places) for kind, places in of_kind.items()}
        row |= {"identical": 1 - len(cost.differing) / len(kinds)}
        rows.append(row | {name: getattr(cost, name) for name in ("differing", "proposed", "accepted")})
    return rows


def summary(cost: Cost, plain: list[float], places: list[int]) -> dict[str, Any]:
    """The sums over some prompts, and their ratios with intervals by resampling the prompts."""
    tokens, forwards, seconds, alone = (
        np.array(values)[places] for values in (cost.tokens, cost.forwards, cost.seconds, plain)
    )
    return {
        "tokens": int(tokens.sum()),
        "forwards": int(forwards.sum()),
        "row_forwards": int(np.array(cost.rows)[places].sum()),
        "tokens_per_forward": tokens.sum() / forwards.sum(),
        "tokens_per_forward_interval": interval(tokens, forwards),
        "seconds": seconds.sum(),
        "times_faster": alone.sum() / seconds.sum(),
        "times_faster_interval": interval(alone, seconds),
    }


def interval(above: np.ndarray, below: np.ndarray) -> list[float]:
    """95 % of the ratios of sums over resampled prompts."""
    drawn = np.random.default_rng(0).integers(len(above), size=(RESAMPLED, len(above)))
    return np.quantile(above[drawn].sum(axis=1) / below[drawn].sum(axis=1), [0.025, 0.975]).tolist()


def line_of(row: dict[str, Any]) -> str:
    places = [f"{a / p:.0%}" for a, p in zip(row["accepted"], row["proposed"], strict=True) if p]
    accepted = f", accepted by place {' '.join(places)}" if places else ""
    return (
        f"{row['way']}: {row['prompts']} prompts, {row['tokens']} tokens in {row['forwards']} forwards "
        f"({row['row_forwards']} rows), TPF {row['tokens_per_forward']:.2f}, {row['seconds']:.1f} s "
        f"({row['times_faster']:.2f} times as fast as plain), identical {row['identical']:.1%}{accepted}"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder or Hub name of the causal model")
    parser.add_argument("--drafter", required=True, help="folder of its drafter")
    parser.add_argument("--gsm8k", type=Path, help="JSON lines with `question`")
    parser.add_argument("--mbpp", type=Path, help="JSON lines with `task_id` and `text`")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of prompts")
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--ways", nargs="+", choices=OTHERS, default=OTHERS, help="beside plain decoding")
    parser.add_argument("--draft-tokens", type=int, help="default: the window of the drafter")
    parser.add_argument("--max-rows", type=int, default=16)
    parser.add_argument("--draft-confidence", type=float, default=0.0)
    parser.add_argument("--lookup-tokens", type=int, default=4, help="tokens that prompt lookup drafts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for name in ("prompts", "new_tokens", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    return args


def main() -> None:
    args = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    try:
        if args.json is not None:
            check_writable(args.json)
        prompts = draw_prompts(args)
        tokenizer = AutoTokenizer.from_pretrained(args.base)
        base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).eval()
        ways = GreedyWays(
            IntrospectiveModel.from_pretrained(args.drafter, base),
            max_new_tokens=args.new_tokens,
            lookup_tokens=args.lookup_tokens,
            draft_tokens=args.draft_tokens,
            max_rows=args.max_rows,
            draft_confidence=args.draft_confidence,
        )
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"introspective: error: {error}")
    rows: list[dict[str, Any]] = []
    settings = {name: value for name, value in vars(args).items() if name not in FILES}
    costs = {way: Cost() for way in (PLAIN, *args.ways)}
    for done in measure(ways, costs, tokenizer, prompts):
        rows = rows_of(costs, [kind for kind, _ in prompts[:done]])
        if args.json is not None:
            result = {"rows": rows, "settings": settings, "machine": describe_machine()}
            write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
    print(*map(line_of, rows), sep="\n")
    if any(row["differing"] for row in rows):
        sys.exit("introspective: some texts differ from the plain ones, see `differing` of each row")


if __name__ == "__main__":
    main()
