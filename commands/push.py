"""`d3llm push`: pushes models, trajectories, the metric and demo Spaces to the Hub, each with its card."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from d3llm.hub_cards import ModelFacts
    from d3llm.hub_cards.repositories import Repository


PICTURE = "accuracy_parallelism.png"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("push", help="push a model, trajectories, the metric or a demo to the Hub")
    kinds = parser.add_subparsers(title="what", metavar="WHAT", dest="kind", required=True)

    model = _add_kind(kinds, "model", "a model's folder: weights, code, tokenizer, card")
    model.add_argument("folder", type=Path, metavar="DIR", help="a folder from `save_pretrained` or `d3llm convert`")
    model.add_argument("--license", metavar="ID", help="licence of the base model, for the card")
    model.add_argument("--base-model", metavar="OWNER/NAME", help="the base model on the Hub, for the card")
    model.add_argument(
        "--results", type=Path, nargs="+", metavar="PATH", help="result files of `d3llm eval`, or folders of them"
    )
    model.add_argument(
        "--picture",
        type=Path,
        metavar="PNG",
        help="picture for the card (default: drawn from the curves in --results)",
    )

    trajectories = _add_kind(kinds, "trajectories", "a trajectory dataset; private by default")
    trajectories.add_argument("folder", type=Path, metavar="DIR", help="a folder from `d3llm extract`")

    metric = _add_kind(kinds, "metric", "a metric's Space, for `evaluate.load`")
    metric.add_argument(
        "folder", type=Path, nargs="?", metavar="DIR", help="folder of the metric's module (default: that of AUP)"
    )

    space = _add_kind(kinds, "space", "the demo Space, where two models or presets fill their canvases")
    space.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="OWNER/NAME",
        help="a model to run; give it twice for two models",
    )

    _add_kind(kinds, "custom-generate", "the decoder, for third-party models")
    for kind in kinds.choices.values():
        kind.add_argument("repo", metavar="REPO", help="owner/name on the Hub; created if it does not exist")


def _add_kind(kinds: argparse._SubParsersAction, name: str, summary: str) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=summary)
    parser.add_argument("--dry-run", action="store_true", help="check everything, and print what would be pushed")
    parser.add_argument("--replace", action="store_true", help="replace other content of REPO; its history stays")
    visible = parser.add_mutually_exclusive_group()
    visible.add_argument("--private", action="store_const", const=True, help="only you see a new repository")
    visible.add_argument(
        "--public", action="store_const", const=False, dest="private", help="everybody sees a new repository"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> None:
    from d3llm.hub_cards.cards import is_hub_id

    if not is_hub_id(args.repo):
        raise ValueError(f"{args.repo!r} is not the name of a repository: write owner/name.")
    repository = _repository(args)
    for path in repository.left_out:
        sys.stderr.write(f"skipped: {path}\n")
    for warning in repository.warnings:
        sys.stderr.write(f"d3llm: warning: {warning}\n")
    if args.dry_run:
        _print_plan(args, repository)
        return
    from d3llm.hub_cards.push import push

    pushed = push(repository, args.repo, private=args.private, replace=args.replace)
    changed = f"{pushed.changed} files changed" if pushed.changed else "nothing to change, all files were there"
    sys.stdout.write(f"{pushed.url} ({changed}, commit {pushed.commit[:8]})\n")


def _repository(args: argparse.Namespace) -> Repository:
    from d3llm.hub_cards import repositories
    from d3llm.hub_cards.folder import folder_files

    if args.kind == "model":
        from .loading import quiet_libraries

        quiet_libraries()
        folder_files(args.folder)  # checked before any file is read: reading a pipe might never return
        facts, picture = _model_facts(args)
        return repositories.model_repository(args.folder, args.repo, facts, picture)
    if args.kind == "trajectories":
        return repositories.trajectory_repository(args.folder, args.repo)
    if args.kind == "metric":
        return repositories.metric_repository(args.folder, args.repo)
    if args.kind == "space":
        return repositories.space_repository(args.model)
    return repositories.custom_generate_repository(args.repo)


def _model_facts(args: argparse.Namespace) -> tuple[ModelFacts | None, Path | bytes | None]:
    """The facts of the card and its picture; `None` for a hand-written card, which is pushed unchanged."""
    from d3llm.hub_cards import MODEL_FACTS, ModelFacts, read_facts
    from d3llm.hub_cards.from_results import model_facts, with_results

    given = {"license": args.license, "base_model": args.base_model}
    given = {name: value for name, value in given.items() if value is not None}
    if (args.folder / MODEL_FACTS).is_file():
        facts = dataclasses.replace(read_facts(ModelFacts, args.folder / MODEL_FACTS), **given)
    elif not (args.folder / "README.md").is_file():
        facts = model_facts(args.folder, **{"license": "", **given})
    elif given or args.results or args.picture:
        raise ValueError(
            f"{args.folder / 'README.md'} is a hand-written card: remove it, or omit --license, --base-model, "
            "--results and --picture."
        )
    else:
        return None, None
    if args.results:
        from d3llm.evaluation.result import read_results

        results = read_results(args.results)
        facts = with_results(facts, args.folder, results)
    if args.picture:
        return dataclasses.replace(facts, picture=args.picture.name), args.picture
    if args.results and facts.areas:
        from d3llm.evaluation.plots import curves_png

        return dataclasses.replace(facts, picture=PICTURE), curves_png(results)
    return facts, None


def _print_plan(args: argparse.Namespace, repository: Repository) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    private = repository.private if args.private is None else args.private
    visibility = "private" if private else "public"
    table = Table(title=f"{args.repo} ({repository.kind}, {visibility} if it is new)", title_justify="left")
    table.add_column("file")
    table.add_column("size", justify="right")
    total = 0
    for path, content in sorted(repository.files.items()):
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        total += size
        table.add_row(path, decimal(size))
    table.add_section()
    table.add_row(f"{len(repository.files)} files; nothing was sent", decimal(total))
    Console(highlight=False).print(table)
