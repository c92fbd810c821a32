"""`d3llm tune`: finds the thresholds of a checkpoint and writes them into its generation_config.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .eval import (
    add_task_arguments,
    check_task_arguments,
    data_files,
    find_tasks,
    load_measurer,
    measured_points,
    point_fields,
    print_table,
)
from .fields import add_decoding_arguments
from .tables import further_text


if TYPE_CHECKING:
    from d3llm.generation import DiffusionGenerationConfig

OBJECTIVES = ("aup", "tpf", "tps")
DEFAULT_SWEEPS = {  # by the unit of the score
    "entropy": "threshold=0.1,0.2,0.3,0.4,0.5,0.6,0.8,1.0",
    "probability": "threshold=0.5,0.6,0.7,0.8,0.9,0.95",
    "margin": "threshold=0.3,0.5,0.7,0.8,0.9,0.95",
}
BLOCK_SHARES = (4, 2, 1)  # blocks to try with the objective tpf: the decoder's own block size, divided by these
LIMIT = 100


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "tune",
        help="find the best thresholds of a checkpoint",
        usage="%(prog)s --model DIR --tasks NAME --output DIR [--preset NAME] [--max-loss POINTS] "
        "[--objective {aup,tpf,tps}] [--sweep FIELD=VALUE,...] [--FIELD VALUE]...",
        add_help=False,
    )
    parser.add_argument("--tasks", required=True, metavar="NAME", help="one task; its validation split, not its test")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the measured points")
    parser.add_argument(
        "--max-loss",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="loss of accuracy allowed (default: %(default)s)",
    )
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="aup",
        help="largest AUP over thresholds, most tokens per forward over block sizes and thresholds, or most tokens "
        "per second (default: %(default)s)",
    )
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="FIELD=VALUE,...",
        help="what to try, as for d3llm eval, for example block_add_threshold=0.1,0.5 (default: thresholds, and block "
        "sizes for tpf)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the choice, and write nothing to the checkpoint")
    add_task_arguments(parser)
    add_decoding_arguments(parser, default_model=None)
    parser.set_defaults(run=run, limit=LIMIT, method=None, assistant_model=None, overwrite=False)


def run(args: argparse.Namespace) -> None:
    check_task_arguments(args)
    if not 0 <= args.max_loss <= 100:
        raise ValueError(f"--max-loss is a loss of accuracy from 0 to 100 points, got {args.max_loss}.")
    (task, *others) = find_tasks(args)
    if others:
        raise ValueError("--tasks is one task here: a checkpoint has one setting.")
    points = measured_points(args, with_default_sweeps(args))
    data = data_files(args, [task]).get(task.name)
    samples = task.load(data, "validation", args.limit)
    if samples[0].choices:
        raise ValueError(f"The task {task.name} is answered by likelihood, without thresholds: tune on another task.")
    args.output.mkdir(parents=True, exist_ok=True)

    from d3llm.common.files import check_writable
    from d3llm.common.processes import Processes
    from d3llm.evaluation.tuning import choose_point

    processes = Processes.launched(cpu=args.device == "cpu")
    measurer = load_measurer(args, processes, split="validation")
    if not measurer.diffusion:
        raise ValueError(f"{args.model} is not a diffusion model: it has no thresholds.")
    if not args.dry_run:
        check_writable(Path(args.model, "generation_config.json").resolve())
    results = measurer.measure(task, samples, points, data)
    if processes.index:
        return
    print_table(results)
    chosen = choose_point(results, args.objective, args.max_loss)
    fields = next(point.fields for point, result in zip(points, results, strict=True) if result is chosen)
    said = ", ".join(f"{name}={value}" for name, value in chosen.point.items())
    tpf, accuracy = chosen.tokens_per_forward, chosen.accuracy_percent
    rows = f" at {chosen.rows_per_forward:.1f} rows per forward" if chosen.rows_per_forward > 1 else ""
    check = f" by {chosen.judged_by}" if chosen.judged_by else ""
    further = "".join(f", {line}" for line in further_text(chosen).splitlines())
    figures = f"TPF {tpf:.2f}{rows}, accuracy {accuracy:.1f}%{check}{further}"
    sys.stdout.write(f"best by {args.objective}: {said} ({figures})\n")
    if not args.dry_run:
        path = write_fields(Path(args.model), fields)
        sys.stdout.write(f"written to {path}\n")


def with_default_sweeps(args: argparse.Namespace) -> list[str]:
    """What to try: the given sweeps, then what the arguments leave open. That is thresholds, and to commit the most
    tokens per forward also block sizes."""
    swept = {sweep.partition("=")[0].strip().replace("-", "_") for sweep in args.sweep}
    said = swept | point_fields(args, {}).keys()
    sweeps = list(args.sweep)
    if args.objective == "tpf" and "block_size" not in said:
        sweeps += block_sizes(decoder_of(args))
    if "threshold" not in said:
        sweeps.append(thresholds(decoder_of(args)))
    if not sweeps:
        raise ValueError("--threshold leaves nothing to tune: leave it out, or give a --sweep of another field.")
    return sweeps


def block_sizes(decoder: DiffusionGenerationConfig) -> list[str]:
    """Parts of the decoder's block as a sweep; none for a decoder without a block size of its own."""
    if decoder.block_size is None:
        return []
    sizes = dict.fromkeys(max(1, decoder.block_size // share) for share in BLOCK_SHARES)
    return [f"block_size={','.join(map(str, sizes))}"]


def thresholds(decoder: DiffusionGenerationConfig) -> str:
    """Thresholds in the unit of the decoder's score as a sweep."""
    from .conversation import WITHOUT_THRESHOLD

    if decoder.selection in WITHOUT_THRESHOLD:
        raise ValueError(
            f"`selection`={decoder.selection!r} has no threshold to tune: choose a --preset that has one."
        )
    if decoder.score not in DEFAULT_SWEEPS:
        score = decoder.score
        raise ValueError(f"There is no default sweep for the score {score!r}: give one, --sweep threshold=VALUE,...")
    return DEFAULT_SWEEPS[decoder.score]


def decoder_of(args: argparse.Namespace) -> DiffusionGenerationConfig:
    """Score and block size of the decoder that is tuned: what the arguments say, else the checkpoint's, else the
    preset's."""
    from d3llm.generation import DiffusionGenerationConfig

    fields = point_fields(args, {})
    if not fields.get("preset"):
        fields = {**_generation_config(Path(args.model)), **fields}
    known = {name: fields[name] for name in ("preset", "score", "block_size") if fields.get(name)}
    return DiffusionGenerationConfig(**known).resolve()


def _generation_config(folder: Path) -> dict[str, Any]:
    """What a checkpoint's generation_config.json says of the method; nothing if there is none."""
    from d3llm.common.schema import check

    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({type(error).__name__}): repair it, or delete it.") from error
    return check(dict[str, Any], values, str(path), "repair the file, or delete it")


def write_fields(folder: Path, fields: dict[str, Any]) -> Path:
    """Puts fields into a checkpoint's generation_config.json and keeps what else is there; atomically."""
    from d3llm.common.files import write_atomically
    from d3llm.generation import DiffusionGenerationConfig
    from d3llm.generation.fields import METHOD_DEFAULTS

    path, values = folder / "generation_config.json", _generation_config(folder)
    if "preset" in fields:  # replaces the method that was there
        values = {name: value for name, value in values.items() if name not in METHOD_DEFAULTS}
    values |= fields
    DiffusionGenerationConfig.from_dict(dict(values))  # refuses what could not be read again
    write_atomically(path, json.dumps(values, indent=2, sort_keys=True).encode() + b"\n")
    return path
