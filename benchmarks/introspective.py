"""A causal model and its drafter beside the model alone, on the same prompts in one run.

The ways of decoding take turns prompt by prompt, greedily: plain `generate()`, the drafter, prompt lookup of
transformers, and its assisted generation by an early exit of the model itself. Forwards are those that reach the last
layer. Every text is compared with the plain one token by token: one that differs is an error.

Prompts are questions of GSM8K's test split, descriptions of MBPP's test split, and `instructions.txt`, as many of
each, drawn with the seed. The result file is written after each prompt.

    python -m benchmarks.introspective --base MODEL --drafter DRAFTER --gsm8k test.jsonl --mbpp mbpp.jsonl \
        --json docs/results/introspective.json
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from benchmarks.machine import describe_machine
from d3llm import IntrospectiveModel
from d3llm.common.files import check_writable, write_atomically


INSTRUCTIONS = Path(__file__).with_name("instructions.txt")
MBPP_TEST = range(11, 511)  # ids, as its authors divide it
WAYS = ("plain", "drafter", "prompt lookup", "early exit")


@dataclass
class Way:
    """
    A way of decoding, and what it took so far.

    Attributes:
        run (`Callable`): From the inputs to the ids of the whole text (T,), and its output if it has more to tell.
        tokens, forwards, rows (`int`): New tokens, forwards to the last layer, and rows of those of the drafter.
        seconds (`float`): Inside `generate()`, the prompt's forward too.
        differing (`list[str]`): Prompts whose text is not the plain one.
        proposed, accepted (`list[int]`): Drafts by their place.
    """

    run: Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, Any]]
    tokens: int = 0
    forwards: int = 0
    rows: int = 0
    seconds: float = 0.0
    differing: list[str] = field(default_factory=list)
    proposed: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def add(self, text: list[int], plain: list[int], forwards: int, seconds: float, output: Any, prompt: str) -> None:
        self.tokens += len(text)
        self.forwards += forwards
        self.seconds += seconds
        self.rows += forwards if output is None else int(output.row_forwards.sum())
        if text != plain:
            self.differing.append(prompt)
        if output is not None:
            for name in ("proposed", "accepted"):
                before, new = getattr(self, name), getattr(output, name)[0].tolist()
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


def make_ways(base: Any, drafted: IntrospectiveModel, args: argparse.Namespace) -> dict[str, Way]:
    options = {"do_sample": False, "max_new_tokens": args.new_tokens}

    def by_transformers(**more: Any) -> Way:
        return Way(lambda inputs: (base.generate(**inputs, **options, **more)[0], None))

    def by_drafter(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Any]:
        output = drafted.generate(
            **inputs,
            **options,
            draft_tokens=args.draft_tokens,
            max_rows=args.max_rows,
            draft_confidence=args.draft_confidence,
            return_dict_in_generate=True,
        )
        return output.sequences[0], output

    ways = {
        "plain": by_transformers(),
        "drafter": Way(by_drafter),
        "prompt lookup": by_transformers(prompt_lookup_num_tokens=args.lookup_tokens),
        "early exit": by_transformers(assistant_early_exit=base.config.num_hidden_layers * 2 // 3),
    }
    return {name: ways[name] for name in ("plain", *args.ways)}


def measure(base: Any, tokenizer: Any, ways: dict[str, Way], prompts: list[tuple[str, str]]) -> Iterator[int]:
    """Decodes the prompts in all ways in turn; yields how many are done, after each."""
    forwards = 0

    def count(*_: Any) -> None:
        nonlocal forwards
        forwards += 1

    handle = base.get_decoder().layers[-1].register_forward_hook(count)
    for number, (_, prompt) in enumerate(prompts, 1):
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        plain: list[int] | None = None
        for way in ways.values():
            forwards, start = 0, time.perf_counter()
            sequence, output = way.run(inputs)
            seconds, text = time.perf_counter() - start, sequence[inputs["input_ids"].shape[1] :].tolist()
            plain = text if plain is None else plain
            way.add(text, plain, forwards, seconds, output, prompt)
        yield number
    handle.remove()


def rows_of(ways: dict[str, Way], done: int) -> list[dict[str, Any]]:
    """The rows of the result file."""
    plain = ways["plain"]
    return [
        {
            "way": name,
            "prompts": done,
            "tokens": way.tokens,
            "forwards": way.forwards,
            "row_forwards": way.rows,
            "tokens_per_forward": way.tokens / way.forwards,
            "seconds": way.seconds,
            "times_faster": plain.seconds / way.seconds,
            "identical": 1 - len(way.differing) / done,
            "differing": way.differing,
            "proposed": way.proposed,
            "accepted": way.accepted,
        }
        for name, way in ways.items()
    ]


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
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--ways", nargs="+", choices=WAYS[1:], default=list(WAYS[1:]), help="beside plain decoding")
    parser.add_argument("--draft-tokens", type=int, help="default: the window of the drafter")
    parser.add_argument("--max-rows", type=int, default=16)
    parser.add_argument("--draft-confidence", type=float, default=0.0)
    parser.add_argument("--lookup-tokens", type=int, default=4, help="of prompt lookup")
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
        base.generation_config.max_length = None
        ways = make_ways(base, IntrospectiveModel.from_pretrained(args.drafter, base), args)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"introspective: error: {error}")
    rows: list[dict[str, Any]] = []
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    for done in measure(base, tokenizer, ways, prompts):
        rows = rows_of(ways, done)
        if args.json is not None:
            result = {"rows": rows, "settings": settings, "machine": describe_machine()}
            write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())
    print(*map(line_of, rows), sep="\n")
    if any(row["differing"] for row in rows):
        sys.exit("introspective: some texts differ from the plain ones, see `differing` of each row")


if __name__ == "__main__":
    main()
