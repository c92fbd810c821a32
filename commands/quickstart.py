"""`d3llm quickstart`: trains the shipped models again, and makes the one that a package brings."""

import argparse
import logging
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("quickstart", help="train the shipped models again")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    teacher = actions.add_parser("train-teacher", help="train the teacher from scratch")
    teacher.add_argument("--recipe", type=Path, metavar="FILE", help="YAML recipe (default: the shipped one)")
    teacher.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("runs/teacher"), help="default: %(default)s"
    )
    teacher.add_argument("--resume", action="store_true", help="resume from the last state in the output folder")
    teacher.add_argument(
        "--bf16", action="store_true", help="matrix products in bfloat16: much faster on processors that have it"
    )
    teacher.set_defaults(run=run_train_teacher)
    student = actions.add_parser(
        "distill", help="distil the shipped student from the teacher and measure both; an interrupted run resumes"
    )
    student.add_argument(
        "--plan", type=Path, metavar="FILE", help="YAML plan of a comparison (default: the shipped one)"
    )
    student.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("runs/student"), help="default: %(default)s"
    )
    student.set_defaults(run=run_distill)
    comparison = actions.add_parser(
        "compare",
        help="train students by many recipes, with several seeds, and compare them; an interrupted run resumes",
    )
    comparison.add_argument(
        "--plan", type=Path, metavar="FILE", help="YAML plan, or `recipes`, a smaller one (default: the shipped one)"
    )
    comparison.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("runs/comparison"), help="default: %(default)s"
    )
    comparison.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED", help="run only these seeds of the plan (default: all)"
    )
    comparison.add_argument(
        "--only",
        nargs="+",
        metavar="STUDENT",
        help="run only these students of the plan, with those that they start from (default: all)",
    )
    comparison.add_argument(
        "--report", action="store_true", help="run nothing, and write tables and pictures of what is there"
    )
    comparison.set_defaults(run=run_compare)
    smollm2 = actions.add_parser(
        "smollm2", help="print the folder of SmolLM2-135M-Instruct (extra `real`), which is made at first"
    )
    smollm2.set_defaults(run=run_smollm2)


def run_train_teacher(args: argparse.Namespace) -> None:
    from d3llm.quickstart.teacher_recipe import load_recipe
    from d3llm.quickstart.train_teacher import STATE_FILE, train_teacher

    load_recipe(args.recipe)
    if not args.resume and (args.output / STATE_FILE).exists():
        raise ValueError(f"{args.output} holds a run: add --resume to continue it, or choose another --output.")
    log_progress()
    train_teacher(args.recipe, args.output, resume=args.resume, bf16=args.bf16)


def run_distill(args: argparse.Namespace) -> None:
    from d3llm.quickstart.distill_shipped import distill_shipped

    from .eval import print_table

    log_progress()
    print_table(distill_shipped(args.output, args.plan))


def run_compare(args: argparse.Namespace) -> None:
    from d3llm.quickstart.comparison import run_comparison
    from d3llm.quickstart.comparison_table import write_report

    log_progress()
    if not args.report:
        run_comparison(args.output, args.plan, args.seeds, args.only)
    page = write_report(args.output, args.plan)
    sys.stdout.write(f"{page.read_text(encoding='utf-8')}\n{page}\n")


def run_smollm2(args: argparse.Namespace) -> None:
    from d3llm.quickstart.smollm2 import smollm2_folder

    from .loading import quiet_libraries

    quiet_libraries()
    sys.stdout.write(f"{smollm2_folder()}\n")


def log_progress() -> None:
    """Prints the log of this package with times."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("d3llm").setLevel(logging.INFO)
