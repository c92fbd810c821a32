"""`d3llm distill`: trains a student on trajectories."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("distill", help="train a student on trajectories", add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this help message and exit")
    parser.set_defaults(run=run, takes_fields=True)


def run(args: argparse.Namespace) -> None:
    from d3llm.trainers import distill, distill_drafter, distill_rounds

    argv = [*args.fields, *(["--help"] if args.help else [])]  # shown by the parser of the kind of training
    kinds = (kind for kind in (distill_drafter, distill_rounds) if kind.is_meant(argv))
    next(kinds, distill).main(argv)
