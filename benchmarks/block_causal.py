"""A block-causal student beside the bidirectional one: accuracy, tokens per forward, forwards and seconds, with and
without their caches, on the same problems one by one.

The bidirectional student's cache is approximate; that of the block-causal one is exact, which the run checks: with and
without it the texts of every problem are the same, so accuracy and forwards are.

    python -m benchmarks.block_causal --model runs/block-student --json docs/results/block_causal.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.caches import on_problems
from benchmarks.machine import describe_machine
from d3llm.common.files import write_atomically
from d3llm.quickstart import checkpoint_path


EXACT = {"cache": "block", "cache_delay": 0, "cache_refresh_interval": 1_000_000}
BIDIRECTIONAL: dict[str, dict[str, Any]] = {
    "d3llm, no cache": {"preset": "d3llm"},
    "d3llm, block cache": {"preset": "d3llm", "cache": "block"},
}
BLOCK_CAUSAL: dict[str, dict[str, Any]] = {
    "d3llm, no cache": {"preset": "d3llm"},
    "d3llm, exact cache": {"preset": "d3llm", **EXACT},
    "sdar, no cache": {"preset": "sdar", "cache": "none"},
    "sdar, exact cache": {"preset": "sdar"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the block-causal student")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = []
    for attention, folder, decoders in (
        ("bidirectional", checkpoint_path("student"), BIDIRECTIONAL),
        ("block_causal", args.model, BLOCK_CAUSAL),
    ):
        for decoder, fields in decoders.items():
            measured = on_problems(folder, fields, args.problems, args.split, args.seed)
            rows.append({"attention": attention, "decoder": decoder, **measured})
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        content = {"rows": rows, "machine": describe_machine()}
        write_atomically(args.json, json.dumps(content, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
