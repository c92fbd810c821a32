"""`d3llm distill`: trains a student on trajectories."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("distill", help="train a student on trajectories", add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this help message and exit")
    parser.set_defaults(run=run, takes_fields=True)


def run(args: argparse.Namespace) -> None:
    from d3llm.trainers import distill, distill_drafter, distill_rl, distill_rounds

    argv = [*args.fields, *(["--help"] if args.help else [])]  # shown by the parser of the kind of training
    modules = dict(zip(distill.TRAINERS, (distill, distill_drafter, distill_rl), strict=True))
    module = modules[distill.trainer_of(argv)]
    if module is distill and distill_rounds.is_meant(argv):
        module = distill_rounds
    module.main(argv)
