"""The quickstart student: its recipe runs from extraction to measurement, goes on where it was cut, and is refused for
another recipe; the ablation compares what the result files say."""

import copy
import json

import pytest
import yaml

from d3llm.common.fingerprints import fingerprint_files
from d3llm.evaluation.aup.aup import compute_aup
from d3llm.modeling import LLaDAModelLM
from d3llm.quickstart import ablation, checkpoint_path
from d3llm.quickstart.distill_student import distill_student
from d3llm.quickstart.student_recipe import DEFAULT_RECIPE
from d3llm.trainers.pseudo_trajectory_config import PseudoTrajectoryConfig
from tests.helpers.paths import ROOT
from tests.helpers.results import whole_result


@pytest.fixture(scope="module")
def recipe():
    small = yaml.safe_load(DEFAULT_RECIPE.read_text())
    small["problems"]["count"] = 6
    small["extraction"] |= {"chunk_size": 4, "batch_size": 4}
    small["training"] |= {"max_steps": 2, "per_device_train_batch_size": 2, "save_steps": 1}
    small["measurement"] |= {"problems": 4, "batch_size": 4}
    small["measurement"]["methods"] = [{"model": "student", "preset": "d3llm", "thresholds": [0.5, 1.0]}]
    return small


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return folder / "run", file, distill_student(folder / "run", file)


def test_the_recipe_runs_to_its_result_files(run):
    output, _, results = run
    assert [result.point for result in results] == [{"threshold": 0.5}, {"threshold": 1.0}]
    for result in results:
        assert result.num_samples == 4
        assert result.decoding["max_new_tokens"] == 96
        assert json.loads(
            (output / "results" / f"student-d3llm.threshold={result.point['threshold']}.json").read_text()
        )
    assert "auto_map" not in json.loads((output / "student" / "config.json").read_text())  # it comes without the code
    student = LLaDAModelLM.from_pretrained(output / "student")
    teacher = LLaDAModelLM.from_pretrained(checkpoint_path("teacher"))
    assert any((a != b).any() for a, b in zip(student.parameters(), teacher.parameters(), strict=True))
    log = json.loads((output / "student" / "training_log.json").read_text())
    assert log[-1]["step"] == 2


def test_a_finished_run_is_read_not_made_again(run, monkeypatch):
    output, file, results = run
    monkeypatch.setattr(LLaDAModelLM, "generate", None)
    assert distill_student(output, file) == results


def test_another_recipe_is_refused(run, recipe):
    output, file, _ = run
    other = copy.deepcopy(recipe)
    other["training"]["learning_rate"] = 1.0
    file.with_name("other.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ValueError, match=r"holds another run \(learning_rate was"):
        distill_student(output, file.with_name("other.yaml"))


def test_the_card_states_the_result_files():
    card = (checkpoint_path("student") / "README.md").read_text()
    files = sorted((ROOT / "docs/results/student").glob("student-d3llm.*.json"))
    assert len(files) == 5
    for file in files:
        measured = json.loads(file.read_text())
        weights = [checkpoint_path("student") / name for name in ("config.json", "model.safetensors")]
        assert measured["weights"] == fingerprint_files(weights)
        low, high = measured["accuracy_interval"]
        accuracy = f"{measured['accuracy']:.1%} ({low:.1%} to {high:.1%})"
        assert f"| {measured['point']['threshold']} | {accuracy} | {measured['tokens_per_forward']:.2f} |" in card


def test_every_variant_is_a_valid_recipe(tmp_path):
    recipe = yaml.safe_load(DEFAULT_RECIPE.read_text())
    plan = yaml.safe_load(ablation.ABLATION.read_text())
    for changes in plan["variants"].values():
        training = recipe["training"] | plan["training"] | changes
        PseudoTrajectoryConfig(output_dir=str(tmp_path), use_cpu=True, **training)


def test_seeds_of_an_ablation_are_run_one_at_a_time(tmp_path, monkeypatch):
    trained, measured = [], []
    monkeypatch.setattr(ablation, "extract", lambda recipe, folder: folder)
    monkeypatch.setattr(ablation, "measure_methods", lambda recipe, students, folder: measured.extend(students))
    monkeypatch.setattr(ablation, "train", lambda recipe, *folders: trained.append((folders[2].name, recipe["seed"])))
    ablation.run_ablation(tmp_path, seeds=[1, 2])
    variants = [name.replace(" ", "_") for name in yaml.safe_load(ablation.ABLATION.read_text())["variants"]]
    assert trained == [(f"{name}-{seed}", seed) for name in variants for seed in (1, 2)]
    assert measured == [name for name, _ in trained]
    with pytest.raises(ValueError, match=r"the seeds \[0, 1, 2\], not \[7\]"):
        ablation.run_ablation(tmp_path, seeds=[0, 7])
    assert len(trained) == 2 * len(variants)


def result(threshold, accuracy, tpf):
    return whole_result(accuracy, tpf, point={} if threshold is None else {"threshold": threshold})


def test_rows_of_an_ablation(tmp_path):
    plan = {
        "seeds": [0, 1],
        "variants": {"d3llm without noise": {}},
        "decoders": {"multi-block": {"preset": "d3llm", "thresholds": [0.2, 0.5]}},
        "teacher_thresholds": [0.1, 0.2],
    }
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(plan))
    files = {
        "teacher-llada": result(None, 98, 0.8),
        "teacher-d3llm.threshold=0.1": result(0.1, 97, 2.0),
        "teacher-d3llm.threshold=0.2": result(0.2, 90, 2.5),  # dropped: more than 5 points below 98
    }
    for seed, tpf in ((0, 4.0), (1, 5.0)):
        files[f"d3llm_without_noise-{seed}-d3llm.threshold=0.2"] = result(0.2, 98, tpf)
        files[f"d3llm_without_noise-{seed}-d3llm.threshold=0.5"] = result(0.5, 96, 2 * tpf)
    for name, content in files.items():
        method = name.partition(".")[0]
        (tmp_path / f"{len(name)}-{name[::-1]}.json").write_text(json.dumps(content | {"method": method}))
    one_token, teacher, student = ablation.ablation_rows(tmp_path, tmp_path / "ablation.yaml")
    assert one_token["aup"] == pytest.approx(0.8 * 98)
    assert teacher["aup"] == pytest.approx(2.0 * 97)
    expected = [compute_aup([tpf, 2 * tpf], [98, 96], y_max=98) for tpf in (4.0, 5.0)]
    assert student["aup"] == pytest.approx(sum(expected) / 2)
    assert student["aup_of_seeds"] == pytest.approx(expected)
    assert student["aup_interval"][0] < min(expected) < max(expected) < student["aup_interval"][1]
    assert student["points"][1] == {"threshold": 0.5, "accuracy": 96.0, "tokens_per_forward": 9.0}
    table = ablation.markdown_table([one_token, teacher, student])
    assert "| d3llm without noise | multi-block | {:.0f}, {:.0f} |".format(*expected) in table
    assert "| no threshold | 0.1 nats | 0.2 nats | 0.5 nats |" in table
    assert "98.0 @ 0.80 |  |  |  |" in table
    assert "96.0 @ 9.00" in table
    next(tmp_path.glob("*adall-rehcaet.json")).unlink()
    with pytest.raises(ValueError, match="has no result of teacher-llada"):
        ablation.ablation_rows(tmp_path, tmp_path / "ablation.yaml")
