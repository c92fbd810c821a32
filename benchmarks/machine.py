"""What a measurement ran on, and how much memory it took."""

import ctypes
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch


STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")


def describe_machine() -> dict[str, str | int | list[str]]:
    """Processor, what torch uses of it, and versions, for a result file."""
    facts = cpu_facts()
    identity = [f"{name} {facts[name]}" for name in ("cpu family", "model") if name in facts]
    return {
        "cpu": ", ".join([facts.get("model name") or platform.processor() or platform.machine(), *identity]),
        "cores": torch.multiprocessing.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16_instructions": [flag for flag in BFLOAT16_FLAGS if flag in facts.get("flags", "").split()],
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("torch", "transformers")},
    }


def cpu_facts() -> dict[str, str]:
    """What /proc/cpuinfo says of one processor; nothing where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in lines if ":" in line]
    return {name.strip(): value.strip() for name, _, value in pairs}


def peak_memory(run: Callable[[], object]) -> float | None:
    """
    The largest resident set of this process while `run` runs, in MiB, weights included.

    The kernel's high-water mark is reset first, so that a row of a table does not show the rows before it.

    Returns:
        `float`: MiB, or `None` where the mark cannot be reset (it takes Linux and a writable /proc).
    """
    give_back_memory()
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return None
    run()
    marks = [line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")]
    return int(marks[0]) / 1024 if marks else None


def give_back_memory() -> None:
    """Returns what earlier runs have freed to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
