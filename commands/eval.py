"""`d3llm eval`: accuracy, TPF and TPS of a model on tasks, one result file per point."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fields import (
    add_decoding_arguments,
    checkpoint_folder,
    config_fields,
    flags_of,
    not_empty,
    parse_fields,
    read_options,
)
from .tables import accuracy_text, further_text, table_console


if TYPE_CHECKING:
    from d3llm.common.processes import Processes
    from d3llm.evaluation.measurer import Measurer, Point
    from d3llm.evaluation.result import Result
    from d3llm.evaluation.tasks import Task

BATCH_SIZE = 8


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="measure accuracy and parallelism on tasks",
        usage="%(prog)s --tasks NAME,... --output DIR [--model DIR] [--preset NAME] [--sweep FIELD=VALUE,...] "
        "[--FIELD VALUE]...",
        add_help=False,
    )
    parser.add_argument("--tasks", required=True, metavar="NAME,...", help="or a YAML file, see docs/evaluation.md")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the result files")
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="FIELD=VALUE,...",
        help="measure a point for each value; several --sweep make a point for each combination",
    )
    add_task_arguments(parser)
    add_decoding_arguments(parser)
    parser.add_argument(
        "--assistant-model",
        type=not_empty,
        metavar="DIR",
        help="a second model of the same kind, which drafts for this one (batch size 1 if they are autoregressive)",
    )
    parser.add_argument("--method", metavar="NAME", help="name in tables (default: model and preset)")
    parser.add_argument("--overwrite", action="store_true", help="start again if there are results")
    parser.add_argument(
        "--harness",
        choices=("lm_eval",),
        help="run tasks of lm-evaluation-harness instead (pip install 'd3llm[eval]')",
    )
    parser.set_defaults(run=run)


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says which samples are decoded and how they are checked."""
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[TASK=]FILE",
        help="take the problems from a file instead of the Hub, for one task or all",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first problems of each task")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="use the chat template (default: as the task says)",
    )
    parser.add_argument(
        "--allow-code-execution", action="store_true", help="run the programs that the model writes, confined"
    )


def run(args: argparse.Namespace) -> None:
    check_task_arguments(args)
    points = measured_points(args, args.sweep)
    if args.harness == "lm_eval":
        run_harness(args, points)
        return
    tasks = find_tasks(args)
    data = data_files(args, tasks)
    loaded = {task.name: task.load(data.get(task.name), "test", args.limit) for task in tasks}
    args.output.mkdir(parents=True, exist_ok=True)

    from d3llm.common.processes import Processes

    processes = Processes.launched(cpu=args.device == "cpu")
    measurer = load_measurer(args, processes)
    results = []
    for task in tasks:
        results += measurer.measure(task, loaded[task.name], points, data.get(task.name))
    if processes.index == 0:
        print_table(results)


def run_harness(args: argparse.Namespace, points: list[Point]) -> None:
    """Runs tasks of lm-evaluation-harness and writes what it says into one file."""
    if len(points) > 1 or args.data or args.assistant_model is not None:
        raise ValueError(
            "--harness lm_eval takes no --sweep, --data or --assistant-model: it has its own tasks, one model and one "
            "point."
        )
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise ValueError("lm-evaluation-harness is not installed: pip install 'd3llm[eval]'.")
    from d3llm.common.files import write_atomically
    from d3llm.evaluation import lm_eval_model
    from d3llm.evaluation.measurement import hardware, versions
    from d3llm.evaluation.measurer import result_path

    from .loading import load_model
    from .tables import count_forwards

    if args.allow_code_execution:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # what its code tasks ask for
    folder, fields = checkpoint_folder(args), points[0].fields
    path = result_path(args.output, method_name(args), args.tasks, "lm_eval")
    if path.exists() and not args.overwrite:
        raise ValueError(f"{path} is there: start again with --overwrite, or give another --output or --method.")
    args.output.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(folder, device=args.device, trust_remote_code=args.trust_remote_code)
    result = lm_eval_model.run_harness(
        model,
        tokenizer,
        args.tasks.split(","),
        batch_size=args.batch_size,
        limit=args.limit,
        chat=bool(args.chat),
        allow_code_execution=args.allow_code_execution,
        **fields,
    )
    result |= {"model": args.model or folder.name, "fields": fields, "hardware": hardware(), "versions": versions()}
    write_atomically(path, json.dumps(result, indent=1, default=str).encode() + b"\n")
    for task, metrics in result["results"].items():
        figures = [f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)]
        sys.stdout.write(f"{task}: {', '.join(figures)}\n")
    if result["forwards"]:
        sys.stdout.write(
            f"{result['tokens']} tokens in {count_forwards(result['forwards'], result['row_forwards'])}, "
            f"TPF {result['tokens_per_forward']:.2f}, TPS {result['tokens_per_second']:.0f}\n"
        )
    sys.stdout.write(f"written to {path}\n")


def method_name(args: argparse.Namespace) -> str:
    """What tables and files call this model with this preset; refuses what no table can show."""
    from d3llm.common.schema import check
    from d3llm.evaluation.result import Name

    if args.method is not None:
        return check(Name, args.method, "--method")
    model, assisted = checkpoint_folder(args).resolve().name, "assisted" if args.assistant_model is not None else None
    name = "-".join(part for part in (model, args.preset, assisted) if part)
    return check(Name, name, "the name of the model's folder", "give the method another one (--method)")


def check_task_arguments(args: argparse.Namespace) -> None:
    """Raises when a number is out of range, the method has no name or the output is a file, before anything loads."""
    from d3llm.common.files import check_folder_to_be

    method_name(args)
    check_folder_to_be(args.output)
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {args.limit}.")


def find_tasks(args: argparse.Namespace) -> list[Task]:
    """The tasks that `--tasks` names."""
    from d3llm.evaluation.tasks import find_task
    from d3llm.quickstart.stories.task import TASKS

    own = {task.name: task for task in TASKS}
    tasks: dict[str, Task] = {}
    for name in dict.fromkeys(name.strip() for name in args.tasks.split(",")):
        task = find_task(name, own)
        if task.name in tasks:
            raise ValueError(f"--tasks has two tasks of the name {task.name}: give one of them another `name`.")
        if task.runs_code and not args.allow_code_execution:
            raise ValueError(f"The task {name} runs programs that the model writes: allow it, --allow-code-execution.")
        tasks[task.name] = task
    return list(tasks.values())


def data_files(args: argparse.Namespace, tasks: list[Task]) -> dict[str, Path]:
    """The file of each task that has one; refuses a file that no task would read."""
    names = {task.name for task in tasks}
    files: dict[str | None, Path] = {}
    for value in args.data:
        name, equals, file = value.partition("=")
        key, path = (name, Path(file)) if equals and name in names else (None, Path(value))
        if key in files:
            of = f"the task {key}" if key else "all tasks"
            raise ValueError(f"--data names two files for {of}, {files[key]} and {path}: give one, or TASK=FILE.")
        files[key] = path
    for_others = files.pop(None, None)
    others = names - files.keys()
    if for_others is not None and not others:
        raise ValueError(f"--data {for_others} is for no task, as each has a file of its own: leave one out.")
    return {name: path for name, path in files.items() if name} | {name: for_others for name in others if for_others}


def sweep_points(sweeps: list[str]) -> list[dict[str, str]]:
    """`["threshold=0.1,0.3", "block-size=32"]` as a point per combination, values as written."""
    axes: list[list[tuple[str, str]]] = []
    for sweep in sweeps:
        name, equals, values = sweep.partition("=")
        if not equals or not all(value.strip() for value in values.split(",")):
            raise ValueError(f"--sweep is FIELD=VALUE,..., got {sweep!r}.")
        if any(axis[0][0] == name.strip().replace("-", "_") for axis in axes):
            raise ValueError(f"--sweep has {name.strip()} twice: give all of its values at once.")
        axes.append([(name.strip().replace("-", "_"), value.strip()) for value in values.split(",")])
    return [dict(point) for point in itertools.product(*axes)]


def point_fields(args: argparse.Namespace, point: dict[str, str]) -> dict[str, Any]:
    """The fields of `DiffusionGenerationConfig` of a point, checked."""
    from d3llm.evaluation.decoding import check_one_sequence

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in point.items()]
    fields = parse_fields(argparse.Namespace(preset=args.preset, fields=[*args.fields, *flags], parser=args.parser))
    check_one_sequence(fields)
    return fields


def measured_points(args: argparse.Namespace, sweeps: list[str]) -> list[Point]:
    """Every point of the sweeps, with its values as written; refuses a point or a field that is there twice."""
    from d3llm.evaluation.measurer import Point

    fixed = read_options(args.fields, config_fields(), flags_of(args))
    points = []
    for swept in sweep_points(sweeps):
        if double := sorted(swept.keys() & fixed.keys()):
            flag = double[0].replace("_", "-")
            raise ValueError(f"{double[0]} is swept (--sweep) and given (--{flag}): leave one of them out.")
        points.append(Point(point_fields(args, swept), swept))
    for index, point in enumerate(points):
        if any(point.fields == other.fields for other in points[:index]):
            raise ValueError(f"--sweep has the point {', '.join(point.labels)} twice: give each value once.")
    return points


def load_measurer(args: argparse.Namespace, processes: Processes, split: str = "test") -> Measurer:
    """
    Loads the model that the arguments name, once for all points.

    Args:
        args (`argparse.Namespace`): The parsed arguments.
        processes (`Processes`): The processes that share the work.
        split (`str`, *optional*, defaults to `"test"`): Where the samples come from, for the result file.

    Returns:
        [`~d3llm.evaluation.measurer.Measurer`]: What measures it.
    """
    from d3llm.common.fingerprints import fingerprint_checkpoint
    from d3llm.evaluation.measurer import Measurer

    from .loading import is_diffusion_model, load_autoregressive_model, load_model

    device = args.device
    if device is None and processes.count > 1:
        import torch

        device = f"cuda:{processes.index % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    folder = checkpoint_folder(args)
    options = {"device": device, "trust_remote_code": args.trust_remote_code}
    drafting = None if args.assistant_model is None else Path(args.assistant_model)
    diffusion = is_diffusion_model(folder)
    if drafting is not None and is_diffusion_model(drafting) != diffusion:
        raise ValueError("--assistant-model is not of the same kind: give a diffusion model one, others another one.")
    load = load_model if diffusion else load_autoregressive_model
    model, tokenizer = load(folder, **options)
    assistant = None if drafting is None else load(drafting, **options)[0]
    return Measurer(
        model=model,
        tokenizer=tokenizer,
        output=args.output,
        method=method_name(args),
        name=folder.resolve().name,
        weights=fingerprint_checkpoint(folder),
        assistant=assistant,
        assistant_name=args.assistant_model,
        assistant_weights=None if drafting is None else fingerprint_checkpoint(drafting),
        split=split,
        batch_size=args.batch_size,
        chat=args.chat,
        overwrite=args.overwrite,
        processes=processes,
    )


def print_table(results: Sequence[Result]) -> None:
    """Prints a line per point."""
    from rich.table import Table

    from d3llm.evaluation.result import short_name

    with_rows = any(result.row_forwards != result.forwards for result in results)
    with_checks = any(result.differing_percent for result in results)
    table = Table(title="Measured points", title_justify="left")
    for name in ("task", "method", "point"):
        table.add_column(name)
    rows = ["row forwards"] if with_rows else []
    drafting = ["of the assistant"] if any(result.assistant_forwards for result in results) else []
    checks = ["by other checks"] if with_checks else []
    counts = ("tokens", "forwards", *rows, *drafting)
    for name in ("n", "accuracy (95 % interval)", *checks, "TPF", "TPS", *counts, "seconds"):
        table.add_column(name, justify="right")
    for result in results:
        tpf, tps = result.tokens_per_forward, result.tokens_per_second
        table.add_row(
            result.task,
            short_name(result.method),
            " ".join(f"{name}={value}" for name, value in result.point.items()),
            str(result.num_samples),
            accuracy_text(result.accuracy_percent, *result.interval_percent, check=result.judged_by),
            *([further_text(result)] if with_checks else []),
            "" if tpf is None else f"{tpf:.2f}",
            "" if tps is None else f"{tps:.0f}",
            str(result.tokens),
            str(result.forwards),
            *([str(result.row_forwards)] if with_rows else []),
            *([str(result.assistant_forwards or 0)] if drafting else []),
            f"{result.seconds:.1f}",
        )
    table_console(160).print(table)
    sys.stdout.flush()
