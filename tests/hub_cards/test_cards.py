"""Cards: facts in, the text of the golden files out."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from d3llm.common.fingerprints import fingerprint_checkpoint
from d3llm.evaluation.leaderboard import make_boards, result_curves
from d3llm.evaluation.result import read_result, read_results
from d3llm.evaluation.tasks import TASKS
from d3llm.hub_cards import (
    MODEL_FACTS,
    ModelFacts,
    TaskArea,
    TaskResult,
    TrajectoryFacts,
    eval_results,
    facts_json,
    model_card,
    read_facts,
    training_card,
    trajectory_card,
)
from d3llm.hub_cards.cards import custom_generate_card, is_hub_id, metric_card, shorten, space_card
from d3llm.hub_cards.from_results import model_facts, tensor_shapes, with_results
from tests.helpers.hub import check_card
from tests.helpers.paths import ROOT
from tests.helpers.results import whole_result, write_result
from tests.helpers.trajectory_rows import make_trainer


GOLDEN_CARDS = Path(__file__).parent / "cards"

MODEL = ModelFacts(
    name="d3llm-example",
    license="mit",
    architecture="LLaDAModelLM",
    parameters=8_015_581_184,
    base_model="GSAI-ML/LLaDA-8B-Instruct",
    teacher="GSAI-ML/LLaDA-8B-Instruct",
    trajectories="ada/trajectories",
    recipe="d3llm_llada",
    hyperparameters={"learning_rate": 2e-5, "max_steps": 100},
    training_tasks=["grade-school mathematics"],
    decoding={"preset": "d3llm", "threshold": 0.4},
    results=[
        TaskResult(
            "GSM8K",
            200,
            0.735,
            [0.67, 0.791],
            9.113,
            288.91,
            "Example GPU",
            {"preset": "d3llm"},
            "openai/gsm8k",
            "test",
        ),
        TaskResult(
            "GSM8K",
            200,
            0.74,
            [0.675, 0.796],
            1.0,
            31.5,
            "Example GPU",
            {"preset": "llada"},
            "openai/gsm8k",
            "test",
            "2026-11-22",
        ),
        TaskResult("Own task", 10, 1.0, [0.722, 1.0], 2.5, 60.0, "Example CPU"),
    ],
    areas=[TaskArea("GSM8K", 637.65, 74.0, 2, "d3llm", "openai/gsm8k", "test")],
    picture="accuracy.png",
    chat=True,
    versions={"torch": "2.13.0"},
)
BARE_MODEL = ModelFacts(name="bare", license="apache-2.0", architecture="DreamModel", parameters=950)
TRAJECTORIES = TrajectoryFacts(
    name="Trajectories of an example",
    license="mit",
    teacher="GSAI-ML/LLaDA-8B-Instruct",
    source="decoded",
    rows=122,
    prompt_tokens=9000,
    response_tokens=15000,
    forwards=15360,
    cut=2,
    checked=120,
    correct=90,
    mask_token_id=126336,
    decoding={"preset": "llada", "block_size": 32},
    prompts="openai/gsm8k",
)
CARDS = {
    "model.md": (model_card(MODEL, "ada/example"), "models"),
    "bare_model.md": (model_card(BARE_MODEL), "models"),
    "trajectories.md": (trajectory_card(TRAJECTORIES, "ada/trajectories"), "datasets"),
    "metric.md": (metric_card("ada/aup", "aup", "What it is.", "What it takes."), "spaces"),
    "space.md": (space_card(["ada/example"]), "spaces"),
    "custom_generate.md": (custom_generate_card("ada/decoder"), "models"),
}


@pytest.mark.parametrize("name", CARDS)
def test_cards_are_as_recorded(name):
    """With `D3LLM_RECORD_CARDS=1` this file records them; read the difference before committing it."""
    card, kind = CARDS[name]
    if os.environ.get("D3LLM_RECORD_CARDS"):
        (GOLDEN_CARDS / name).write_text(card, encoding="utf-8")
    assert card == (GOLDEN_CARDS / name).read_text(encoding="utf-8")
    assert check_card(card, kind) == []


@pytest.mark.parametrize("template", sorted((ROOT / "hub_cards/templates").glob("*.jinja")), ids=lambda p: p.name)
def test_no_template_holds_a_number(template):
    text = template.read_text(encoding="utf-8")
    text = re.sub(r"d3llm|d3LLM|int32|int16|float32|%\.\d[f%]+|%\.\df%%|\[[01][\],]|100 \*", "", text)
    assert not re.findall(r"\d+", text)


def test_the_metadata_says_what_was_measured():
    data = ModelCard(model_card(MODEL)).data
    assert data.license == "mit"
    assert data.base_model == "GSAI-ML/LLaDA-8B-Instruct"
    assert data.datasets == ["ada/trajectories"]
    assert {"d3llm", "custom_code"} <= set(data.tags)
    measured = {(result.dataset_name, result.metric_name): result.metric_value for result in data.eval_results}
    assert measured["GSM8K", "accuracy (d3llm)"] == 73.5
    assert measured["GSM8K", "tokens per second (llada; Example GPU)"] == 31.5
    assert measured["GSM8K", "accuracy under parallelism (d3llm, y_max 74, 2 points)"] == 637.65


def test_local_names_stay_out_of_the_metadata():
    facts = dataclasses.replace(MODEL, base_model="quickstart teacher", trajectories="runs/t/2026")
    data = ModelCard(model_card(facts)).data
    assert data.base_model is None
    assert data.datasets is None
    assert "quickstart teacher" in model_card(facts)


def test_rows_are_told_beside_tokens_per_forward():
    drafted = dataclasses.replace(MODEL.results[0], rows_per_forward=7.64)
    card = model_card(dataclasses.replace(MODEL, results=[*MODEL.results, drafted]))
    assert "| TPF | rows per forward | TPS |" in card and "| 9.11 | 7.6 | 288.9 |" in card
    assert "| 1.00 | 1.0 | 31.5 |" in card
    names = [result.metric_name for result in ModelCard(card).data.eval_results]
    assert "tokens per forward at 7.6 rows per forward (d3llm)" in names
    best = dataclasses.replace(drafted, accuracy=0.8)
    (text,) = eval_results(dataclasses.replace(MODEL, results=[best])).values()
    assert "TPF 9.11 at 7.6 rows per forward" in text
    assert "15360 forwards (90000 row forwards)." in trajectory_card(
        dataclasses.replace(TRAJECTORIES, row_forwards=90000)
    )
    assert trajectory_card(dataclasses.replace(TRAJECTORIES, row_forwards=15360)) == trajectory_card(TRAJECTORIES)


def test_results_for_leaderboards():
    files = eval_results(MODEL)
    assert files.keys() == {".eval_results/gsm8k.yaml"}  # the other task has no data set on the Hub
    (entry,) = yaml.safe_load(files[".eval_results/gsm8k.yaml"])
    assert entry["value"] == 74.0
    assert entry["dataset"] == {"id": "openai/gsm8k", "task_id": "GSM8K"}
    assert str(entry["date"]) == "2026-11-22"


@pytest.mark.parametrize("license", ["", " ", "unknown"])
def test_no_card_without_a_licence(license):
    with pytest.raises(ValueError, match="needs a licence"):
        model_card(dataclasses.replace(BARE_MODEL, license=license))
    with pytest.raises(ValueError, match="needs a licence"):
        trajectory_card(dataclasses.replace(TRAJECTORIES, license=license))


@pytest.mark.parametrize("facts", [MODEL, BARE_MODEL, TRAJECTORIES], ids=lambda facts: facts.name)
def test_facts_survive_their_file(facts, tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(facts_json(facts))
    assert read_facts(type(facts), path) == facts


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"parameters": "many"}, "facts.json.parameters is 'many': expected a valid integer"),
        ({"results": [{"task": "x"}]}, r"results\[0\]: no 'accuracy'"),
        ({"chat": 1}, "chat is 1: expected a valid boolean"),
        ({"tags": ["a", 5]}, r"tags\[1\] is 5: expected a valid string"),
        ({"results": [5]}, r"results\[0\] is 5: expected a valid dictionary"),
    ],
)
def test_damaged_facts_are_named(change, complaint, tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps({**json.loads(facts_json(BARE_MODEL)), **change}))
    with pytest.raises(ValueError, match=complaint):
        read_facts(ModelFacts, path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_facts(ModelFacts, path)


def test_what_is_0_or_false_is_a_value(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    values = {"preset": "d3llm", "cache_delay": 0, "threshold": 0.0, "early_stop": False, "cfg_scale": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    known = {name: value for name, value in values.items() if value is not None}
    assert model_facts(tmp_path, license="mit").decoding == known


def test_a_chat_template_in_the_config_of_the_tokenizer(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    assert not model_facts(tmp_path, license="mit").chat
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ messages }}"}))
    assert model_facts(tmp_path, license="mit").chat


@pytest.mark.parametrize("architectures", [5, [5], "LLaDAModelLM"])
def test_architectures_that_are_no_names(architectures, tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    with pytest.raises(ValueError, match=r"`architectures` in .*config\.json"):
        model_facts(tmp_path, license="mit")


def test_results_of_this_very_model(tiny_checkpoint, tmp_path):
    facts = model_facts(tiny_checkpoint, license="mit")
    assert facts.architecture == "LLaDAModelLM"
    assert facts.chat
    one = write_result(tmp_path / "one.json", tiny_checkpoint)
    two = write_result(tmp_path / "two.json", tiny_checkpoint, correct=4, tokens_per_forward=1.0)
    (tmp_path / "one.samples.jsonl.settings.json").write_text("{}")
    measured = with_results(facts, tiny_checkpoint, read_results([tmp_path]))
    assert [result.decoding for result in measured.results] == [{"preset": "d3llm", "threshold": 0.4}] * 2
    assert measured.results[0].hardware == "Example CPU, 2 threads, batch size 2"
    three = {"device": "Example CPU", "threads": 2, "processes": 3}
    shared_file = write_result(tmp_path / "three", tiny_checkpoint, hardware=three)
    shared = with_results(facts, tiny_checkpoint, read_results([shared_file]))
    assert shared.results[0].hardware == "Example CPU, 2 threads, 3 processes, batch size 2"
    assert shared.areas == []  # one point is not a curve
    (area,) = measured.areas
    assert (area.task, area.preset, area.y_max, area.points) == ("GSM8K-CoT", "d3llm", 100.0, 2)
    write_result(two, tiny_checkpoint, decoding={"preset": "llada"})
    (area,) = with_results(facts, tiny_checkpoint, read_results([one, two])).areas
    assert (area.points, area.preset) == (2, None)  # points of two presets under one name are one curve
    write_result(two, tiny_checkpoint, weights="0" * 16)
    with pytest.raises(ValueError, match="measured other weights"):
        with_results(facts, tiny_checkpoint, read_results([one, two]))
    with pytest.raises(ValueError, match="schema"):
        read_results([write_result(two, tiny_checkpoint, schema="x")])


def test_card_and_picture_show_the_same_areas(tiny_checkpoint, tmp_path):
    """Two methods decode with one preset: each is a curve, on the card as in its picture."""
    for number, (method, tpf) in enumerate([("a", 1.0), ("a", 2.0), ("a", 3.0), ("b", 4.0), ("b", 6.0)]):
        write_result(tmp_path / f"{number}.json", tiny_checkpoint, method=method, tokens_per_forward=tpf)
    results = read_results([tmp_path])
    facts = with_results(model_facts(tiny_checkpoint, license="mit"), tiny_checkpoint, results)
    (board,) = make_boards(result_curves(results), "own", resamples=0)
    assert [area.points for area in facts.areas] == [3, 2]
    assert {(area.method, area.task): area.aup for area in facts.areas} == board.areas
    card = model_card(facts)
    for (method, _), area in board.areas.items():
        assert f"AUP (accuracy under parallelism) on GSM8K-CoT, preset d3llm, {method}: {area:.1f} over" in card


def test_names():
    assert is_hub_id("a/b")
    assert not any(is_hub_id(name) for name in (None, "", "a", "a/b/c", "/tmp/x", "a b/c"))
    assert [shorten(n) for n in (950, 2_277_696, 8_015_581_184)] == ["950", "2.28M", "8.02B"]


def test_a_trained_model_has_its_card(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, max_steps=1, window_sizes=[8, 16])
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(dataset_name="ada/trajectories")
    facts = read_facts(ModelFacts, tmp_path / MODEL_FACTS)
    assert (facts.trajectories, facts.license) == ("ada/trajectories", "other")
    assert facts.base_model == tiny_checkpoint.name
    assert facts.hyperparameters["window_sizes"] == [8, 16]
    assert facts.hyperparameters["steps"] == 1
    assert facts.teacher
    card = (tmp_path / "README.md").read_text()
    assert "| window_sizes | [8, 16] |" in card
    assert str(tiny_checkpoint) not in card  # a path of this machine says nothing to others


def test_the_licence_is_that_of_the_base_model(tmp_path, monkeypatch, caplog):
    def download(repo_id, filename):
        assert (repo_id, filename) == ("ada/base", "README.md")
        return str(tmp_path / "README.md")

    monkeypatch.setattr(training_card, "hf_hub_download", download)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert training_card.license_of("ada/base") == "mit"
    assert training_card.license_of(str(tmp_path)) == "mit"
    assert training_card.license_of(None) == "other"

    def unreachable(repo_id, filename):
        raise OSError("no network")

    monkeypatch.setattr(training_card, "hf_hub_download", unreachable)
    assert training_card.license_of("ada/base") == "other"
    assert "that of ada/base cannot be read (no network)" in caplog.text


def test_results_of_the_hub_s_tasks_and_of_none_generated(tmp_path, tiny_checkpoint):
    of_hub = whole_result(source=f"{TASKS['gsm8k_cot'].source}", decoding={"preset": "llada", "temperature": 0.7})
    nothing = whole_result(title="MMLU", source="rows.jsonl")
    nothing |= dict.fromkeys(("tokens_per_forward", "tokens_per_second")) | dict.fromkeys(("tokens", "forwards"), 0)
    nothing["row_forwards"] = 0
    nothing["samples"] |= dict.fromkeys(("tokens", "forwards", "row_forwards"), [0] * nothing["num_samples"])
    weights = {"weights": fingerprint_checkpoint(tiny_checkpoint)}
    for number, result in enumerate((of_hub, nothing)):
        (tmp_path / f"{number}.json").write_text(json.dumps(result | weights))
    results = [read_result(tmp_path / f"{number}.json") for number in range(2)]
    facts = with_results(model_facts(tiny_checkpoint, license="mit"), tiny_checkpoint, results)
    (file,) = eval_results(facts).values()
    assert "openai/gsm8k" in file and "temperature" in file
    card = model_card(facts, "ada/m")
    assert "0.00" not in card and card.count("type: tokens_per_forward") == 1


def test_results_of_tasks_with_one_slug_have_a_file_each():
    shared = {"dataset": "openai/x", "decoding": {"preset": "llada"}}
    results = [
        dataclasses.replace(MODEL.results[0], task=task, **shared) for task in ("HumanEval", "HumanEval+", "首都")
    ]
    files = eval_results(dataclasses.replace(MODEL, results=results))
    assert [Path(name).stem for name in files] == ["humaneval", "humaneval-2", "task"]
    own = dataclasses.replace(results[-1], dataset=None)
    assert "type: task\n" in model_card(dataclasses.replace(MODEL, results=[own], areas=[]), "ada/m")


def test_weights_without_permission_are_not_missing(tiny_checkpoint, monkeypatch):
    def open_unlocked(path, *args):  # root may read all
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", open_unlocked)
    with pytest.raises(PermissionError, match=r"Permission denied: .*model\.safetensors"):
        tensor_shapes(tiny_checkpoint)
