"""What bfloat16, int8 and int4 cost in accuracy and save in time: the quickstart models over test problems.

"int8 dynamic" is PyTorch's quantisation of the linear layers and the head: weights in int8, activations per batch.
The others quantise the weights alone and keep the head, by torchao and bitsandbytes where these are installed. torchao
has int4 kernels for GPUs only: on a CPU it computes with int4 values that are stored as bytes. The time is that of one
thread inside `generate()`; bfloat16 pays only where the CPU has instructions for it.

    python -m benchmarks.precision --json docs/results/precision.json
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig
from transformers.utils import logging

from benchmarks.machine import describe_machine
from d3llm.common.files import write_atomically
from d3llm.evaluation import evaluate_decoding
from d3llm.modeling.loading import load_model, load_tokenizer
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.checker import is_right
from d3llm.quickstart.stories.problem import generate_problems
from d3llm.quickstart.stories.task import STORIES


LIBRARIES = ("torchao", "bitsandbytes")
GROUP = 32  # weights with a common scale, in int4 of torchao; bitsandbytes has 64


def dynamic_int8(folder: Path) -> PreTrainedModel:
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize_dynamic(load_model(folder, dtype="float32"), {torch.nn.Linear}, dtype=torch.qint8)


def torchao_int8(folder: Path) -> PreTrainedModel:
    from torchao.quantization import Int8WeightOnlyConfig

    return load_model(folder, dtype="float32", quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))


def torchao_int4(folder: Path) -> PreTrainedModel:
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    values = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(GROUP))
    return load_model(folder, dtype="float32", quantization_config=TorchAoConfig(values))


def bitsandbytes_int8(folder: Path) -> PreTrainedModel:
    return load_model(folder, dtype="float32", quantization_config=BitsAndBytesConfig(load_in_8bit=True))


def bitsandbytes_nf4(folder: Path) -> PreTrainedModel:
    values = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return load_model(folder, dtype="float32", quantization_config=values)


PRECISIONS: dict[str, Callable[[Path], PreTrainedModel]] = {
    "float32": lambda folder: load_model(folder, dtype="float32"),
    "bfloat16": lambda folder: load_model(folder, dtype="bfloat16"),
    "int8 dynamic": dynamic_int8,
    "int8 torchao": torchao_int8,
    "int4 torchao": torchao_int4,
    "int8 bitsandbytes": bitsandbytes_int8,
    "nf4 bitsandbytes": bitsandbytes_nf4,
}


def measure(name: str, precision: str, count: int, seed: int, batch_size: int) -> dict[str, Any]:
    folder = checkpoint_path(name)
    model = PRECISIONS[precision](folder)
    problems = generate_problems("test", count, seed)
    result = evaluate_decoding(
        model,
        load_tokenizer(folder),
        [problem.question for problem in problems],
        lambda index, text: is_right(problems[index], text),
        batch_size=batch_size,
        preset="d3llm",
        max_new_tokens=STORIES.max_new_tokens,
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
    installed = {library: version(library) for library in LIBRARIES if find_spec(library)}
    skipped = [precision for precision in PRECISIONS if {precision.split()[-1]} & set(LIBRARIES) - set(installed)]
    if skipped:
        sys.stderr.write(f"Not measured, since the package is not installed: {', '.join(skipped)}\n")
    rows = []
    for name in ("teacher", "student"):
        for precision in [precision for precision in PRECISIONS if precision not in skipped]:
            rows.append(measure(name, precision, args.problems, args.seed, args.batch_size))
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        report = {"rows": rows, "machine": describe_machine() | installed}
        write_atomically(args.json, json.dumps(report, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
