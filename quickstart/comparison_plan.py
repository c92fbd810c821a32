"""The plan of a comparison of recipes: what is compared, read and checked before anything runs."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..common.schema import check
from ..common.yaml_files import read_yaml
from ..generation import DiffusionGenerationConfig
from ..trainers.lightning_rl_config import LightningRLConfig
from ..trainers.rewards import SpeedOf
from ..trainers.rounds_config import RoundsConfig
from .comparison_file import ComparisonFile, Decoder, Student
from .stories.reference import CHECK
from .stories.rows import ANSWER, PROMPT, SOLUTION
from .student_recipe import SET_BY_RUN, check_names, check_recipe, training_config


PLANS = Path(__file__).resolve().parent
DEFAULT_PLAN = PLANS / "comparison.yaml"
SHIPPED_PLANS = ("comparison", "recipes")
TEACHER = "teacher"
ONE_TOKEN = "one_token"  # the decoder of the teacher that sets the floor of AUP
RESERVED = {TEACHER, ONE_TOKEN}
SET_BY_ROUNDS = {
    "resume",
    "prompts",
    "prompts_config",
    "prompts_split",
    "prompt_column",
    "answer_column",
    "response_column",
    "check",
    "rounds",
}
REWARD_ARGUMENTS = {"reward_speed_of"}  # of the run, besides the fields of the trainer
OF_ANOTHER_ORDER = ("order", "chunk_size", "batch_size")  # the texts are those of the teacher's runs
ORDERS = ("teacher", "random", "left_to_right", "ar_rank", "ar_buckets")  # that need no further data


@dataclass(frozen=True)
class ComparisonPlan:
    """
    A plan that has been checked.

    Attributes:
        values (`dict[str, Any]`): The content of its file.
        name (`str`): What errors call it.
    """

    values: dict[str, Any]
    name: str

    @property
    def students(self) -> dict[str, dict[str, Any]]:
        """The students by their names, each after the one that it starts from."""
        return self.values["students"]

    @property
    def shipped(self) -> tuple[str, int]:
        """The student that comes with the package, and its seed."""
        return self.values["shipped"]["student"], self.values["shipped"]["seed"]

    @property
    def base(self) -> str:
        """The student that the others are compared with."""
        return self.values["base"]

    def common(self) -> dict[str, Any]:
        """What the results of all students depend on."""
        names = ("bf16", "problems", "fresh_problems", "decoding", "extraction", "order_model", "measurement")
        return {name: self.values[name] for name in names}

    def with_starts(self, names: Collection[str]) -> list[str]:
        """
        Students and those that they start from, in the order of the plan.

        Args:
            names (`Collection[str]`): Names of students.

        Returns:
            `list[str]`: The names.

        Raises:
            `ValueError`: For a name that is not in the plan.
        """
        unknown = [name for name in names if name not in self.students]
        if unknown:
            raise ValueError(
                f"{self.name} has no student {unknown[0]!r}: expected some of {', '.join(self.students)}."
            )
        return [name for name in self.students if any(name in self.line(other) for other in names)]

    def line(self, student: str) -> list[str]:
        """A student and those that it starts from, the last first."""
        start = self.students[student].get("start", TEACHER)
        return [student] if start == TEACHER else [student, *self.line(start)]

    def rounds_before(self, student: str) -> int:
        """Rounds that the students have made that this one starts from."""
        return sum("rounds" in self.students[other] for other in self.line(student)[1:])

    def decoders_of(self, student: str) -> list[str]:
        """Names of the decoders that a student is measured with."""
        return self.students[student].get("decoders", self.values["default_decoders"])

    def recipe(self, student: str, seed: int) -> dict[str, Any]:
        """
        The recipe of a student, without methods to measure.

        Args:
            student (`str`): Its name.
            seed (`int`): Seed of its training.

        Returns:
            `dict[str, Any]`: The recipe.
        """
        own = self.students[student]
        training = self.values["rounds_training" if "rounds" in own else "training"]
        return {
            **{name: self.values[name] for name in ("teacher", "problems", "decoding")},
            "seed": seed,
            "extraction": self.values["extraction"] | own.get("extraction", {}),
            "training": training | own.get("training", {}),
            "measurement": {**self.values["measurement"], "methods": []},
        }

    def training_of(self, student: str) -> dict[str, Any]:
        """What the weights of a student depend on, besides its seed and the model that it starts from."""
        own, recipe = self.students[student], self.recipe(student, 0)
        start = {"start": own.get("start", TEACHER)}
        if "rewards" in own:
            return {**start, "rewards": self.values["rewards"] | own["rewards"]}
        if "averaged_with" in own:
            return {**start, "averaged_with": own["averaged_with"]}
        if "rounds" in own:
            rounds = self.values["rounds"] | own["rounds"]
            return {**start, "rounds": rounds, "training": recipe["training"]}
        return {**start, "extraction": recipe["extraction"], "training": recipe["training"]}

    def rounds(self, student: str, prompts: Path) -> RoundsConfig:
        """
        A student's round. The problems are those after the ones of the rounds before it, unless it sets `skip`.

        Args:
            student (`str`): Its name.
            prompts (`Path`): The file of fresh problems.

        Returns:
            [`~d3llm.trainers.rounds_config.RoundsConfig`]: The configuration.

        Raises:
            `ValueError`: For invalid values.
        """
        given = self.values["rounds"] | self.students[student]["rounds"]
        skip = (given.get("prompts_per_round") or 0) * self.rounds_before(student)
        is_own = given.get("texts", "own") == "own"
        own = {"check": CHECK} if is_own else {}
        if not is_own or given.get("keep") == "corrected":
            own["response_column"] = SOLUTION
        if not is_own:
            given = {name: value for name, value in given.items() if name != "decoding"}
        return RoundsConfig(
            **{"skip": skip, **given, **own},
            prompts=str(prompts),
            prompt_column=PROMPT,
            answer_column=ANSWER,
            resume=True,
        )

    def rewards(self, student: str, seed: int, folder: Path) -> dict[str, Any]:
        """The values of a recipe of `d3llm distill` that trains a student by rewards."""
        return {
            "max_new_tokens": self.values["decoding"].get("max_new_tokens"),
            **self.values["rewards"],
            **self.students[student]["rewards"],
            "output_dir": str(folder),
            "seed": seed,
            "use_cpu": True,
            "report_to": "none",
            "save_total_limit": 1,
        }

    def rewards_config(self, student: str) -> LightningRLConfig:
        """The configuration of a student that is trained by rewards, with any seed and folder."""
        values = self.rewards(student, 0, Path("none"))
        return LightningRLConfig(**{name: values[name] for name in values.keys() - REWARD_ARGUMENTS})

    def budget(self, student: str) -> int:
        """
        The canvases that a student's own training takes a gradient from: steps, times rows of a step, times views, of
        which own predictions are another one.

        Args:
            student (`str`): Its name.

        Returns:
            `int`: Their number; for one that is trained by rewards, that of the rollouts.
        """
        if "averaged_with" in self.students[student]:
            return 0
        if "rewards" in self.students[student]:
            config = self.rewards_config(student)
            return config.max_steps * config.rollouts_per_step
        args = training_config(self.recipe(student, 0), Path("none"))
        views = (2 if args.layout == "complementary" else 1) * (2 if args.own_prediction_weight else 1)
        return args.max_steps * args.per_device_train_batch_size * args.gradient_accumulation_steps * views


def read_plan(path: Path | None = None) -> ComparisonPlan:
    """
    Reads a plan, and refuses one that a run could not complete.

    Args:
        path (`Path`, *optional*): YAML file, or the name of a shipped one (`comparison`, `recipes`); by default
            `comparison.yaml`.

    Returns:
        [`ComparisonPlan`]: The plan.

    Raises:
        `ValueError`: For a file that is not a plan, the first missing or invalid value, unknown or invalid fields of
            extraction, training, rounds, rewards and decoding, a student that starts from one that is not before it,
            a budget that differs from the base's without a note, and a plan that extends itself.
        `OSError`: If there is no such file.
    """
    path = _find_plan(path or DEFAULT_PLAN)
    values = _read_values(path)
    check(ComparisonFile, values, str(path), f"start from {DEFAULT_PLAN}")
    plan = ComparisonPlan(values, str(path))
    _check_names(plan)
    _check_decoders(plan)
    for student in plan.students:
        _check_student(plan, student)
    _check_budgets(plan)
    return plan


def _find_plan(path: Path, beside: Path = Path()) -> Path:
    """The file of a plan, given by its path or by the name of a shipped one."""
    if (beside / path).is_file():
        return beside / path
    if str(path) in SHIPPED_PLANS:
        return PLANS / f"{path}.yaml"
    expected = f"give the path of a YAML file, or one of {', '.join(SHIPPED_PLANS)}"
    raise FileNotFoundError(f"There is no plan {beside / path}: {expected}.")


def _read_values(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a plan; what it does not say is as in the one that it `extends`."""
    if path.resolve() in extending:
        raise ValueError(f"{path} extends itself: name another plan in `extends`.")
    values = read_yaml(path, "plan")
    if "extends" not in values:
        return values
    remedy = f"name a file or one of {', '.join(SHIPPED_PLANS)}"
    other = Path(check(str, values.pop("extends"), f"{path}: `extends`", remedy))
    others = _read_values(_find_plan(other, path.parent), (*extending, path.resolve()))
    return _merged(others, values)


def _merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values with those of another mapping over them, name by name in nested mappings; a list is replaced."""
    both = {
        name: _merged(values[name], value)
        for name, value in over.items()
        if isinstance(value, dict) and isinstance(values.get(name), dict)
    }
    return {**values, **over, **both}


def methods_of(decoders: dict[str, Decoder], names: Collection[str], model: str) -> list[dict[str, Any]]:
    """
    The methods that measure a model with decoders, as recipes have them.

    Args:
        decoders (`dict[str, Decoder]`): Decoders by name.
        names (`Collection[str]`): Names of those to measure with.
        model (`str`): Name of the model.

    Returns:
        `list[dict[str, Any]]`: A method for each.
    """
    return [{"model": model, "decoder": name, **decoders[name]} for name in names]


def _check_names(plan: ComparisonPlan) -> None:
    values, before = plan.values, [TEACHER]
    for name, student in plan.students.items():
        if name in RESERVED:
            raise ValueError(f"{plan.name}: a student cannot be called {name!r}: choose another name.")
        if student.get("start", TEACHER) not in before:
            raise ValueError(
                f"{plan.name}: {name} starts from {student['start']}, which is not a student before it: put that one "
                "first."
            )
        before.append(name)
        kinds = [kind for kind in ("extraction", "rounds", "rewards", "averaged_with") if kind in student]
        if len(kinds) > 1 or ("training" in student and kinds[:1] in (["rewards"], ["averaged_with"])):
            raise ValueError(
                f"{plan.name}: {name} has {' and '.join(k for k in Student.__annotations__ if k in student)}: it is "
                "trained on trajectories, in a round or by rewards, or averaged; make two students of it."
            )
        if "start" not in student and kinds and kinds != ["extraction"]:
            raise ValueError(f"{plan.name}: {name} has no `start`: name the student that it starts from.")
        other, origins = student.get("averaged_with", TEACHER), [TEACHER, *plan.line(name)[2:]]
        if other not in origins:
            raise ValueError(
                f"{plan.name}: {name} is averaged with {other}, which its `start` does not come from: expected one of "
                f"{', '.join(origins)}."
            )
    if plan.base not in plan.students:
        raise ValueError(f"{plan.name}: `base` is {plan.base}: expected one of {', '.join(plan.students)}.")
    shipped, seed = plan.shipped
    if shipped not in plan.students:
        raise ValueError(f"{plan.name}: `shipped` is {shipped}: expected one of {', '.join(plan.students)}.")
    if seed not in values["seeds"]:
        raise ValueError(f"{plan.name}: `shipped` has the seed {seed}: expected one of `seeds`, {values['seeds']}.")
    named = [values["default_decoders"], *(student.get("decoders", []) for student in plan.students.values())]
    unknown = sorted({name for names in named for name in names} - values["decoders"].keys())
    if unknown:
        raise ValueError(f"{plan.name} has no decoder {unknown[0]}: expected some of {', '.join(values['decoders'])}.")


def _check_decoders(plan: ComparisonPlan) -> None:
    values = plan.values
    if "thresholds" in values["teacher_decoders"].get(ONE_TOKEN, {"thresholds": []}):
        raise ValueError(
            f"{plan.name}: `teacher_decoders` needs a decoder {ONE_TOKEN} without thresholds: its accuracy sets the "
            "floor of AUP."
        )
    recipe = plan.recipe(plan.base, 0)
    for section in ("decoders", "teacher_decoders"):
        methods = methods_of(values[section], values[section], TEACHER)
        changed = recipe | {"measurement": values["measurement"] | {"methods": methods}}
        check_recipe(changed, f"{plan.name}: `{section}`")


def _check_student(plan: ComparisonPlan, student: str) -> None:
    own, name = plan.students[student], f"{plan.name}: {student}"
    check_recipe(_without_order(plan.recipe(student, 0), name), name)
    if own.get("extraction", {}).get("order", TEACHER) != TEACHER:
        check_names(own["extraction"], OF_ANOTHER_ORDER, f"{name}: `extraction` with another `order`")
    rounds = {field.name for field in dataclasses.fields(RoundsConfig)} - SET_BY_ROUNDS
    rewards = {field.name for field in dataclasses.fields(LightningRLConfig) if field.init}
    decoding: Any = None
    try:
        if "rounds" in own:
            check_names(plan.values["rounds"] | own["rounds"], rounds, "`rounds`")
            config = plan.rounds(student, Path("none"))
            needed, there = config.skip + (config.prompts_per_round or 1), plan.values["fresh_problems"]["count"]
            if needed > there:
                raise ValueError(f"its round ends at problem {needed}, and `fresh_problems` has {there}: draw more.")
            decoding = config.decoding
        if "rewards" in own:
            known = rewards - SET_BY_RUN["training"] | REWARD_ARGUMENTS
            check_names(plan.values["rewards"] | own["rewards"], known, "`rewards`")
            decoding = plan.rewards_config(student).generation_kwargs
            check(SpeedOf, plan.rewards(student, 0, Path("none")).get("reward_speed_of", "all"), "`reward_speed_of`")
        DiffusionGenerationConfig(**(decoding or {}))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _without_order(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    """A recipe whose extraction is the teacher's run, after its order has been checked."""
    extraction = dict(recipe["extraction"])
    order = extraction.pop("order", ORDERS[0])
    check(Literal[ORDERS], order, f"{name}: `order`")
    return recipe | {"extraction": extraction}


def _check_budgets(plan: ComparisonPlan) -> None:
    base = plan.budget(plan.base)
    for name, student in plan.students.items():
        budget = plan.budget(name)
        if budget < 0:
            raise ValueError(f"{plan.name}: {name} has no `max_steps`: give them, since a budget counts steps.")
        if budget != base and "budget_note" not in student:
            raise ValueError(
                f"{plan.name}: {name} trains on {budget} canvases (steps x rows x views), and the base on {base}: "
                "give both the same, or say why not in its `budget_note`."
            )
