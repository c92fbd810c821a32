"""Measures one model with one decoding on one task: a result file, and a file of samples that survives a kill."""

import glob
import json
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from ..common.fingerprints import fingerprint
from ..common.plan import plan_values
from ..common.processes import Processes
from .batches import DecodedBatch, batch_indices
from .result import SCHEMA, Record, Result, read_result, summarize
from .results_file import ResultsFile
from .tasks import Sample, Task


class Decode(Protocol):
    """What decodes: [`generate_in_batches`] and its like, with everything but these arguments bound."""

    def __call__(self, *, batch_size: int, done: Collection[int]) -> Iterator[DecodedBatch]: ...


def measure_samples(
    path: Path,
    task: Task,
    samples: Sequence[Sample],
    prompts: Sequence[Sequence[int]],
    decode: Decode,
    settings: dict[str, Any],
    *,
    batch_size: int = 8,
    overwrite: bool = False,
    processes: Processes | None = None,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """
    Decodes the samples of a task, checks the answers and writes the result.

    Samples are written batch by batch to `NAME.samples.jsonl` beside `path`. The next call with the same settings goes
    on with what is missing, so that a kill loses no more than the batch at hand; a result file of the same settings is
    read, though its samples are gone. The processes take turns at the batches; which samples share a batch does not
    depend on how many processes there are.

    Args:
        path (`Path`): The result file to be, `NAME.json`.
        task ([`Task`]): The task.
        samples (`Sequence[Sample]`): Its samples.
        prompts (`Sequence[Sequence[int]]`): Token ids of their prompts.
        decode ([`Decode`]): Decodes the prompts.
        settings (`dict[str, Any]`): What identifies the measurement: the fields of [`Result`] from `method` to
            `decoding`.
        batch_size (`int`, *optional*, defaults to 8): Prompts per batch.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to start again when there are samples.
        processes ([`Processes`], *optional*): The processes; by default this one.
        progress (`Callable[[int], None]`, *optional*): Called with the number of samples that are done.

    Returns:
        [`Result`]: The result; the same on every process.

    Raises:
        `ValueError`: For samples that were made with other settings.
        `OSError`: For a path that cannot be written.
    """
    processes = processes or Processes()
    settings = {
        "schema": SCHEMA,
        "task": task.name,
        "title": task.title,
        "checker": task.checker,
        **_checks(task.verdict, task.further_checks),
        "data": fingerprint([[s.id, list(p), repr(s.reference)] for s, p in zip(samples, prompts, strict=True)]),
        "num_samples": len(samples),
        "batch_size": batch_size,
        **settings,
    }
    flat = {**{name: value for name, value in settings.items() if name != "decoding"}, **settings["decoding"]}
    keys = [(sample.id, 0) for sample in samples]
    number = {sample.id: index for index, sample in enumerate(samples)}
    own = path.with_suffix(f".samples{f'.{processes.index}' if processes.index else ''}.jsonl")
    kept = None if overwrite or processes.index else _kept_result(path, settings)
    kept = processes.gather(kept)[0]
    if kept is not None:
        return kept
    with ExitStack() as stack:
        results = ResultsFile(own, keys, flat, overwrite=overwrite, kind=Record)
        if processes.index == 0:
            stack.enter_context(results)
            _absorb(path, results, discard=overwrite)
            if not results.lines:  # the result is of samples that are gone, and must not outlive the new ones
                path.unlink(missing_ok=True)
        finished = {number[identity] for lines in processes.gather(list(results.lines)) for identity, _ in lines}
        if processes.index:
            stack.enter_context(results)
        if progress is not None:
            progress(len(finished))
        others = {
            index
            for turn, batch in enumerate(batch_indices([len(prompt) for prompt in prompts], batch_size))
            if turn % processes.count != processes.index
            for index in batch
        }
        for batch in decode(batch_size=batch_size, done=finished | others):
            results.append(_records(batch, task, samples))
            if progress is not None:
                progress(len({row.index for row in batch.rows} - finished))
        if processes.index:
            stack.close()  # before process 0 opens it
        processes.gather(None)
        if processes.index == 0:
            _absorb(path, results)
            results.finish()
            records = [json.loads(line) for line in results.lines.values()]
            measured = {**summarize(records), "hardware": hardware(processes.count), "versions": versions()}
            result = Result.from_dict({**settings, **measured})
            before = _same_result(path, settings) if len(finished) == len(samples) else None
            if before is None:
                result.write(path)
            else:  # its time is that of the machine that it was measured on
                result = before
    return processes.gather(result if processes.index == 0 else None)[0]


def hardware(processes: int = 1) -> dict[str, Any]:
    """
    What a measurement of time depends on.

    Args:
        processes (`int`, *optional*, defaults to 1): How many processes share it, each with a device.

    Returns:
        `dict[str, Any]`: `device`, `threads` of each process, `processes`.
    """
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = platform.processor() or platform.machine()
        cpuinfo = Path("/proc/cpuinfo")
        if cpuinfo.is_file():
            lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
            device = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), device)
    return {"device": device, "threads": torch.get_num_threads(), "processes": processes}


def versions() -> dict[str, str]:
    """The versions of what a measurement depends on."""
    packages = {name: version(name) for name in ("d3llm", "torch", "transformers")}
    return {"python": platform.python_version(), **packages}


def _kept_result(path: Path, settings: dict[str, Any]) -> Result | None:
    """The result at `path` that came without its samples; raises a `ValueError` for one of other settings."""
    if not path.exists() or list(path.parent.glob(f"{glob.escape(path.stem)}.samples.*jsonl")):
        return None
    result = _same_result(path, settings)
    if result is None:
        raise ValueError(f"{path} is not this measurement: choose another folder, or start again (--overwrite).")
    return result


def _same_result(path: Path, settings: dict[str, Any]) -> Result | None:
    """The result at `path`, if it has these settings."""
    try:
        result = read_result(path)
    except (OSError, ValueError):
        return None
    no_checks = dict.fromkeys(_checks("", ()))  # of a task without named checks: then the result must not have any
    kept = no_checks | plan_values(result.to_dict() | _checks(result.judged_by, result.further_accuracy or ()))
    return result if kept | no_checks | plan_values(settings) == kept else None


def _checks(verdict: str | None, further: Iterable[str]) -> dict[str, Any]:
    """What the settings say of named checks: samples that lack a verdict are not mixed with those that have it."""
    return {} if verdict is None else {"judged_by": verdict, "further_checks": list(further)}


def _records(batch: DecodedBatch, task: Task, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    records = []
    for row in batch.rows:
        sample, text = samples[row.index], task.cut(row.text)
        correct, further = task.judge(sample, text)
        records.append(
            {
                "id": sample.id,
                "correct": correct,
                **({"further": further} if further else {}),
                "tokens": row.tokens,
                "forwards": row.forwards,
                "row_forwards": row.row_forwards,
                **({"assistant_forwards": row.assistant_forwards} if row.assistant_forwards else {}),
                "seconds": batch.seconds / len(batch.rows),
                "text": text,
            }
        )
    return records


def _absorb(path: Path, results: ResultsFile, discard: bool = False) -> None:
    """Takes over what other processes wrote, in this run or in one that was interrupted, and deletes their files."""
    for part in sorted(path.parent.glob(f"{path.stem}.samples.[0-9]*.jsonl")):
        with ResultsFile(part, results.keys, results.settings, overwrite=discard, kind=Record) as others:
            results.append(json.loads(line) for line in others.lines.values())
        others.settings_path.unlink()
        part.unlink()
