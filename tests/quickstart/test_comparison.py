"""The comparison of recipes: its plan is checked before anything runs, killed runs resume, students are compared with
the base over the seeds that both have, and the shipped one is made again."""

import copy
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from trl import ModelConfig

from d3llm.commands.main import main
from d3llm.evaluation.answer_checks import CHECKS
from d3llm.evaluation.result import read_results
from d3llm.generation import DiffusionGenerationConfig
from d3llm.modeling import LLaDAModelLM
from d3llm.modeling.loading import load_model
from d3llm.quickstart import comparison
from d3llm.quickstart.comparison import run_comparison
from d3llm.quickstart.comparison_plan import DEFAULT_PLAN, ComparisonPlan, read_plan
from d3llm.quickstart.comparison_table import write_report
from d3llm.quickstart.distill_shipped import distill_shipped
from d3llm.quickstart.half_size import store_in_bfloat16
from d3llm.quickstart.stories.reference import CHECK
from d3llm.quickstart.stories.rows import write_rows
from d3llm.quickstart.stories.tokenizer import build_tokenizer
from d3llm.quickstart.student_recipe import training_config
from d3llm.trainers.rounds import train_rounds
from d3llm.trainers.rounds_config import RoundsConfig
from d3llm.trajectories.dataset import load_trajectories
from tests.helpers.kills import is_killed
from tests.helpers.models import tiny_model
from tests.helpers.results import whole_result


SHIPPED = yaml.safe_load(DEFAULT_PLAN.read_text())
STEP = {"max_steps": 1, "per_device_train_batch_size": 2, "save_steps": 1, "optim": "adamw_torch"}


@pytest.fixture(scope="module", autouse=True)
def every_answer_counts():
    """A random model has no right answer, so that there would be nothing to learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CHECKS, CHECK, lambda text, reference: json.loads(reference)["answer"] % 3 > 0)
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    tokenizer = build_tokenizer()
    folder = tmp_path_factory.mktemp("teacher")
    sizes = {"vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id, "kv_heads": None}
    model = tiny_model(LLaDAModelLM, **sizes, positions=512, heads=2)
    model.generation_config = DiffusionGenerationConfig(preset="llada", score="position")  # as the shipped teacher
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(teacher) -> dict[str, Any]:
    plan = copy.deepcopy(SHIPPED)
    plan |= {"teacher": str(teacher), "seeds": [3, 4], "bf16": False, "shipped": {"student": "on_policy_1", "seed": 3}}
    plan["problems"]["count"], plan["fresh_problems"]["count"] = 6, 8
    plan["decoding"] = {"max_new_tokens": 16, "block_size": 8}
    plan["extraction"] |= {"batch_size": 6, "chunk_size": 3}
    plan["order_model"] |= {"hidden_size": 8, "layers": 1, "heads": 1, "max_steps": 1, "batch_size": 2}
    plan["measurement"] |= {"problems": 3, "batch_size": 3, "split": "validation", "dtype": "bfloat16"}
    plan["default_decoders"] = ["d3llm"]
    plan["decoders"] = {
        "d3llm": {"preset": "d3llm", "thresholds": [0.5, 9.0]},  # one token a forward, and all of a block
        "short_blocks": {"preset": "d3llm", "fields": {"block_size": 4}, "thresholds": [9.0]},
    }
    plan["teacher_decoders"] = {"one_token": {"preset": "llada"}}
    plan["training"] |= STEP | {"window_sizes": [8]}
    plan["rounds"] |= {"prompts_per_round": 4, "decoding": {"preset": "dparallel", "threshold": 4.0}, "chunk_size": 2}
    plan["rounds_training"] |= STEP | {"warmup_steps": 0}
    plan["rewards"] |= {"num_generations": 2, "per_device_train_batch_size": 4, "max_steps": 1, "save_steps": 1}
    plan["rewards"] |= {"warmup_steps": 0, "drop_all_wrong": False}
    plan["rewards"]["generation_kwargs"] = {"preset": "d3llm", "threshold": 4.0, "block_size": 8}
    plan["students"] = {
        "d3llm": {"decoders": ["d3llm", "short_blocks"]},
        "on_policy_1": {"start": "d3llm", "rounds": {}, "budget_note": "a round"},
        "on_policy_2": {"start": "on_policy_1", "rounds": {}, "budget_note": "a round"},
        "certain": {"training": {"entropy_weight": 2.0}},
        "buckets": {"extraction": {"order": "ar_buckets"}},
        "rewarded": {"start": "d3llm", "rewards": {}, "budget_note": "rollouts"},
        "averaged": {"start": "on_policy_1", "averaged_with": "d3llm", "budget_note": "none"},
    }
    return plan


def write(folder: Path, plan: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump(plan, sort_keys=False))
    return file


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("comparison")
    run_comparison(output, write(output, tiny), seeds=[3])
    return output


def test_every_student_is_trained_and_measured(run, tiny):
    methods = {result.method: 0 for result in read_results([run / "results"])}
    for result in read_results([run / "results"]):
        methods[result.method] += 1
        assert (result.judged_by, result.num_samples, result.split) == ("solution", 3, "validation")
        assert result.dtype == "bfloat16"
    assert methods.pop("teacher-one_token") == methods.pop("d3llm-3-short_blocks") == 1
    assert methods == {f"{student}-3-d3llm": 2 for student in tiny["students"]}
    start = weights(run / "students/d3llm-3")
    assert not any(same(start, weights(run / f"students/{name}-3")) for name in tiny["students"] if name != "d3llm")
    assert load_model(run / "students/d3llm-3").diffusion_config().score == "entropy"  # not its teacher's
    short = next(r for r in read_results([run / "results"]) if r.method == "d3llm-3-short_blocks")
    assert short.decoding["block_size"] == 4
    assert not any((run / "training").iterdir())


def test_an_averaged_student_is_the_mean_of_two(run):
    one, other, mean = (weights(run / f"students/{name}-3") for name in ("on_policy_1", "d3llm", "averaged"))
    assert all(torch.allclose(mean[name], (one[name] + other[name]) / 2, rtol=2**-7) for name in mean)


def test_products_may_be_in_bfloat16(run, tiny, tmp_path, monkeypatch):
    quick, train = [False], comparison.train

    @contextmanager
    def quick_bfloat16():
        quick[0] = True
        yield
        quick[0] = False

    def checked(*args):
        assert quick[0], args

    monkeypatch.setattr(comparison, "quick_bfloat16", quick_bfloat16)
    monkeypatch.setattr(comparison, "measure_methods", checked)
    monkeypatch.setattr(comparison, "train", lambda *args: (checked(*args), train(*args)))
    run_comparison(tmp_path, write(tmp_path, tiny | {"bf16": True}), seeds=[3], only=["d3llm"])
    exact, rounded = weights(run / "students/d3llm-3"), weights(tmp_path / "students/d3llm-3")
    assert not same(exact, rounded)
    assert all(torch.allclose(exact[name], rounded[name], atol=1e-3, rtol=2**-7) for name in exact)


def test_models_are_stored_in_half_the_size_and_loaded_as_before(run, teacher, tmp_path):
    stored = tmp_path / "teacher"
    shutil.copytree(teacher, stored)
    store_in_bfloat16(stored)
    for folder in (stored, run / "students/d3llm-3"):
        assert {tensor.dtype for tensor in weights(folder).values()} == {torch.bfloat16}
        assert load_model(folder).dtype == torch.float32


def test_lessons_are_the_right_runs_and_their_orders_the_same_texts(run):
    of_teacher = load_trajectories(run / "trajectories/teacher")
    right = [row for row in of_teacher if row["correct"]]
    assert 0 < len(right) < len(of_teacher)
    buckets = load_trajectories(run / "trajectories/buckets")
    assert buckets["response_ids"] == [row["response_ids"] for row in right]
    assert max(max(steps) for steps in buckets["commit_steps"]) <= 8


def test_a_student_that_starts_from_a_round_is_the_one_of_two_rounds(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "store_in_bfloat16", lambda folder: None)  # nor are those between two rounds
    monkeypatch.setattr(comparison.Comparison, "_measure", lambda *args: None)
    output, rounds = tmp_path / "comparison", tmp_path / "rounds"
    shutil.copytree(run / "students/d3llm-3", output / "students/d3llm-3")
    run_comparison(output, write(output, tiny), seeds=[3], only=["on_policy_2"])
    plan, problems = read_plan(output / "plan.yaml"), str(output / "fresh_problems.jsonl")
    train_rounds(
        ModelConfig(model_name_or_path=str(output / "students/d3llm-3"), dtype="float32", attn_implementation="eager"),
        training_config(plan.recipe("on_policy_1", 3), rounds),
        RoundsConfig(rounds=2, **plan.values["rounds"], check="story", prompts=problems),
    )
    assert same(weights(rounds), weights(output / "students/on_policy_2-3"))


def test_a_finished_comparison_is_read_and_may_grow(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(LLaDAModelLM, "generate", None)
    run_comparison(run, run / "plan.yaml", seeds=[3])
    larger = copy.deepcopy(tiny)
    larger["students"]["more"] = {"training": {"entropy_weight": 2.0}}
    run_comparison(run, write(tmp_path, larger), seeds=[3], only=["certain"])
    larger["students"]["certain"]["training"]["learning_rate"] = 1.0
    with pytest.raises(
        ValueError, match=r"student.certain.yaml holds another run \(training.learning_rate was 0.0002"
    ):
        run_comparison(run, write(tmp_path, larger), seeds=[3])
    changed = copy.deepcopy(tiny)
    changed["decoders"]["d3llm"]["fields"] = {"block_size": 4}
    with pytest.raises(ValueError, match=r"decoders.d3llm.yaml holds another run \(fields.block_size was null, is 4"):
        run_comparison(run, write(tmp_path, changed), seeds=[3])


def test_a_killed_comparison_goes_on(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison.Comparison, "_measure", lambda *args: None)
    plan, output = write(tmp_path, tiny), tmp_path / "output"
    options = {"seeds": [3], "only": ["rewarded"]}
    for at, finished in ((90, False), (130, True)):  # in the training of the base, and after it
        assert is_killed(lambda: run_comparison(output, plan, **options), output, at)
        assert (output / "students/d3llm-3/config.json").exists() == finished
        assert not (output / "students/rewarded-3").exists()
    run_comparison(output, plan, **options)
    for name in ("d3llm-3", "rewarded-3"):
        assert same(weights(output / "students" / name), weights(run / "students" / name)), name


def test_all_students_come_with_one_seed_before_the_next(tiny, tmp_path, monkeypatch):
    ran: list[tuple[str, int]] = []
    monkeypatch.setattr(comparison.Comparison, "measure_teacher", lambda self: None)
    monkeypatch.setattr(comparison.Comparison, "train_student", lambda self, name, seed: ran.append((name, seed)))
    monkeypatch.setattr(comparison.Comparison, "measure_student", lambda self, name, seed: None)
    plan = write(tmp_path, tiny)
    run_comparison(tmp_path, plan, only=["on_policy_2", "buckets"])
    names = ["d3llm", "on_policy_1", "on_policy_2", "buckets"]
    assert ran == [(name, seed) for seed in (3, 4) for name in names]
    with pytest.raises(ValueError, match=r"seeds \[3, 4\], not \[5\]"):
        run_comparison(tmp_path, plan, seeds=[5])
    with pytest.raises(ValueError, match="no student 'buckles': expected some of d3llm, "):
        run_comparison(tmp_path, plan, only=["buckles"])


@pytest.fixture(scope="module")
def shipped() -> ComparisonPlan:
    return read_plan()


def test_the_shipped_plan_is_one_that_can_run(shipped):
    plan = shipped
    assert plan.values["measurement"]["problems"] >= 3000 and len(plan.values["seeds"]) == 3
    counts = {name: len(decoder.get("thresholds", ())) for name, decoder in plan.values["decoders"].items()}
    assert counts.pop("tuned") == 1 and counts.pop("lossless") == 0 and min(counts.values()) >= 8
    noted = {name for name, student in plan.students.items() if "budget_note" in student}
    assert {name for name in plan.students if plan.budget(name) != plan.budget(plan.base)} == noted
    given = plan.rounds("on_policy_given_text", Path("p"))
    assert (given.response_column, given.decoding, given.check, given.skip) == ("solution", None, None, 0)
    assert plan.rounds("on_policy_3", Path("p")).skip == 8192
    assert plan.rounds("on_policy_3_same_problems", Path("p")).skip == 0


def test_a_plan_says_what_it_changes_in_another(shipped, tmp_path):
    own = {"extends": "comparison", "seeds": [4], "shipped": {"seed": 4}, "training": {"max_steps": 10}}
    own["students"] = {"oput": {"decoders": ["dmax"]}}
    plan = read_plan(write(tmp_path, own))
    assert plan.values["seeds"] == [4] and plan.shipped == (shipped.shipped[0], 4)
    assert plan.recipe("d3llm", 4)["training"] == shipped.recipe("d3llm", 4)["training"] | {"max_steps": 10}
    assert list(plan.students) == list(shipped.students) and plan.decoders_of("oput") == ["dmax"]
    assert plan.training_of("oput")["training"]["own_prediction_weight"] == 1.0
    (tmp_path / "further.yaml").write_text("extends: plan.yaml\nbf16: false\n")  # beside the file, wherever that is
    further = read_plan(tmp_path / "further.yaml")
    assert (further.values["bf16"], further.values["seeds"]) == (False, [4])


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("plan.yaml", "plan.yaml extends itself"),
        ("missing", "no plan .*missing: .* recipes"),
        (3, "`extends` is 3: expected a"),
    ],
)
def test_a_plan_extends_another_one_that_is_there(tmp_path, extends, said):
    with pytest.raises((ValueError, OSError), match=said):
        read_plan(write(tmp_path, {"extends": extends}))


def test_the_smaller_plan_has_the_same_recipes(shipped):
    plan = read_plan(Path("recipes"))
    assert plan.students.keys() == shipped.students.keys()
    assert plan.budget("d3llm") == plan.budget("oput") == plan.budget("tad") < shipped.budget("d3llm") / 5
    assert plan.values["measurement"]["problems"] == 1000 and plan.decoders_of("no_trajectory") == ["d3llm"]


REFUSED = [
    (("students", "late"), {"start": "later", "rounds": {}}, "late starts from later, which is not a student before"),
    (("students", "late"), {"rounds": {}, "budget_note": "x"}, "late has no `start`"),
    (("students", "teacher"), {}, "a student cannot be called 'teacher'"),
    (("students", "a-b"), {}, "'a-b'"),
    (("students", "late"), {"rounds": {}, "rewards": {}}, "late has rounds and rewards"),
    (("students", "late"), {"averaged_with": "teacher", "budget_note": "x"}, "late has no `start`"),
    (("students", "late"), {"start": "d3llm", "averaged_with": "oput", "budget_note": "x"}, "one of teacher\\."),
    (("students", "late"), {"start": "d3llm", "averaged_with": "teacher", "training": {}}, "or averaged; make two"),
    (("students", "late"), {"decoders": ["slow"]}, "has no decoder slow: expected some of prefix"),
    (("students", "late"), {"training": {"max_steps": 640}}, "late trains on 81920 canvases .* `budget_note`"),
    (("students", "late"), {"training": {"layout": "single"}}, "late trains on 20480 canvases"),
    (("students", "late"), {"training": {"learning_rat": 1.0}}, "`training` cannot set learning_rat"),
    (("students", "late"), {"training": {"output_dir": "x"}}, "`training` cannot set output_dir"),
    (("students", "late"), {"extraction": {"order": "column"}}, "late: `order` is 'column'"),
    (("students", "late"), {"extraction": {"order": "random", "preset": "d3llm"}}, "`order` cannot set preset"),
    (("rounds", "prompts_per_round"), 30000, "on_policy_3: its round ends at problem 90000, and .* has 60000"),
    (("rounds", "prompts"), "file", "`rounds` cannot set prompts"),
    (("students", "late"), {"training": {"eval_strategy": "steps"}}, "`training` cannot set eval_strategy"),
    (("training", "max_steps"), -1, "d3llm has no `max_steps`"),
    (("rounds", "decoding"), {"blok_size": 1}, "on_policy_1: .*blok_size"),
    (("rewards", "generation_kwargs"), {"blok_size": 1}, "lightning_rl: .*blok_size"),
    (("rewards", "reward_speed_of"), "wrong", "lightning_rl: `reward_speed_of` is 'wrong'"),
    (("rewards", "num_generations"), 7, "lightning_rl: A step has 64 rollouts"),
    (("decoders", "d3llm"), {"preset": "d3lm", "thresholds": [0.5]}, "`decoders`: .*d3lm"),
    (("teacher_decoders",), {"d3llm": {"preset": "d3llm", "thresholds": [0.5]}}, "needs a decoder one_token without"),
    (("base",), "d4llm", "`base` is d4llm: expected one of d3llm"),
    (("task",), "stories", r"\['task'\] is 'stories': there is no such name"),
    (("shipped",), {"student": "on_policy_4", "seed": 0}, "`shipped` is on_policy_4: expected one of d3llm, "),
    (("shipped",), {"student": "d3llm", "seed": 7}, r"`shipped` has the seed 7: expected one of `seeds`, \[0, 1, 2\]"),
    (("shipped",), "d3llm", r"\['shipped'\] is 'd3llm'"),
]


@pytest.mark.parametrize(("place", "value", "said"), REFUSED)
def test_a_plan_that_cannot_run_is_refused(tmp_path, place, value, said):
    plan = copy.deepcopy(SHIPPED)
    *sections, name = place
    section = plan
    for each in sections:
        section = section[each]
    section[name] = value
    with pytest.raises(ValueError, match=said):
        read_plan(write(tmp_path, plan))


def put(folder: Path, method: str, threshold: float | None, accuracy: int, tpf: float, by_number: int) -> None:
    point = {} if threshold is None else {"threshold": threshold}
    result = whole_result(accuracy, tpf, method=method, point=point, judged_by="solution")
    further = {"number": [index < by_number for index in range(100)]}
    result["samples"]["further"] = further
    share = whole_result(by_number)
    result["further_accuracy"] = {"number": {name: share[name] for name in ("accuracy", "accuracy_interval")}}
    (folder / f"{method}.{threshold}.json").write_text(json.dumps(result))


def test_the_report_compares_over_the_seeds_that_both_have(tiny, tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    put(results, "teacher-one_token", None, 98, 0.9, 99)
    put(results, "teacher-d3llm", 0.5, 98, 3.0, 98)
    put(results, "teacher-short_blocks", 0.5, 98, 3.0, 98)  # its other point is not there yet
    for seed, tpf in ((3, 4.0), (4, 6.0)):
        put(results, f"d3llm-{seed}-d3llm", 0.5, 98, tpf, 98)
        put(results, f"d3llm-{seed}-d3llm", 9.0, 92, 2 * tpf, 97)  # below the floor by the whole solution
        put(results, f"d3llm-{seed}-short_blocks", 9.0, 98, tpf, 98)
    put(results, "buckets-3-d3llm", 0.5, 98, 5.0, 98)
    put(results, "buckets-3-d3llm", 9.0, 98, 10.0, 98)
    put(results, "certain-3-d3llm", 0.5, 98, 5.0, 98)  # its other point is not there yet
    decoders = {name: {"preset": "d3llm", "thresholds": [0.5]} for name in ("d3llm", "short_blocks")}
    decoders["short_blocks"]["thresholds"] = [0.5, 9.0]
    plan = write(tmp_path, tiny | {"teacher_decoders": tiny["teacher_decoders"] | decoders})
    assert main(["quickstart", "compare", "--report", "--output", str(tmp_path), "--plan", str(plan)]) == 0
    page = (tmp_path / "comparison.md").read_text()
    assert page in capsys.readouterr().out
    strict, _, by_number = page.partition("## By number")
    lines = {tuple(line.split(" | ")[:2]): line.split(" | ") for line in strict.splitlines() if line.count("|") == 10}
    assert ("| certain", "d3llm") not in lines
    base, buckets = lines["| d3llm", "d3llm"], lines["| buckets", "d3llm"]
    assert base[2] == "3, 4" and base[3].startswith("490 (") and base[5] == ""
    assert base[4].startswith("**+196 (") and lines["| d3llm", "short_blocks"][4] == ""
    assert buckets[2] == "3" and buckets[3].startswith("980 (") and buckets[5].startswith("**+588 (")
    assert buckets[4].startswith("**+686 (")
    assert int(base[6].split()[0]) > 490  # up to where it crosses the floor
    assert lines["| d3llm", "short_blocks"][5].startswith("+0 ")
    assert "| d3llm | 98.0 @ 5.00 | 92.0 @ 10.00 |" in strict and "| d3llm | 98.0 @ 5.00 | 97.0 @ 10.00 |" in by_number
    pictures = [tmp_path / "pictures" / check / "d3llm.png" for check in ("solution", "number")]
    assert all(picture.stat().st_size and f"({picture.relative_to(tmp_path)})" in page for picture in pictures)
    rows = json.loads((tmp_path / "comparison.json").read_text())["solution"]
    row = next(row for row in rows if row["model"] == "buckets")
    assert row["other"] == "d3llm by d3llm" and row["areas_of_seeds"]["drop"] == pytest.approx([980])
    assert [each["quantity"] for each in row["differences"]["drop"]] == ["AUP"] + 2 * ["accuracy", "TPF"]
    next(results.glob("teacher*")).unlink()
    with pytest.raises(ValueError, match="There is no result of teacher-one_token"):
        write_report(tmp_path, plan)


def test_the_shipped_student_is_made_again(run, tiny, tmp_path, monkeypatch):
    plan, output = write(tmp_path, tiny), tmp_path / "again"
    assert is_killed(lambda: distill_shipped(output, plan), output, 130)
    results = distill_shipped(output, plan)
    assert {result.method for result in results} == {"teacher-one_token", "on_policy_1-3-d3llm"}
    students = {path.name: path for path in (output / "students").iterdir()}
    assert students.keys() == {"d3llm-3", "on_policy_1-3"}
    assert same(weights(students["on_policy_1-3"]), weights(run / "students/on_policy_1-3"))
    monkeypatch.setattr(LLaDAModelLM, "generate", None)
    assert distill_shipped(output, plan) == results


def test_the_command_distils_the_shipped_student(run, tiny, tmp_path, capsys):
    assert main(["quickstart", "distill", "--plan", str(write(tmp_path, tiny)), "--output", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "on_policy_1-3-d3llm" in printed and "buckets" not in printed


def test_answers_are_checked_as_the_task_does(tmp_path):
    file = write_rows(tmp_path / "deep" / "problems.jsonl", 5, seed=1)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        assert CHECK_STORY(row["solution"], row["answer"])
        assert not CHECK_STORY(row["solution"] + "1", row["answer"])


CHECK_STORY = CHECKS[CHECK]  # before any test replaces it
