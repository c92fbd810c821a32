"""Measures a model on tasks, a result file per point: what `d3llm eval` and `d3llm tune` do, from Python."""

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..common.fingerprints import fingerprint, fingerprint_checkpoint, fingerprint_weights
from ..common.processes import Processes
from ..common.progress import RunProgress
from ..common.schema import check
from ..modeling.checkpoint import check_folder
from .autoregressive import generate_autoregressively
from .batches import check_positions, decoding_fields, generate_in_batches, resolve_generation_config
from .choices import answer_lengths, choose_in_batches
from .decoding import check_one_sequence
from .measurement import Decode, measure_samples
from .result import Name, Result
from .tasks import SPLITS, Sample, Task, find_task


BATCH_SIZE = 8
LONGEST_STEM = 140  # bytes of a file's name, of 255: the files beside it have longer ones
AUTOREGRESSIVE_FIELDS = {"max_new_tokens", "stop_strings"}


@dataclass(frozen=True)
class Point:
    """
    One way to decode.

    Attributes:
        fields (`dict[str, Any]`): Arguments of `generate`, with the preset if it is not the model's own.
        swept (`dict[str, str]`): The fields that tell it from other points of its curve, with their values as the
            names of files have them.
    """

    fields: dict[str, Any]
    swept: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """`FIELD=VALUE` of each swept field."""
        return [f"{name}={value}" for name, value in self.swept.items()]


@dataclass(frozen=True, kw_only=True)
class Measurer:
    """
    A model, how it is measured, and where its results go.

    Attributes:
        model (`PreTrainedModel`): A diffusion model of this package, or an autoregressive one.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        output (`Path`): Folder of the result files.
        method (`str`): What tables and files call the model with its preset.
        name (`str`): What the results call the model.
        weights (`str`): Digest of its weights.
        assistant (`PreTrainedModel`, *optional*): A second model of the same kind, which drafts for this one.
        assistant_name (`str`, *optional*): What the results call it.
        assistant_weights (`str`, *optional*): Digest of its weights.
        split (`str`, *optional*, defaults to `"test"`): Where the samples are from.
        batch_size (`int`, *optional*, defaults to 8): Prompts per batch.
        chat (`bool`, *optional*): Whether to use the chat template instead of what a task says.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to start again when there are results.
        processes ([`~d3llm.common.processes.Processes`], *optional*): Those that share the work; by default this one.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    output: Path
    method: str
    name: str
    weights: str
    assistant: PreTrainedModel | None = None
    assistant_name: str | None = None
    assistant_weights: str | None = None
    split: str = "test"
    batch_size: int = BATCH_SIZE
    chat: bool | None = None
    overwrite: bool = False
    processes: Processes = field(default_factory=Processes)

    @property
    def diffusion(self) -> bool:
        """Whether the model decodes with `d3llm.generation`."""
        return hasattr(self.model, "diffusion_config")

    def measure(
        self, task: Task, samples: Sequence[Sample], points: Sequence[Point], data: Path | None = None
    ) -> list[Result]:
        """
        Measures points, or resumes or reads what is there of them.

        Args:
            task ([`Task`]): The task.
            samples (`Sequence[Sample]`): Its samples, at least one.
            points (`Sequence[Point]`): How to decode them.
            data (`Path`, *optional*): The file that the samples are from, if not where the task has them from.

        Returns:
            `list[Result]`: A result per point; the same on every process.

        Raises:
            `ValueError`: Before anything is decoded, for fields that the model cannot decode with and a sample that is
                longer than its positions; for a file that holds samples of another measurement.
            `OSError`: For a path that cannot be written.
        """
        prompts = [task.encode(self.tokenizer, sample, self.chat) for sample in samples]
        decoders = [self._decoder(task, samples, prompts, point.fields) for point in points]
        results = []
        for point, (decode, decoding) in zip(points, decoders, strict=True):
            description = " ".join([task.name, *point.labels])
            with RunProgress(description, len(samples), visible=self.processes.is_main) as progress:
                result = measure_samples(
                    self.file(task, point),
                    task,
                    samples,
                    prompts,
                    decode,
                    self.settings(task, point, decoding, data),
                    batch_size=self.batch_size,
                    overwrite=self.overwrite,
                    processes=self.processes,
                    progress=progress.advance,
                )
            results.append(result)
        return results

    def file(self, task: Task, point: Point) -> Path:
        """The result file of a point."""
        return result_path(self.output, self.method, task.name, *point.labels)

    def settings(self, task: Task, point: Point, decoding: dict[str, Any], data: Path | None = None) -> dict[str, Any]:
        """What identifies the measurement of a point: the fields of [`Result`] from `method` to `decoding`."""
        return {
            "method": self.method,
            "model": self.name,
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "assistant_model": self.assistant_name,
            **({} if self.assistant_weights is None else {"assistant_weights": self.assistant_weights}),
            "source": task.source if data is None else data.name,
            **({} if task.definition is None else {"definition": task.definition}),
            "split": self.split,
            "chat": task.chat if self.chat is None else self.chat,
            "point": {name: point.fields[name] for name in point.swept},
            "decoding": decoding,
        }

    def _decoder(
        self, task: Task, samples: Sequence[Sample], prompts: list[list[int]], fields: dict[str, Any]
    ) -> tuple[Decode, dict[str, Any]]:
        """What decodes a task with this model, and the parameters that a result depends on."""
        if samples[0].choices:
            answers = answer_lengths(self.tokenizer, samples)
        else:
            answers = [fields.get("max_new_tokens", task.max_new_tokens) or 1] * len(samples)
        lengths = [len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
        check_positions(self.model, lengths, [sample.id for sample in samples])
        if samples[0].choices:
            return partial(choose_in_batches, self.model, self.tokenizer, samples, prompts), {}
        fields = {"max_new_tokens": task.max_new_tokens, **fields}
        if task.stop_strings:
            fields.setdefault("stop_strings", list(task.stop_strings))
        if self.diffusion:
            fields["num_return_sequences"] = 1  # whatever the checkpoint's own config says
            assisted = fields | {"assistant_model": self.assistant}
            config = resolve_generation_config(self.model, [len(prompt) for prompt in prompts], **assisted)
            decode: Decode = partial(generate_in_batches, self.model, self.tokenizer, prompts, **assisted)
            return decode, {"preset": config.preset, **decoding_fields(config)}
        unknown = sorted(fields.keys() - AUTOREGRESSIVE_FIELDS)
        if unknown:
            raise ValueError(f"{self.name} is autoregressive: `{unknown[0]}` is a field of diffusion models.")
        decode = partial(
            generate_autoregressively, self.model, self.tokenizer, prompts, assistant_model=self.assistant, **fields
        )
        return decode, {"autoregressive": True, **fields}


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task | str,
    output: str | os.PathLike,
    *,
    presets: str | Sequence[str] | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    method: str | None = None,
    checkpoint: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    chat: bool | None = None,
    allow_code_execution: bool = False,
    overwrite: bool = False,
    processes: Processes | None = None,
    **generation_kwargs: Any,
) -> list[Result]:
    """
    Measures accuracy, TPF and TPS of a model on a task, as `d3llm eval` does.

    Each point has a result file `METHOD.TASK[.FIELD=VALUE...].json` and a file of samples, which is written batch by
    batch. After an interruption the same call resumes; a point that is finished is read. Several processes, as
    `accelerate launch` starts them, share the samples.

    Args:
        model (`PreTrainedModel`): A diffusion model of this package, or an autoregressive one as a baseline; in eval
            mode, on the device where it is to decode.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        task ([`Task`] or `str`): The task; a `str` is the name of one that the package has, or the path of a YAML file
            for [`load_task`].
        output (`str` or `PathLike`): Folder of the result files.
        presets (`str` or `Sequence[str]`, *optional*): Presets to decode with, each a curve; by default the model's
            own.
        sweep (`Mapping[str, Sequence[Any]]`, *optional*): Values to measure by name of the field, such as
            `{"threshold": [0.1, 0.5]}`; several fields make a point for each combination.
        method (`str`, *optional*): What tables and files call the model with its preset; by default made of the names
            of both.
        checkpoint (`str` or `PathLike`, *optional*): Folder that the model was loaded from, if its weights are still
            those. Results then name the folder and the digest of its files, as those of `d3llm eval` do, and can be
            published with it (`d3llm push model --results`). By default the digest is of the weights in memory.
        data (`str` or `PathLike`, *optional*): File to take the problems from instead of where the task has them from.
        split (`str`, *optional*, defaults to `"test"`): `"test"`, or `"validation"` for choices between settings.
        limit (`int`, *optional*): Only so many problems, the first ones.
        batch_size (`int`, *optional*, defaults to 8): Prompts per batch.
        chat (`bool`, *optional*): Whether to use the chat template; by default as the task says.
        allow_code_execution (`bool`, *optional*, defaults to `False`): Whether programs that the model writes may run,
            confined; tasks of code need it.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to start again when there are results.
        processes ([`~d3llm.common.processes.Processes`], *optional*): Those that share the work; by default those that
            a launcher started.
        generation_kwargs: Fields of `DiffusionGenerationConfig` of all points, such as `max_new_tokens`.

    Returns:
        `list[Result]`: A result per point, in the order of presets and values; the same on every process.

    Raises:
        `ValueError`: For an unknown task, preset or field, values out of range, data that does not have the task's
            form, and a folder that holds samples of other settings.
        `OSError`: For data that is not there, and a folder that cannot be written.

    Example:

    ```python
    >>> results = measure(model, tokenizer, "gsm8k_cot", "results", presets="d3llm", sweep={"threshold": [0.1, 0.5]})
    >>> [(result.tokens_per_forward, result.accuracy_percent) for result in results]
    ```
    """
    task = find_task(task) if isinstance(task, str) else task
    if task.runs_code and not allow_code_execution:
        raise ValueError(f"The task {task.name} runs programs that the model writes: `allow_code_execution=True`.")
    for name, value in {"batch_size": batch_size, "limit": limit}.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}: expected one of {', '.join(SPLITS)}.")
    chosen: list[str | None] = [presets] if presets is None or isinstance(presets, str) else list(presets)
    if not chosen:
        raise ValueError("`presets` is empty: give one, or leave it out for the model's own.")
    if method is not None and len(chosen) > 1:
        raise ValueError("`method` names one curve: give one preset, or leave it out.")
    name = Path(checkpoint or model.name_or_path or type(model).__name__).resolve().name
    points = {
        check(Name, method or "-".join(filter(None, (name, preset))), "`method`"): list(
            _points(model, preset, sweep or {}, generation_kwargs)
        )
        for preset in chosen
    }
    file = None if data is None else Path(data)
    samples = task.load(file, split, limit)
    if checkpoint is not None:
        check_folder(Path(checkpoint))
    weights = fingerprint_weights(model) if checkpoint is None else fingerprint_checkpoint(Path(checkpoint))
    Path(output).mkdir(parents=True, exist_ok=True)
    processes = processes or Processes.launched(cpu=model.device.type == "cpu")
    results = []
    for method_name, of_method in points.items():
        measurer = Measurer(
            model=model,
            tokenizer=tokenizer,
            output=Path(output),
            method=method_name,
            name=name,
            weights=weights,
            split=split,
            batch_size=batch_size,
            chat=chat,
            overwrite=overwrite,
            processes=processes,
        )
        results += measurer.measure(task, samples, of_method, file)
    return results


def _points(
    model: PreTrainedModel, preset: str | None, sweep: Mapping[str, Sequence[Any]], fields: dict[str, Any]
) -> Iterator[Point]:
    """The points of a curve; their fields are checked before the first of them is measured."""
    for name, values in sweep.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"`sweep` has {values!r:.60} for {name!r:.60}: expected a list of values.")
    for combination in itertools.product(*sweep.values()):
        swept = dict(zip(sweep, combination, strict=True))
        given = {**fields, **swept} | ({} if preset is None else {"preset": preset})
        check_one_sequence(given)
        if hasattr(model, "diffusion_config"):
            resolve_generation_config(model, [1], **given)
        said = {name: value if isinstance(value, str) else json.dumps(value) for name, value in swept.items()}
        yield Point(given, said)  # as `--sweep` has them: `true`, not `True`


def result_path(folder: Path, *parts: str) -> Path:
    """
    Where a result goes.

    Args:
        folder (`Path`): The folder.
        parts (`str`): What tells the result from others: method, task, swept fields.

    Returns:
        `Path`: `PART.PART.json`; of a name too long for a file system, the beginning and a digest.
    """
    name = ".".join(parts)
    stem = re.sub(r"[^\w.=+-]", "_", name).encode()
    if len(stem) > LONGEST_STEM:
        stem = stem[:LONGEST_STEM] + f"-{fingerprint(name)}".encode()
    return folder / f"{stem.decode(errors='ignore')}.json"
