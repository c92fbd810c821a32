"""Makes the shipped student again: one of the comparison's plan, with those that it starts from."""

from pathlib import Path

from transformers.utils import logging

from ..evaluation.result import Result, read_results
from .comparison import Comparison, ComparisonFolder
from .comparison_plan import TEACHER, read_plan


logger = logging.get_logger(__name__)


def distill_shipped(output: Path, plan_path: Path | None = None) -> list[Result]:
    """
    Trains the shipped student of a plan from the teacher, and measures both. A killed run resumes where it was.

    Args:
        output (`Path`): A folder as of [`run_comparison`], which can resume in it. The student is
            `students/NAME-SEED`, with its log.
        plan_path (`Path`, *optional*): The plan; by default `comparison.yaml`.

    Returns:
        `list[Result]`: The results of the teacher and the student.

    Raises:
        `ValueError`: For parts that were run with other values, and as from [`read_plan`].
        `OSError`: For a teacher that is not there.
    """
    plan, folder = read_plan(plan_path), ComparisonFolder(output)
    name, seed = plan.shipped
    line = plan.with_starts([name])
    comparison = Comparison(plan, folder)
    comparison.begin(line)
    for student in line:
        comparison.train_student(student, seed)
    logger.info("The student is in %s", folder.student(name, seed))
    comparison.measure_teacher()
    comparison.measure_student(name, seed)
    models = (f"{TEACHER}-", f"{name}-{seed}-")
    return [result for result in read_results([folder.results]) if result.method.startswith(models)]
