"""`d3llm distill`: trains a student on trajectories."""

import argparse
from typing import Any


class _Help(argparse.Action):
    """Shows the help of the recipe's parser, which needs the libraries."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        from d3llm.trainers.distill import parse_arguments

        parse_arguments(["--help"])


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("distill", help="train a student on trajectories", add_help=False)
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help message and exit")
    parser.set_defaults(run=run, takes_fields=True)


def run(args: argparse.Namespace) -> None:
    from d3llm.trainers import distill, distill_drafter, distill_rl, distill_rounds

    modules = dict(zip(distill.TRAINERS, (distill, distill_drafter, distill_rl), strict=True))
    module = modules[distill.trainer_of(args.fields)]
    if module is distill and distill_rounds.is_meant(args.fields):
        module = distill_rounds
    module.main(args.fields)
