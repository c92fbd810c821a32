"""docs/training.md and the docstrings of the configuration name what there is; the Python on the page compiles."""

import re
from dataclasses import fields

from benchmarks.foresight import table
from d3llm.evaluation.leaderboard import make_boards, result_curves
from d3llm.evaluation.result import read_results
from d3llm.trainers.distill import RECIPES, trainer_of
from d3llm.trainers.introspective_config import IntrospectiveConfig
from d3llm.trainers.lightning_rl import MEANS as OF_REWARDS
from d3llm.trainers.lightning_rl_config import LightningRLConfig
from d3llm.trainers.loss_parts import MEANS
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from d3llm.trainers.rounds_config import RoundsConfig
from d3llm.trainers.trl_base import _BaseConfig
from tests.helpers.paths import ROOT


PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_recipes_on_the_page_are_those_that_are_shipped():
    table = re.findall(r"^\| `(\w+)` \| (?:last|random|each)", PAGE, re.MULTILINE)
    drafters = re.findall(r"^\| `(\w+)` \| a drafter", PAGE, re.MULTILINE)
    policies = re.findall(r"^\| `(\w+)` \| a policy", PAGE, re.MULTILINE)
    assert drafters and policies
    assert sorted(table + drafters + policies) == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert all(trainer_of(["--config", name]) == "introspective" for name in drafters)
    assert all(trainer_of(["--config", name]) == "lightning_rl" for name in policies)


def test_what_is_logged_is_explained():
    for name in [*MEANS, *OF_REWARDS]:
        assert f"`{name}`" in PAGE, name


def test_every_field_is_in_the_docstring_of_the_config():
    inherited = {field.name for field in fields(_BaseConfig)}
    configs = (PseudoTrajectoryConfig, 20), (IntrospectiveConfig, 13), (LightningRLConfig, 17), (RoundsConfig, 20)
    for config, at_least in configs:
        own = [field for field in fields(config) if field.name not in inherited]
        assert len(own) >= at_least
        for field in own:
            assert f"        {field.name} (`" in (config.__doc__ or ""), field.name
            assert field.metadata["help"]


def test_the_python_on_the_page_compiles():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "docs/training.md", "exec")


def test_the_tables_state_the_result_files():
    (board,) = make_boards(result_curves(read_results([ROOT / "docs/results/student"])), "table", "teacher-one_token")
    for (method, task), area in board.areas.items():
        name, _, decoder = method.rpartition("-")
        low, high = board.intervals[method, task]
        assert f"| {name} | `{decoder}` | {area:.1f} ({low:.1f} to {high:.1f}) |\n" in PAGE
    assert table(ROOT / "docs/results/foresight") in PAGE
