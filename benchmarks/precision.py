"""What bfloat16 and int8 cost in accuracy and save in time: the quickstart models over test problems.

int8 is PyTorch's dynamic quantisation of the linear layers, the head included: weights in int8, activations per batch.
The time is that of one thread inside `generate()`; bfloat16 pays only where the CPU has instructions for it.

    python -m benchmarks.precision --json docs/results/precision.json
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from benchmarks.machine import describe_machine
from d3llm.common.files import write_atomically
from d3llm.evaluation import evaluate_decoding
from d3llm.modeling.loading import load_model, load_tokenizer
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.problems import extract_answer, generate_problems


def quantised(model: PreTrainedModel) -> PreTrainedModel:
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


PRECISIONS: dict[str, Callable[[PreTrainedModel], PreTrainedModel]] = {
    "float32": lambda model: model.float(),
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "int8": quantised,
}


def measure(name: str, precision: str, count: int, seed: int, batch_size: int) -> dict[str, Any]:
    folder = checkpoint_path(name)
    model = PRECISIONS[precision](load_model(folder, dtype="float32"))
    problems = generate_problems("test", count, seed)
    result = evaluate_decoding(
        model,
        load_tokenizer(folder),
        [problem.question for problem in problems],
        lambda index, text: extract_answer(text) == problems[index].answer,
        batch_size=batch_size,
        preset="d3llm",
        max_new_tokens=96,
    )
    return {
        "model": name,
        "precision": precision,
        "problems": count,
        "seed": seed,
        "batch_size": batch_size,
        "accuracy": result.accuracy,
        "accuracy_interval": list(result.accuracy_interval),
        "tokens_per_forward": result.tokens_per_forward,
        "tokens_per_second": result.tokens_per_second,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = []
    for name in ("teacher", "student"):
        for precision in PRECISIONS:
            rows.append(measure(name, precision, args.problems, args.seed, args.batch_size))
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        report = {"rows": rows, "machine": describe_machine()}
        write_atomically(args.json, json.dumps(report, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
