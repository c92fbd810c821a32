"""`d3llm doctor`: whether this machine, and a model on it, will work. One line per check, with the remedy."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .doctor_check import Check
from .fields import not_empty


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "doctor", help="check versions, device, attention kernels, network and, with --model, memory and decoding"
    )
    parser.add_argument(
        "--model", type=not_empty, metavar="DIR_OR_REPO", help="also check this checkpoint folder or Hub id"
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="rows of a batch (default: 1)")
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help="positions of the canvas, prompt included (default: 1024, or all that the model has)",
    )
    parser.add_argument("--device", help="for example cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--no-self-test", action="store_true", help="do not load the weights of --model")
    parser.add_argument(
        "--record",
        action="store_true",
        help="write into the folder of --model what it decodes here, for other machines",
    )
    parser.add_argument(
        "--timeout", type=float, default=3.0, metavar="SECONDS", help="seconds to wait for the Hub (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="write the checks as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the checks and prints each as soon as it is done. Exit code 1 if one of them is an error."""
    for name in ("batch_size", "length", "timeout"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}: give a number over 0.")

    if args.record and (args.model is None or not Path(args.model).is_dir()):
        raise ValueError("--record writes into the folder of --model: give one.")

    from .doctor_machine import choose_device, machine_checks
    from .loading import quiet_libraries

    quiet_libraries()
    done: list[Check] = []

    def report(check: Check) -> None:
        done.append(check)
        if not args.json:
            sys.stdout.write(check.line() + "\n")
            sys.stdout.flush()

    for check in machine_checks(device=args.device, timeout=args.timeout):
        report(check)
    if args.model is not None:
        from .doctor_model import model_checks

        shape = {"batch_size": args.batch_size, "length": args.length}
        tests = {"self_test": not args.no_self_test, "compare": not args.record}
        for check in model_checks(args.model, device=args.device, **tests, **shape):
            report(check)
    failed = any(check.status == "error" for check in done)
    if args.record and not failed:
        from .doctor_model import record_decoding

        written = record_decoding(Path(args.model), choose_device(args.device))
        sys.stderr.write(f"recorded in {written}\n")
    if args.json:
        sys.stdout.write(
            json.dumps({"ok": not failed, "checks": [check._asdict() for check in done]}, indent=2) + "\n"
        )
    return int(failed)
