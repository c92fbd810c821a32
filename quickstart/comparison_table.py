"""What a comparison says: tables and pictures of the students, with differences from the base."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from ..common.files import write_atomically
from ..evaluation.aup.aup import FLOOR_RULES
from ..evaluation.differences import Difference, method_differences
from ..evaluation.leaderboard import Curve, Point, make_boards
from ..evaluation.plots import draw_curves, save
from ..evaluation.resampling import Estimate, ResampledCurve, Resampling
from ..evaluation.result import Result, by_curve, read_results
from .comparison import ComparisonFolder
from .comparison_plan import ONE_TOKEN, TEACHER, ComparisonPlan, read_plan
from .student_recipe import method_points


BASELINE = f"{TEACHER}-{ONE_TOKEN}"
HEADS = {"drop": "AUP, points below the floor dropped", "cross": "AUP, cut at the floor"}
ONLY_CHECK = "its only check"


@dataclass(frozen=True)
class Row:
    """
    A model with a decoder.

    Attributes:
        model (`str`): Name of the student, or `"teacher"`.
        decoder (`str`): Name of the decoder.
        score (`str`): What the decoder's thresholds are of.
        seeds (`list[int]`): Seeds with all points; of the teacher, none.
        areas (`dict[str, Estimate]`): AUP by floor rule, the mean over seeds, with its interval over problems and
            seeds.
        areas_of_seeds (`dict[str, list[float]]`): AUP of each seed by floor rule.
        points (`list[dict[str, Any]]`): By rising TPF, the means over seeds: `accuracy` in percent,
            `tokens_per_forward`, and the threshold.
        from_teacher (`dict[str, list[Difference]]`): By floor rule what it has more of than the teacher by the same
            decoder, if the teacher was measured with that.
        other (`str`): Model and decoder of the base that it is compared with, if there is one.
        differences (`dict[str, list[Difference]]`): By floor rule what it has more of than that one, over the seeds
            that both have.
    """

    model: str
    decoder: str
    score: str
    seeds: list[int]
    areas: dict[str, Estimate]
    areas_of_seeds: dict[str, list[float]]
    points: list[dict[str, Any]]
    from_teacher: dict[str, list[Difference]]
    other: str
    differences: dict[str, list[Difference]]


class ComparisonResults:
    """
    The results of a comparison by one check.

    Args:
        plan ([`ComparisonPlan`]): The plan.
        results (`Sequence[Result]`): The results, all judged by the check.

    Raises:
        `ValueError`: If the teacher was not measured with one token per forward.
    """

    def __init__(self, plan: ComparisonPlan, results: Sequence[Result]):
        self.plan = plan
        self.resampling = Resampling()  # how intervals are made
        self.curves = {method: points for (_, method), points in by_curve(results).items()}
        if BASELINE not in self.curves:
            raise ValueError(f"There is no result of {BASELINE}: run the comparison first.")
        self.baseline = self.curves[BASELINE][0]
        self.best = max(result.accuracy_percent for points in self.curves.values() for result in points) or None

    def rows(self) -> list[Row]:
        """
        The teacher with its decoders, and the students with theirs.

        A student is compared with the teacher by the same decoder. It is also compared with the base by the same
        decoder, or by the base's first one if it does not have that; the base by another decoder with itself by its
        first one.

        Returns:
            `list[Row]`: Those with all points for at least one seed.
        """
        rows = [self._row(TEACHER, decoder, [], None) for decoder in self.plan.values["teacher_decoders"]]
        for student in self.plan.students:
            for decoder in self.plan.decoders_of(student):
                rows.append(
                    self._row(student, decoder, self.seeds_of(student, decoder), self._other(student, decoder))
                )
        return [row for row in rows if row is not None]

    def seeds_of(self, student: str, decoder: str) -> list[int]:
        """The seeds of which all points of a student with a decoder were measured."""
        settings = self.plan.values["decoders"][decoder]
        seeds = self.plan.values["seeds"]
        return [seed for seed in seeds if self._is_whole(f"{student}-{seed}-{decoder}", settings)]

    def _is_whole(self, method: str, settings: dict[str, Any]) -> bool:
        found = [result.point for result in self.curves.get(method, ())]
        return all(point in found for point in method_points(settings))

    def _other(self, student: str, decoder: str) -> tuple[str, str] | None:
        base = self.plan.base
        first, *others = self.plan.decoders_of(base)
        if student == base:
            return None if decoder == first else (base, first)
        return base, decoder if decoder in others else first

    def _row(self, model: str, decoder: str, seeds: list[int], other: tuple[str, str] | None) -> Row | None:
        settings = self.plan.values["teacher_decoders" if model == TEACHER else "decoders"][decoder]
        methods = _methods(model, decoder, seeds)
        if not methods or not all(self._is_whole(method, settings) for method in methods):
            return None
        points = method_points(settings)
        curves = [[self._at(method, point) for point in points] for method in methods]
        resampled = {rule: [self._resample(curve, rule) for curve in curves] for rule in FLOOR_RULES}
        return Row(
            model,
            decoder,
            str(curves[0][0].decoding.get("score")),
            seeds,
            areas={rule: self._mean_area(runs) for rule, runs in resampled.items()},
            areas_of_seeds={rule: [run.area for run in runs] for rule, runs in resampled.items()},
            points=[
                {
                    **point,
                    "accuracy": mean(curve[place].accuracy_percent for curve in curves),
                    "tokens_per_forward": mean(curve[place].tokens_per_forward or 0.0 for curve in curves),
                }
                for place, point in enumerate(points)
            ],
            from_teacher={} if model == TEACHER else self._from_teacher(model, decoder),
            other="" if other is None else " by ".join(other),
            differences={} if other is None else self._differences((model, decoder), other),
        )

    def _at(self, method: str, point: dict[str, Any]) -> Result:
        return next(result for result in self.curves[method] if result.point == point)

    def _resample(self, curve: list[Result], rule: str) -> ResampledCurve:
        ordered = sorted(curve, key=lambda result: result.tokens_per_forward or 0.0)
        return ResampledCurve.of(ordered, self.resampling, self.baseline, y_max=self.best, floor_rule=rule)

    def _mean_area(self, runs: list[ResampledCurve]) -> Estimate:
        resampled = self.resampling.draw_runs([run.areas for run in runs])
        return self.resampling.estimate(mean(run.area for run in runs), resampled)

    def _from_teacher(self, student: str, decoder: str) -> dict[str, list[Difference]]:
        settings = self.plan.values["teacher_decoders"].get(decoder)
        if settings is None or not self._is_whole(f"{TEACHER}-{decoder}", settings):
            return {}
        return self._differences((student, decoder), (TEACHER, decoder))

    def _differences(self, one: tuple[str, str], other: tuple[str, str]) -> dict[str, list[Difference]]:
        """What a student by its decoder has more of than another model by its own, over the seeds that both have."""
        seeds = self.seeds_of(*one)
        if other[0] != TEACHER:
            seeds = [seed for seed in seeds if seed in self.seeds_of(*other)]
        if not seeds:
            return {}
        methods = [*_methods(*one, seeds), *_methods(*other, seeds)]
        results = [self.baseline, *(result for method in methods for result in self.curves[method])]
        patterns = [_pattern(*one), _pattern(*other)]
        options: dict[str, Any] = {"y_max": {self.baseline.title: self.best}, "baseline": BASELINE}
        return {
            rule: method_differences(results, *patterns, floor_rule=rule, resampling=self.resampling, **options)
            for rule in FLOOR_RULES
        }


def _methods(model: str, decoder: str, seeds: Sequence[int]) -> list[str]:
    """The names of a model's runs in result files; a teacher has one, without a seed."""
    return [f"{TEACHER}-{decoder}"] if model == TEACHER else [f"{model}-{seed}-{decoder}" for seed in seeds]


def _pattern(model: str, decoder: str) -> str:
    """What the names of [`_methods`] have in common."""
    return "-".join([TEACHER, decoder] if model == TEACHER else [model, "[0-9]*", decoder])


def write_report(output: Path, plan_path: Path | None = None) -> Path:
    """
    Writes tables, pictures and all estimates of a comparison, for each check of the task: what is there of it.

    Args:
        output (`Path`): The folder of the comparison.
        plan_path (`Path`, *optional*): The plan; by default `comparison.yaml`.

    Returns:
        `Path`: `comparison.md` in it, beside `comparison.json` and `pictures/`.

    Raises:
        `ValueError`: For a folder without results of the teacher.
        `OSError`: If it cannot be written.
    """
    plan, folder = read_plan(plan_path), ComparisonFolder(output)
    parts, estimates = [], {}
    for check, results in by_check(read_results([folder.results])):
        found = ComparisonResults(plan, results)
        rows = found.rows()
        pictures = draw_rows(rows, found, folder.path / "pictures" / check.replace(" ", "_"))
        links = [f"![{path.stem}]({path.relative_to(output)})" for path in pictures if path.suffix == ".png"]
        parts += [f"## By {check}", describe(plan, results), area_table(rows), *point_tables(rows), *links]
        estimates[check] = [asdict(row) for row in rows]
    write_atomically(output / "comparison.json", (json.dumps(estimates, indent=1) + "\n").encode())
    page = output / "comparison.md"
    write_atomically(page, "\n\n".join(part.rstrip() for part in parts).encode() + b"\n")
    return page


def by_check(results: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    """The results by each check of their task, the deciding one first."""
    first = results[0]
    if first.judged_by is None:
        yield ONLY_CHECK, list(results)
        return
    for name in (first.judged_by, *(first.further_accuracy or {})):
        yield name, [result.judged(name) for result in results]


def describe(plan: ComparisonPlan, results: Sequence[Result]) -> str:
    """A paragraph on how to read the tables."""
    best = max(result.accuracy_percent for result in results)
    measured = plan.values["measurement"]
    return (
        f"{measured['problems']} problems of the {measured['split']} split, seed {measured['seed']}; `y_max` "
        f"{best:.1f} %; the floor is 5 points below the teacher with one token per forward. Intervals are 95 %, by "
        "resampling problems and seeds, of differences as pairs. One is bold if its interval leaves out zero. "
        f"Students are compared with the teacher by the same decoder, and with the base, {plan.base}; {plan.base} by "
        f"another decoder with itself by {plan.decoders_of(plan.base)[0]}. Pictures have the means over seeds, and "
        "the AUP of these."
    )


def area_table(rows: Sequence[Row]) -> str:
    """AUP by both floor rules, with the differences, as a Markdown table."""
    heads = ["student", "decoder", "seeds"]
    for rule in FLOOR_RULES:
        heads += [HEADS[rule], "from the teacher", "from the base"]
    cells = []
    for row in rows:
        line = [row.model, row.decoder, ", ".join(map(str, row.seeds))]
        for rule in FLOOR_RULES:
            line += [_estimate(row.areas[rule]), _of_area(row.from_teacher, rule), _of_area(row.differences, rule)]
        cells.append(line)
    return markdown_lines(heads, cells)


def point_tables(rows: Sequence[Row]) -> Iterator[str]:
    """For each decoder, accuracy in percent @ TPF at each threshold, as Markdown tables."""
    for (decoder, score), of_decoder in _by_decoder(rows).items():
        thresholds = sorted({point.get("threshold", 0.0) for row in of_decoder for point in row.points})
        unit = " nats" if score == "entropy" else ""
        heads = [f"{threshold}{unit}" if threshold else "no threshold" for threshold in thresholds]
        cells = [[row.model, *point_cells(row.points, thresholds)] for row in of_decoder]
        yield f"{decoder}:\n\n{markdown_lines(['student', *heads], cells)}"


def point_cells(points: list[dict[str, Any]], thresholds: Sequence[float]) -> list[str]:
    """Accuracy in percent @ TPF at each threshold; nothing where there is no point."""
    at = {point.get("threshold", 0.0): point for point in points}
    return [
        f"{at[threshold]['accuracy']:.1f} @ {at[threshold]['tokens_per_forward']:.2f}" if threshold in at else ""
        for threshold in thresholds
    ]


def markdown_lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def draw_rows(rows: Sequence[Row], of: ComparisonResults, folder: Path) -> list[Path]:
    """
    Draws a picture of all curves of each decoder, with the teacher's point of one token per forward.

    Args:
        rows (`Sequence[Row]`): The rows.
        of ([`ComparisonResults`]): What they are of.
        folder (`Path`): Folder for the pictures.

    Returns:
        `list[Path]`: The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    (one_token,) = (row for row in rows if (row.model, row.decoder) == (TEACHER, ONE_TOKEN))
    for (decoder, _), of_decoder in _by_decoder(rows).items():
        others = [row for row in of_decoder if row is not one_token]
        if not others:
            continue
        curves = [_mean_curve(decoder, one_token, of.baseline, BASELINE)]
        curves += [_mean_curve(decoder, row, of.baseline, row.model) for row in others]
        (board,) = make_boards(curves, {of.baseline.title: of.best}, BASELINE, resamples=0)
        # The mean of the areas, as in the table, is not the area of the mean: each seed has points of its own above
        # the floor.
        areas = {(row.model, of.baseline.title): row.areas[board.floor_rule].value for row in others}
        board = replace(board, areas=board.areas | areas)
        paths += save(draw_curves(board), folder / decoder)
    return paths


def _mean_curve(table: str, row: Row, result: Result, name: str) -> Curve:
    points = [Point(point["tokens_per_forward"], point["accuracy"]) for point in row.points]
    points.sort(key=lambda point: point.tokens_per_forward)
    return Curve(table, result.title, name, tuple(points), judged_by=result.judged_by)


def _by_decoder(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.decoder, row.score), []).append(row)
    return found


def _estimate(value: Estimate) -> str:
    return f"{value.value:.0f} ({value.low:.0f} to {value.high:.0f})"


def _of_area(differences: dict[str, list[Difference]], rule: str) -> str:
    """The difference in AUP, bold if it is one; empty if there is nothing to compare with."""
    found = next((each for each in differences.get(rule, ()) if each.quantity == "AUP"), None)
    if found is None:
        return ""
    return difference_cell(found)


def difference_cell(found: Difference, digits: int = 0, scale: float = 1.0, unit: str = "") -> str:
    """
    A difference with its interval as a cell of a table, bold if it is one.

    Args:
        found ([`~d3llm.evaluation.differences.Difference`]): The difference.
        digits (`int`, *optional*, defaults to 0): Digits after the point.
        scale (`float`, *optional*, defaults to 1.0): What to multiply it with.
        unit (`str`, *optional*, defaults to `""`): What stands after the value.

    Returns:
        `str`: `+1.2 (+0.3 to +2.1)`.
    """
    estimate = found.difference
    value, low, high = (f"{scale * each:+.{digits}f}" for each in (estimate.value, estimate.low, estimate.high))
    text = f"{value}{unit} ({low} to {high})"
    return f"**{text}**" if found.shown else text
