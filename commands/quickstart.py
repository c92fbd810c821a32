"""`d3llm quickstart`: makes the embedded models again."""

import argparse
import dataclasses
import logging
import sys
from pathlib import Path


# What a student's recipe must hold beside its seed; what else there is in `student.yaml` has a default.
STUDENT_RECIPE = {
    "problems": ["count", "seed"],
    "decoding": ["max_new_tokens"],
    "extraction": ["preset"],
    "training": [],
    "measurement": ["split", "problems", "seed", "batch_size", "methods"],
}
# What its sections cannot set, since the command does.
SET_BY_COMMAND = {
    "extraction": {"dataset", "output", "teacher", "answer_column", "check", "license", "seed", "decoding"},
    "training": {"output_dir", "seed", "max_new_tokens", "save_total_limit", "report_to", "use_cpu"},
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("quickstart", help="train the embedded models")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    teacher = actions.add_parser("train-teacher", help="train the teacher from scratch")
    teacher.add_argument("--recipe", type=Path, metavar="FILE", help="YAML recipe (default: the shipped one)")
    teacher.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("runs/teacher"), help="default: %(default)s"
    )
    teacher.add_argument("--resume", action="store_true", help="go on from the last state in the output folder")
    teacher.set_defaults(run=run_train_teacher)
    student = actions.add_parser(
        "distill", help="distil a student from the teacher and measure both; a run that was cut goes on"
    )
    student.add_argument("--recipe", type=Path, metavar="FILE", help="YAML recipe (default: the shipped one)")
    student.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("runs/student"), help="default: %(default)s"
    )
    student.set_defaults(run=run_distill)
    ablation = actions.add_parser(
        "ablate", help="train students with parts of the recipe changed and compare them; a run that was cut goes on"
    )
    ablation.add_argument(
        "--output", type=Path, metavar="DIR", default=Path("runs/ablation"), help="default: %(default)s"
    )
    ablation.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="SEED",
        help="run these seeds alone, to divide the work (default: all of ablation.yaml)",
    )
    ablation.set_defaults(run=run_ablate)


def run_train_teacher(args: argparse.Namespace) -> None:
    import yaml

    from d3llm.quickstart.train_teacher import STATE_FILE, load_recipe, train_teacher

    try:
        load_recipe(args.recipe)
    except yaml.YAMLError as error:
        raise ValueError(f"{args.recipe} is not YAML: {error}") from error
    if not args.resume and (args.output / STATE_FILE).exists():
        raise ValueError(f"{args.output} holds a run: add --resume to go on with it, or choose another --output.")
    log_progress()
    train_teacher(args.recipe, args.output, resume=args.resume)


def run_distill(args: argparse.Namespace) -> None:
    from d3llm.quickstart.distill_student import distill_student

    from .eval import print_table

    if args.recipe is not None:
        check_student_recipe(args.recipe)
    log_progress()
    print_table(distill_student(args.output, args.recipe))


def check_student_recipe(path: Path) -> None:
    """
    Refuses a recipe that [`~d3llm.quickstart.distill_student.distill_student`] could not read to its end.

    Args:
        path (`Path`): The recipe.

    Raises:
        `ValueError`: For a file that is not YAML, what is missing or of another kind than in the shipped recipe, and
            fields that nothing knows; it names them.
        `OSError`: If there is no such file.
    """
    import yaml

    from d3llm.quickstart.distill_student import DEFAULT_RECIPE
    from d3llm.trainers.extract import ExtractionConfig
    from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig

    shipped = yaml.safe_load(DEFAULT_RECIPE.read_text(encoding="utf-8"))
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is not a recipe: it has no sections. Start from {DEFAULT_RECIPE}.")
    faults = [name for name in shipped if type(recipe.get(name)) is not type(shipped[name])]
    for section in STUDENT_RECIPE.keys() - faults:
        for name in STUDENT_RECIPE[section]:
            if type(recipe[section].get(name)) is not type(shipped[section][name]):
                faults.append(f"{section}.{name}")
    if not faults and not all(_is_method(method) for method in recipe["measurement"]["methods"]):
        faults.append("measurement.methods")
    if faults:
        raise ValueError(
            f"{path} is not a student's recipe: missing, or of another kind than in {DEFAULT_RECIPE}: "
            f"{', '.join(sorted(faults))}."
        )
    for section, kind in (("extraction", ExtractionConfig), ("training", PseudoTrajectoryConfig)):
        known = {field.name for field in dataclasses.fields(kind) if field.init} - SET_BY_COMMAND[section]
        unknown = sorted(map(str, recipe[section].keys() - known - set(STUDENT_RECIPE[section])))
        if unknown:
            raise ValueError(
                f"{path}: `{section}` cannot set {', '.join(unknown)}: nothing is called so, or the command sets it."
            )


def _is_method(method: object) -> bool:
    return isinstance(method, dict) and method.get("model") in ("student", "teacher") and "preset" in method


def run_ablate(args: argparse.Namespace) -> None:
    from d3llm.quickstart.ablation import ablation_rows, markdown_table, run_ablation

    log_progress()
    sys.stdout.write(markdown_table(ablation_rows(run_ablation(args.output, seeds=args.seeds))))


def log_progress() -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("d3llm").setLevel(logging.INFO)
