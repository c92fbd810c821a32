"""The same checkpoint and prompts through published code and through this package: tokens, forwards and time.

    python -m benchmarks.against --fast-dllm ~/Fast-dLLM --python fast-dllm=~/fast-dllm-venv/bin/python
    python -m benchmarks.against --d3llm ~/d3LLM --dllm ~/dllm --python d3llm=... dllm=... --batch-sizes 1 8 \\
        --json docs/results/against_student.json

Each side runs in a process of its own, with a Python that has the transformers of its time (4.49 for d3LLM and
Fast-dLLM, 4.57 for dllm); nothing is changed in the checkouts. The sides take turns, once per repeat. Tokens are
compared up to and including the first EOS where a method stops there, in full otherwise. d3LLM and Fast-dLLM decode
one prompt at a time, so larger batches are compared with dllm alone, whose caches take prompts of one length: such
prompts are the default then.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from benchmarks.machine import describe_machine
from benchmarks.sides import SIDES
from benchmarks.subjects import MODELS, make_prompts
from benchmarks.tables import AGAINST, against_cells
from d3llm.common.files import write_atomically
from d3llm.modeling import LLaDAModelLM


ROOT = Path(__file__).resolve().parent.parent
METHODS = ("llada", "fast_dllm none", "fast_dllm prefix", "fast_dllm dual", "d3llm", "d3llm block")
STOPPING = ("d3llm", "d3llm block")  # they end a row at its first EOS
PUBLISHED = tuple(side for side in SIDES if side != "ours")
Runs = dict[tuple[str, int], dict[str, Any]]  # by method and batch size


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    checkouts = checked_checkouts(args)
    pythons = checked_pythons(args.python)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        job = write_checkpoint(args, Path(scratch))
        rows = compare(args, job, checkouts, pythons, Path(scratch))
    Console(width=140).print(table_of(args, rows))
    if args.json:
        paths = ("json", "python", "checkpoint", *(side.replace("-", "_") for side in PUBLISHED))
        settings = {name: value for name, value in vars(args).items() if name not in paths}
        settings["model"] = args.checkpoint.name if args.checkpoint else args.model
        result = {"rows": rows, "settings": settings, "machine": describe_machine()}
        write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for side in PUBLISHED:
        parser.add_argument(f"--{side}", type=Path, metavar="PATH", help=f"checkout of the published {side}")
    parser.add_argument("--python", nargs="+", default=[], metavar="SIDE=PATH", help="its Python; default: this one")
    parser.add_argument("--model", choices=MODELS, default="student")
    parser.add_argument("--checkpoint", type=Path, help="folder of a LLaDA checkpoint, instead of --model")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--prompt-length", type=int, default=64, help="length of random prompts")
    parser.add_argument("--new-tokens", type=int, default=96, help="a multiple of 32")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--ragged", action=argparse.BooleanOptionalAction, help="default: without larger batches")
    parser.add_argument("--sharpness", type=float, default=9.0, help="standard deviation of random models' logits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def checked_checkouts(args: argparse.Namespace) -> dict[str, Path]:
    """The checkouts that were given, each with the files that it must hold."""
    given = {side: getattr(args, side.replace("-", "_")) for side in PUBLISHED}
    checkouts = {side: path.expanduser().resolve() for side, path in given.items() if path is not None}
    if not checkouts:
        sys.exit(f"give a checkout to compare with: {', '.join('--' + side for side in PUBLISHED)}")
    for side, path in checkouts.items():
        for names in SIDES[side].files:
            if not any((path / name).is_file() for name in names):
                sys.exit(f"--{side} {path} has no {' or '.join(names)}: give the root of a checkout of {side}")
    return checkouts


def checked_pythons(pairs: list[str]) -> dict[str, str]:
    """The Python of each side that has one of its own."""
    pythons = {}
    for pair in pairs:
        side, _, path = pair.partition("=")
        if side not in PUBLISHED or not Path(path).expanduser().is_file():
            sys.exit(f"--python {pair} is not SIDE=PATH of a Python, SIDE being one of {', '.join(PUBLISHED)}")
        pythons[side] = str(Path(path).expanduser().absolute())  # not resolved: a venv's Python is a link
    return pythons


def write_checkpoint(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The checkpoint and the prompts, as every side gets them."""
    if args.checkpoint:
        model = LLaDAModelLM.from_pretrained(args.checkpoint)
    else:
        model = MODELS[args.model](args.sharpness, args.seed)
    name = str(args.checkpoint or args.model)
    ragged = args.batch_sizes == [1] if args.ragged is None else args.ragged
    prompts = make_prompts(name, model, args.prompts, args.prompt_length, ragged, args.seed)
    model.save_pretrained(scratch / "checkpoint")
    config, eos = model.config, model.config.eos_token_id
    return {
        "checkpoint": str(scratch / "checkpoint"),
        "prompts": [prompts.row(index).input_ids[0].tolist() for index in range(args.prompts)],
        "mask": config.mask_token_id,
        "eos": eos if isinstance(eos, int) else eos[0],
        "pad": config.pad_token_id,
        "new_tokens": args.new_tokens,
        "threads": args.threads,
        "methods": args.methods,
        "batch_sizes": args.batch_sizes,
    }


def compare(
    args: argparse.Namespace, job: dict[str, Any], checkouts: dict[str, Path], pythons: dict[str, str], scratch: Path
) -> list[dict[str, Any]]:
    """Rows of the result: each published side beside ours."""
    runs: dict[str, list[Runs]] = {side: [] for side in ("ours", *checkouts)}
    versions = {}
    for _, side in product(range(args.repeats), runs):
        checkout = str(checkouts.get(side, ROOT))
        done = run_side(side, pythons.get(side, sys.executable), job | {"checkout": checkout}, scratch)
        runs[side].append({(run["method"], run["batch_size"]): run for run in done["runs"]})
        versions[side] = done["torch"]
    rows = []
    for side, key in product(checkouts, product(args.methods, args.batch_sizes)):
        if key in runs[side][0]:
            row = {"side": side, "method": key[0], "batch_size": key[1], "theirs_torch": versions[side]}
            ours, theirs = ([repeat[key] for repeat in runs[name]] for name in ("ours", side))
            rows.append(row | compared(ours, theirs, job["eos"] if key[0] in STOPPING else None))
    return rows


def run_side(side: str, python: str, job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """One process of one side."""
    file, output = scratch / "job.json", scratch / "output.json"
    file.write_text(json.dumps(job | {"output": str(output)}))
    command = [python, str(Path(__file__).with_name("sides.py")), side, str(file)]
    done = subprocess.run(command, cwd=job["checkout"], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{side} failed with {python}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(output.read_text())


def compared(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], eos: int | None) -> dict[str, Any]:
    """Tokens, forwards and time of a method on both sides, from their repeats."""
    row: dict[str, Any] = {}
    for name, runs in (("ours", ours), ("theirs", theirs)):
        seconds = [run["seconds"] for run in runs]
        shares = [run["head_seconds"] / run["seconds"] for run in runs]
        row |= {f"{name}_seconds": median(seconds), f"{name}_seconds_spread": [min(seconds), max(seconds)]}
        row |= {f"{name}_forwards": runs[0]["forwards"], f"{name}_positions": runs[0]["positions"]}
        row |= {f"{name}_share_of_head": median(shares)}
    pairs = zip(ours[0]["tokens"], theirs[0]["tokens"], strict=True)
    equal = [until(first, eos) == until(second, eos) for first, second in pairs]
    ratios = [their["seconds"] / our["seconds"] for our, their in zip(ours, theirs, strict=True)]
    return row | {
        "rows": len(equal),
        "rows_with_equal_tokens": sum(equal),
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
    }


def until(tokens: list[int], eos: int | None) -> list[int]:
    """The tokens up to and including the first EOS."""
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def table_of(args: argparse.Namespace, rows: list[dict[str, Any]]) -> Table:
    name = args.checkpoint.name if args.checkpoint else args.model
    table = Table(title=f"{name}, {args.prompts} prompts, {args.new_tokens} new tokens, {args.threads} threads")
    for title in ("side", "method", "batch"):
        table.add_column(title)
    for title in AGAINST:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*against_cells(row))
    return table


if __name__ == "__main__":
    main()
