"""`d3llm extract`: records in which order a teacher commits its tokens."""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .fields import add_decoding_arguments, checkpoint_folder, not_empty, parse_fields


WEIGHT_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.safetensors")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "extract",
        help="record the trajectories of a teacher, to distil a student on",
        usage="%(prog)s --dataset DATASET --output DIR [--teacher M] [--check CHECK] [--FIELD VALUE]...",
        add_help=False,
    )
    data = parser.add_argument_group("dataset")
    data.add_argument(
        "--dataset", type=not_empty, required=True, help="Hub id, file (JSON, JSON lines, Parquet, CSV) or folder"
    )
    data.add_argument("--dataset-config", metavar="NAME", help="configuration of a dataset that has several")
    data.add_argument("--split", help="default: train")
    data.add_argument("--skip", type=int, metavar="N", help="skip the first N rows")
    data.add_argument("--limit", type=int, metavar="N", help="take the first N rows, after those that are skipped")
    data.add_argument("--prompt-column", metavar="NAME", help="texts, chats or token ids (default: prompt)")
    data.add_argument("--answer-column", metavar="NAME", help="what the check compares with; for code, tests")
    data.add_argument("--response-column", metavar="NAME", help="texts or token ids, if the order is not a teacher's")
    data.add_argument("--order-column", metavar="NAME", help="commit steps, for --order column")
    data.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="use the chat template (default: if there is one)",
    )
    rows = parser.add_argument_group("trajectories")
    rows.add_argument(
        "--order",
        help="where it comes from: teacher (default), random, left_to_right, column, ar_rank, ar_buckets, ar for the "
        "own texts of an autoregressive model, or published for the datasets d3LLM/trajectory_data_*",
    )
    rows.add_argument(
        "--order-model",
        type=not_empty,
        metavar="M",
        help="causal language model, for --order ar_rank and ar_buckets",
    )
    rows.add_argument("--order-buckets", type=int, metavar="K", help="for --order ar_buckets (default: 8)")
    rows.add_argument("--check", help="none (default), boxed, hash, number or code")
    rows.add_argument("--allow-code-execution", action="store_true", help="let --check code run what was generated")
    rows.add_argument("--loops", help="drop (default) or keep texts that end in a loop, with --order ar")
    rows.add_argument(
        "--keep", help="all (default), correct: leave wrong answers out, or corrected: by --response-column"
    )
    rows.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        metavar="T",
        help="one per attempt; the next is tried while the answer is wrong (default: 0 0.1 0.2 0.3 0.4)",
    )
    rows.add_argument("--seed", type=int, metavar="N", help="seed of everything that is sampled (default: 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, required=True, metavar="DIR", help="an interrupted run resumes there")
    output.add_argument("--license", metavar="ID", help="licence of the prompts, for the card (default: other)")
    output.add_argument("--chunk-size", type=int, metavar="N", help="samples per part (default: 64)")
    output.add_argument("--batch-size", type=int, metavar="N", help="rows decoded at once (default: 16)")
    add_decoding_arguments(parser, "--teacher", "--model")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_effects(args)
    fields = parse_fields(args)

    from datasets import disable_progress_bars

    from d3llm.common.processes import Processes
    from d3llm.trajectories.extract import ExtractionConfig, extract_trajectories

    from .loading import load_autoregressive_model, load_model

    teacher = args.model if _is_hub_id(args.model) else checkpoint_folder(args).resolve().name
    names = [field.name for field in dataclasses.fields(ExtractionConfig)]
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    if args.order == "published":
        given.setdefault("prompt_column", "prompt_ids")
    config = ExtractionConfig(**given, teacher=teacher, decoding=fields)
    disable_progress_bars()
    with _log_to_stderr():
        processes = Processes.launched()
        folder = _download(args.model) if _is_hub_id(args.model) else checkpoint_folder(args)
        options = {"device": args.device or processes.device, "trust_remote_code": args.trust_remote_code}
        if config.order == "ar":
            model, tokenizer = load_autoregressive_model(folder, **options)
        else:
            model, tokenizer = load_model(folder, **options, weights=config.order == "teacher")
        counts = extract_trajectories(model, tokenizer, config, processes)
    if counts is not None:
        share = f", {counts.share_correct:.1%} answered right" if counts.share_correct is not None else ""
        unjudged = f", {counts.unjudged} without an answer" if counts.unjudged and config.check != "none" else ""
        too_long = f", {len(counts.too_long)} prompts too long" if counts.too_long else ""
        loops = f", {counts.looping} end in a loop" if counts.looping else ""
        notes = f"{share}{unjudged}{too_long}{loops}"
        sys.stdout.write(f"{counts.rows} trajectories of {counts.samples} samples{notes} in {args.output}\n")


def check_effects(args: argparse.Namespace) -> None:
    """Raises a `ValueError` for arguments that would have no effect."""
    if args.temperatures is not None and args.order not in (None, "teacher"):
        raise ValueError(f"--temperatures is for the teacher's own texts: leave it out with --order {args.order}.")
    if args.allow_code_execution and args.check != "code":
        raise ValueError("--allow-code-execution is for --check code: give both, or neither.")


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("d3llm")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _is_hub_id(name: str | None) -> bool:
    return name is not None and not Path(name).exists() and name.count("/") == 1 and not name.startswith((".", "/"))


def _download(name: str) -> str:
    """The folder of a checkpoint on the Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return snapshot_download(name, allow_patterns=list(WEIGHT_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"There is no folder {name}, and the Hub did not give it either: {reason}") from error
