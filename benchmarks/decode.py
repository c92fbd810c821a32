"""What decoding costs besides its forwards, with the presets as they are: thresholds, forced progress, early stop.

    python -m benchmarks.decode --model random-4m                     # seconds
    python -m benchmarks.decode --presets d3llm --caches own block    # 168 M parameters, LLaDA's vocabulary: minutes
    python -m benchmarks.decode --model student --batch-sizes 1 4 16 --json docs/results/decode_student.json

`llada`, `dream`, `dream_origin` and `dkv_cache` take a forward per token: give them a small `--new-tokens`. The
columns are explained in benchmarks/README.md. A sharpness of 9 was found by trying 6 to 14 on one prompt.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from benchmarks.machine import describe_machine
from benchmarks.measuring import compare_with_single_rows, measure
from benchmarks.subjects import MODELS, make_prompts
from d3llm.common.files import write_atomically
from d3llm.generation import PRESETS


COLUMNS = {  # title: field of a row, format
    "tokens/s": ("tokens_per_second", "{:.1f}"),
    "forwards": ("forwards", "{:.0f}"),
    "TPF": ("tokens_per_forward", "{:.2f}"),
    "ms/forward": ("milliseconds_per_forward", "{:.1f}"),
    "overhead": ("overhead", "{:.2f}"),
    "head": ("share_of_head", "{:.0%}"),
    "work/need": ("work_over_need", "{:.2f}"),
    "rebuilds": ("share_of_rebuilds", "{:.0%}"),
    "kernels": ("kernels_per_forward", "{:.0f}"),
    "reads": ("host_reads_per_forward", "{:.2f}"),
    "MiB": ("peak_memory_mib", "{:.0f}"),
    "/single": ("time_over_single_rows", "{:.2f}"),
}


def main() -> None:
    args = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    model = MODELS[args.model](args.sharpness, args.seed)
    console, rows = Console(width=160), []
    for dtype, batch in product(args.dtypes, args.batch_sizes):
        model = model.to(getattr(torch, dtype))
        ragged = batch > 1 if args.ragged is None else args.ragged
        prompts = make_prompts(args.model, model, batch, args.prompt_length, ragged, args.seed)
        for preset, cache in product(args.presets, args.caches):
            arguments: dict[str, Any] = {"preset": preset, "max_new_tokens": args.new_tokens, "seed": args.seed}
            if cache != "own":
                arguments["cache"] = cache
            try:
                cost = measure(model, prompts, args.repeats, **arguments)
            except ValueError as error:  # such as a cache that a preset's attention has no use for
                console.print(f"skipped {preset} with cache {cache}: {error}", highlight=False)
                continue
            row = {"preset": preset, "cache": cache, "dtype": dtype, "batch_size": batch, "ragged": ragged}
            row |= cost.summary()
            if args.single and batch > 1:
                row |= compare_with_single_rows(model, prompts, args.repeats, **arguments)
            rows.append(row)
            console.print(f"{preset}, cache {cache}, {dtype}, batch {batch}: {cells(row)}", highlight=False)
            if args.json:  # after every row: a long run that is interrupted keeps what it has
                write_result(args, rows)
    console.print(table_of(args, rows))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="random-168m")
    fitting = [name for name, preset in PRESETS.items() if preset.values.get("attention") != "causal"]
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=fitting)
    parser.add_argument("--caches", nargs="+", default=["own"], help="own = the preset's; none, prefix, dual, ...")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--prompt-length", type=int, default=64, help="length of the longest random prompt")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--ragged", action=argparse.BooleanOptionalAction, help="default: in batches")
    parser.add_argument("--single", action="store_true", help="also decode the rows of a batch one by one")
    parser.add_argument("--sharpness", type=float, default=9.0, help="standard deviation of random models' logits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def cells(row: dict[str, Any]) -> str:
    return ", ".join(f"{title} {cell(row, title)}" for title in COLUMNS)


def cell(row: dict[str, Any], title: str) -> str:
    field, form = COLUMNS[title]
    return "-" if row.get(field) is None else form.format(row[field])


def table_of(args: argparse.Namespace, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{args.model}, {args.new_tokens} new tokens, {args.threads} threads, {args.repeats} repeats")
    for name in ("preset", "cache", "dtype", "batch"):
        table.add_column(name)
    for title in COLUMNS:
        table.add_column(title, justify="right")
    for row in rows:
        numbers = [cell(row, title) for title in COLUMNS]
        table.add_row(row["preset"], row["cache"], row["dtype"], str(row["batch_size"]), *numbers)
    return table


def write_result(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    result = {"rows": rows, "settings": settings, "machine": describe_machine()}
    write_atomically(args.json, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
