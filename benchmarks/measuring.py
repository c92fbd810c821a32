"""The cost of one preset on one batch of prompts: times beside their floor, and what is counted."""

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from benchmarks.floor import Floor
from benchmarks.host_reads import count_host_reads
from benchmarks.machine import peak_memory
from benchmarks.subjects import Prompts
from benchmarks.watching import KernelCounter, Need, Watch, watch_windows
from d3llm.generation import DiffusionGenerationOutput


@dataclass
class Cost:
    """
    What a run of `generate()` costs.

    Attributes:
        output ([`DiffusionGenerationOutput`]): Output of the run.
        need ([`~benchmarks.watching.Need`]): What its windows asked for.
        computed (`int`): Positions that its forwards got, padding and fillings included.
        model_calls, floor_calls (`int`): Calls of the transformer in a run, and in its floor.
        kernels, host_reads (`int`): Counted in one run.
        seconds, transformer_seconds, head_seconds, floor_seconds (`list[float]`): One of each per repeat; a run is
            followed by its floor, so that a change of the machine's pace hits both.
        peak_memory_mib (`float`, *optional*): Peak memory, from a run of its own.
    """

    output: Any
    need: Need
    computed: int
    model_calls: int
    kernels: int
    host_reads: int
    floor_calls: int = 0
    seconds: list[float] = field(default_factory=list)
    transformer_seconds: list[float] = field(default_factory=list)
    head_seconds: list[float] = field(default_factory=list)
    floor_seconds: list[float] = field(default_factory=list)
    peak_memory_mib: float | None = None

    def summary(self) -> dict[str, Any]:
        """The row of a result file: medians of the repeats, with their least and largest where they matter."""
        forwards, tokens = len(self.need.positions), self.output.tokens
        overheads = [run / floor for run, floor in zip(self.seconds, self.floor_seconds, strict=True)]
        milliseconds = [1000 * run / forwards for run in self.seconds]
        parts = {"transformer": self.transformer_seconds, "head": self.head_seconds}
        shares = {
            f"share_of_{name}": median(part / run for part, run in zip(times, self.seconds, strict=True))
            for name, times in parts.items()
        }
        return {
            "tokens_per_second": float(tokens.sum()) / median(self.seconds),
            "forwards": forwards,
            "forwards_of_rows": self.output.forward_passes.tolist(),
            "tokens_per_forward": float(self.output.tokens_per_forward.mean()),
            "milliseconds_per_forward": median(milliseconds),
            "milliseconds_spread": [min(milliseconds), max(milliseconds)],
            "overhead": median(overheads),
            "overhead_spread": [min(overheads), max(overheads)],
            **shares,
            "positions_computed": self.computed,
            "positions_needed": sum(self.need.positions),
            "work_over_need": self.computed / sum(self.need.positions),
            "share_of_rebuilds": sum(self.need.rebuilds) / forwards,
            "model_calls_per_forward": self.model_calls / forwards,
            "kernels_per_forward": self.kernels / forwards,
            "host_reads_per_forward": self.host_reads / forwards,
            "peak_memory_mib": self.peak_memory_mib,
        }


def measure(model: Any, prompts: Prompts, repeats: int, **arguments: Any) -> Cost:
    """
    The cost of `generate()` with these arguments.

    Args:
        model: The model.
        prompts ([`~benchmarks.subjects.Prompts`]): The batch.
        repeats (`int`): Timed runs, each followed by its floor.
        arguments: Of `generate()`.
    """

    def run() -> DiffusionGenerationOutput:
        return generate(model, prompts, **arguments)

    with watch_windows() as need, Watch(model) as watch:  # also the warm-up
        output = run()
    with count_host_reads() as reads, Watch(model, record=False) as quiet, KernelCounter(quiet) as kernels:
        run()
    computed = sum(call.inputs["input_ids"].numel() for call in watch.model_calls)
    cost = Cost(output, need, computed, len(watch.model_calls), kernels.kernels, len(reads))

    floor = Floor(model, watch.calls)
    floor.seconds()  # its warm-up
    cost.floor_calls = floor.forwards
    for _ in range(repeats):
        start = time.perf_counter()
        with Watch(model, record=False) as timed:
            run()
        cost.seconds.append(time.perf_counter() - start)
        cost.transformer_seconds.append(timed.seconds["transformer"])
        cost.head_seconds.append(timed.seconds["head"])
        cost.floor_seconds.append(floor.seconds())
    del floor, watch
    cost.peak_memory_mib = peak_memory(run)
    return cost


def compare_with_single_rows(model: Any, prompts: Prompts, repeats: int, **arguments: Any) -> dict[str, Any]:
    """
    The same prompts as a batch and one by one: batching should not be slower, nor change what a row gets.

    Args:
        model, prompts, arguments: As for [`measure`].
        repeats (`int`): Timed batches, each followed by its rows one by one.

    Returns:
        `dict`: `time_over_single_rows`, the median of the ratios of such pairs, their least and largest, and the
        number of rows whose tokens and whose number of forwards are those of the row alone. Presets that draw at
        random draw differently for a row alone.
    """
    singles, ratios = [prompts.row(index) for index in range(len(prompts.input_ids))], []
    for _ in range(repeats):
        start = time.perf_counter()
        batch = generate(model, prompts, **arguments)
        middle = time.perf_counter()
        alone: list[Any] = [generate(model, single, **arguments) for single in singles]
        ratios.append((middle - start) / (time.perf_counter() - middle))
    region = arguments["max_new_tokens"]
    pairs = [
        (output.sequences[0, -region:], row[-region:]) for output, row in zip(alone, batch.sequences, strict=True)
    ]
    forwards = [int(output.forward_passes[0]) for output in alone]
    return {
        "time_over_single_rows": median(ratios),
        "time_over_single_rows_spread": [min(ratios), max(ratios)],
        "rows_with_equal_tokens": sum(torch.equal(*pair) for pair in pairs),
        "rows_with_equal_forwards": sum(map(int.__eq__, forwards, batch.forward_passes.tolist())),
    }


def generate(model: Any, prompts: Prompts, **arguments: Any) -> Any:
    """The [`DiffusionGenerationOutput`] of a batch; its fields are optional, and these are there."""
    mask = prompts.attention_mask
    return model.generate(prompts.input_ids, attention_mask=mask, return_dict_in_generate=True, **arguments)
