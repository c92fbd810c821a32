"""`d3llm extract`: records in which order a teacher commits its tokens."""

import argparse
import logging
import sys
from pathlib import Path

from .fields import add_decoding_arguments, checkpoint_folder, parse_fields


WEIGHT_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.safetensors")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "extract",
        help="record the trajectories of a teacher, to distil a student on",
        usage="%(prog)s --dataset DATASET --output DIR [--teacher M] [--check CHECK] [--FIELD VALUE]...",
        add_help=False,
    )
    data = parser.add_argument_group("data set")
    data.add_argument("--dataset", required=True, help="Hub id, file (JSON, JSON lines, Parquet, CSV) or folder")
    data.add_argument("--dataset-config", metavar="NAME", help="configuration of a data set that has several")
    data.add_argument("--split", default="train", help="default: %(default)s")
    data.add_argument("--limit", type=int, metavar="N", help="take the first N rows")
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
        default="teacher",
        help="where it comes from: teacher (default), random, left_to_right, column, ar_rank, or published for the "
        "data sets d3LLM/trajectory_data_*",
    )
    rows.add_argument("--order-model", metavar="M", help="causal language model, for --order ar_rank")
    rows.add_argument("--check", default="none", help="none (default), boxed, hash, number or code")
    rows.add_argument("--allow-code-execution", action="store_true", help="let --check code run what was generated")
    rows.add_argument("--keep", default="all", help="all (default) or correct")
    rows.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=[0.0, 0.1, 0.2, 0.3, 0.4],
        metavar="T",
        help="of one attempt after another, while the answer is wrong (default: 0 0.1 0.2 0.3 0.4)",
    )
    rows.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, required=True, metavar="DIR", help="a run that was cut goes on there")
    output.add_argument("--license", default="other", help="of the prompts, for the card (default: %(default)s)")
    output.add_argument("--chunk-size", type=int, default=64, metavar="N", help="samples per part (%(default)s)")
    output.add_argument("--batch-size", type=int, default=16, metavar="N", help="rows decoded at once (%(default)s)")
    add_decoding_arguments(parser, model_flag="--teacher")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    fields = parse_fields(args)

    from accelerate import PartialState
    from datasets import disable_progress_bars

    from d3llm.trainers.extract import ExtractionConfig, extract_trajectories

    from .loading import load_model

    prompt_column = "prompt_ids" if args.order == "published" else "prompt"
    config = ExtractionConfig(
        dataset=args.dataset,
        output=args.output,
        teacher=args.model if _is_hub_id(args.model) else checkpoint_folder(args).resolve().name,
        dataset_config=args.dataset_config,
        split=args.split,
        limit=args.limit,
        prompt_column=args.prompt_column or prompt_column,
        answer_column=args.answer_column,
        response_column=args.response_column,
        order_column=args.order_column,
        chat=args.chat,
        order=args.order,
        order_model=args.order_model,
        decoding=fields,
        temperatures=tuple(args.temperatures),
        seed=args.seed,
        check=args.check,
        allow_code_execution=args.allow_code_execution,
        keep=args.keep,
        license=args.license,
        chunk_size=args.chunk_size,
        batch_size=args.batch_size,
    )
    disable_progress_bars()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("d3llm").setLevel(logging.INFO)
    state = PartialState()
    model, tokenizer = load_model(
        _download(args.model) if _is_hub_id(args.model) else checkpoint_folder(args),
        device=args.device or str(state.device),
        trust_remote_code=args.trust_remote_code,
        weights=args.order == "teacher",
    )
    counts = extract_trajectories(model, tokenizer, config)
    if state.is_main_process:
        share = f", {counts.share_correct:.1%} answered right" if counts.share_correct is not None else ""
        left_out = f", {len(counts.too_long)} prompts too long" if counts.too_long else ""
        sys.stdout.write(f"{counts.rows} trajectories of {counts.samples} samples{share}{left_out} in {args.output}\n")


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
