"""What decoding costs beside the forwards of its transformer.

For each preset: tokens per second, forwards, host reads and dispatched operators per forward, peak memory, and

    overhead = wall time of generate() / wall time of the very same forwards alone

(the same windows, caches and rows of the head, replayed from a recording; the head in one go, as `forward()` runs
it), and "inside", the share of a run's wall time that passes inside the transformer and its head. Weights are random,
so the commit schedule is fixed: every preset keeps its blocks and its cache, and commits a fixed number of tokens per
forward.

    python benchmarks/decode.py                          # about 100 M parameters, LLaDA's vocabulary
    python benchmarks/decode.py --model quickstart --batch-sizes 1 4 16 --json docs/results/decode_quickstart.json
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from host_reads import count_host_reads
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import logging

from d3llm.common.files import write_atomically
from d3llm.generation import PRESETS, CanvasCache
from d3llm.modeling import LLaDAConfig, LLaDAModelLM
from d3llm.quickstart import checkpoint_path


def random_model() -> LLaDAModelLM:
    """A LLaDA of 103 M parameters with the vocabulary of GSAI-ML/LLaDA-8B-Instruct."""
    torch.manual_seed(0)
    config = LLaDAConfig(d_model=512, n_heads=8, n_layers=12, mlp_hidden_size=1408, weight_tying=True)
    return LLaDAModelLM(config)


MODELS: dict[str, Callable[[], LLaDAModelLM]] = {
    "random-100m": random_model,
    "quickstart": lambda: LLaDAModelLM.from_pretrained(checkpoint_path("teacher")),
}


class Watch(TorchDispatchMode):
    """While it is on, times the transformer and its head, keeps the arguments of the former, and counts the operators
    outside of both."""

    def __init__(self, model: LLaDAModelLM, count_operators: bool = False):
        super().__init__()
        self.model, self.count_operators = model, count_operators
        self.calls: list[dict] = []
        self.seconds, self.operators, self.inside = 0.0, 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators += not self.inside
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        self.parts = (self.model, self.model.get_output_embeddings())
        for part in self.parts:
            part.forward = self._watched(part.forward, keep=part is self.model)
        return super().__enter__() if self.count_operators else self

    def __exit__(self, *error):
        for part in self.parts:
            del part.forward
        return super().__exit__(*error) if self.count_operators else None

    def _watched(self, forward: Callable, keep: bool) -> Callable:
        def call(*args, **inputs):
            if keep:
                self.calls.append(inputs)
            self.inside, start = True, time.perf_counter()
            try:
                return forward(*args, **inputs)
            finally:
                self.seconds += time.perf_counter() - start
                self.inside = False

        return call


@torch.no_grad()
def replay(model: LLaDAModelLM, calls: list[dict]) -> float:
    """Seconds for the recorded forwards alone, with a cache of their own where they had one."""
    cache = None
    start = time.perf_counter()
    for inputs in calls:
        if inputs.get("cache") is not None:
            rows = len(inputs["input_ids"])
            if cache is None or cache.layers[0].keys.shape[0] != rows:
                length = inputs["cache"].layers[0].canvas_length
                cache = CanvasCache(model.config.num_hidden_layers, length)
            inputs = inputs | {"cache": cache}
        model(**inputs | {"run_head": True})
    return time.perf_counter() - start


def measure(model: LLaDAModelLM, prompt: torch.Tensor, repeats: int, **arguments) -> dict[str, float]:
    """Cost of one preset: the least of `repeats` timings of generate() and of its forwards."""
    arguments |= {"return_dict_in_generate": True, "early_stop": False}
    with count_host_reads() as reads, Watch(model, count_operators=True) as operators:
        output = model.generate(prompt, **arguments)  # also the warm-up
    seconds, forward_seconds, inside = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        with Watch(model) as watch:
            model.generate(prompt, **arguments)
        seconds.append(time.perf_counter() - start)
        inside.append(watch.seconds / seconds[-1])
        forward_seconds.append(replay(model, watch.calls))

    forwards = len(operators.calls)
    return {
        "tokens_per_second": len(prompt) * arguments["max_new_tokens"] / min(seconds),
        "forwards": forwards,
        "tokens_per_forward": float(output.tokens_per_forward.mean()),
        "milliseconds_per_forward": 1000 * min(seconds) / forwards,
        "overhead": min(seconds) / min(forward_seconds),
        "share_inside": max(inside),
        "host_reads_per_forward": len(reads) / forwards,
        "operators_per_forward": operators.operators / forwards,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="random-100m")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--prompt-length", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--tokens-per-forward", type=int, default=8, help="of the fixed commit schedule")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    model = MODELS[args.model]().eval()
    length = min(args.prompt_length, model.config.max_position_embeddings - args.new_tokens)
    rows, console = [], Console(width=120)
    table = Table(title=f"{args.model}, prompt {length}, {args.new_tokens} new tokens, {args.threads} threads")
    columns = ["tokens/s", "forwards", "ms/fwd", "overhead", "inside", "reads/fwd", "ops/fwd", "MiB"]
    for column in ["preset", "dtype", "batch", *columns]:
        table.add_column(column, justify="right" if column in columns else "left")
    for dtype in args.dtypes:
        model = model.to(getattr(torch, dtype))
        for batch in args.batch_sizes:
            generator = torch.Generator().manual_seed(0)
            ordinary = model.config.vocab_size // 2  # below the special tokens
            prompt = torch.randint(ordinary // 2, ordinary, (batch, length), generator=generator)
            for preset in args.presets:
                row = measure(
                    model,
                    prompt,
                    args.repeats,
                    preset=preset,
                    max_new_tokens=args.new_tokens,
                    selection="count",
                    steps=args.new_tokens // args.tokens_per_forward,
                )
                rows.append({"model": args.model, "preset": preset, "dtype": dtype, "batch_size": batch} | row)
                shown = ["tokens_per_second", "forwards", "milliseconds_per_forward", "overhead", "share_inside"]
                shown += ["host_reads_per_forward", "operators_per_forward", "peak_memory_mib"]
                formats = ["{:.1f}", "{:.0f}", "{:.2f}", "{:.3f}", "{:.1%}", "{:.2f}", "{:.0f}", "{:.0f}"]
                cells = [form.format(row[name]) for form, name in zip(formats, shown, strict=True)]
                table.add_row(preset, dtype, str(batch), *cells)
                console.print(f"{preset} {dtype} batch {batch}: overhead {row['overhead']:.3f}", highlight=False)
    console.print(table)
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        versions = {name: version(name) for name in ("torch", "transformers")} | {"python": sys.version.split()[0]}
        capability = torch.backends.cpu.get_cpu_capability()
        report = {"rows": rows, "settings": settings, "versions": versions, "cpu_capability": capability}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, json.dumps(report, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
