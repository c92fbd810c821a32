"""The teacher's trainer, its recipe and the shipped checkpoint."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from d3llm.common.fingerprints import fingerprint_files, fingerprint_weights
from d3llm.evaluation.result import Result, read_results
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.muon import Muon, orthogonalize
from d3llm.quickstart.stories.checker import is_right
from d3llm.quickstart.stories.reference import AskedProblem
from d3llm.quickstart.stories.task import STORIES, TASKS
from d3llm.quickstart.stories.tokenizer import build_tokenizer
from d3llm.quickstart.teacher_recipe import load_recipe
from d3llm.quickstart.train_teacher import TeacherTrainer, learning_rate_factor, train_teacher
from d3llm.quickstart.training_rows import Layout, TokenIds, mask_answers
from d3llm.trainers.block_causal import BlockGrid, block_causal_mask
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


@pytest.fixture
def small_recipe() -> dict[str, Any]:
    return shrunk(load_recipe(None))


def shrunk(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with a tiny model, small batches and four steps."""
    del recipe["copying_heads"]
    recipe["model"].update(d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=32)
    recipe["batch_size"] = dict.fromkeys(recipe["batch_size"], 4)
    recipe["optimizer"].update(max_steps=4, learning_rate_schedule=[[0, 1], [2, 1], [4, 0]])
    recipe["logging"].update(log_every=1, eval_every=4, eval_problems=2)
    return recipe


KINDS = ("drill", "copy", "short", "medium", "long", "full")


def only(kind: str) -> list[dict[str, Any]]:
    """A curriculum of one kind of batch."""
    return [{"until": None, **dict.fromkeys(KINDS, 0.0), kind: 1.0}]


def write_recipe(recipe: dict[str, Any], folder: Path) -> Path:
    import yaml

    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def test_frontier_rows_hide_every_number_from_a_result_on(tokenizer: PreTrainedTokenizerBase):
    ids = TokenIds.of(tokenizer)
    text = "Tom has <<3*4=12>>12 apples. Now he has <<12+5=17>>17 apples.\n#### 17"
    answers = torch.tensor([tokenizer(text)["input_ids"] + [ids.eos] * 20] * 16)
    masking = {**load_recipe(None)["masking"][0], "llada": 0.0, "window": 0.0, "frontier": 1.0}
    masked, weights = mask_answers(answers, ids, masking, torch.Generator().manual_seed(0))
    for row in range(len(answers)):
        first = int(masked[row].nonzero()[0, 0])
        assert answers[row, first - 1] == ids.equals or not ids.numbers[answers[row, first]]
        start = int((weights[row] == masking["result_weight"]).nonzero()[0, 0])
        assert answers[row, start - 1] == ids.equals and not masked[row, :start].any()
        assert masked[row, start:][ids.numbers[answers[row, start:]]].all()


def test_the_first_eos_weighs_as_the_answer_and_the_others_as_the_tail(tokenizer: PreTrainedTokenizerBase):
    ids = TokenIds.of(tokenizer)
    solution = tokenizer("Tom has apples.")["input_ids"]
    answers = torch.tensor([solution + [ids.eos] * 8] * 4)
    masking = {**load_recipe(None)["masking"][0], "llada": 1.0, "window": 0.0, "frontier": 0.0, "ending": 0.0}
    masking |= {"min_ratio": 1.0, "tail_weight": 0.25}
    _, weights = mask_answers(answers, ids, masking, torch.Generator().manual_seed(0))
    assert weights.tolist() == [[1.0] * (len(solution) + 1) + [0.25] * 7] * 4


def test_ending_rows_reveal_only_the_end_of_a_block(tokenizer: PreTrainedTokenizerBase):
    ids = TokenIds.of(tokenizer)
    solution = tokenizer("Tom has <<3*4=12>>12 apples.\n#### 12")["input_ids"]
    answers = torch.tensor([solution + [ids.eos] * (48 - len(solution))] * 16)
    masking = {**load_recipe(None)["masking"][-1], "ending": 1.0, "filled": 0.0}
    masked, weights = mask_answers(answers, ids, masking, torch.Generator().manual_seed(0))
    assert masked[:, 32:].all() and not weights[:, 32:].any()
    assert (weights[:, :32] > 0).equal(masked[:, :32])
    assert masked[:, : len(solution)].float().mean() > 0.5
    assert not masked[:, 31].all() and masked[:, 31].any()


def test_orthogonalize_evens_out_singular_values():
    torch.manual_seed(0)
    for shape in ((16, 16), (8, 24), (24, 8)):
        singular = torch.linalg.svdvals(orthogonalize(torch.randn(shape), 6))
        assert singular.min() > 0.3 and singular.max() < 1.5


def test_learning_rate_schedule():
    schedule = [[0, 0.5], [1, 1], [4, 1], [8, 0]]
    factors = [learning_rate_factor(step, schedule) for step in range(10)]
    assert factors == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]


def test_fast_forward_is_the_model(small_recipe: dict[str, Any]):
    trainer = TeacherTrainer(small_recipe)
    small_recipe["curriculum"] = only("short")
    batch = trainer.lesson.make_batch(small_recipe, 700)
    for picked in (batch.valid, batch.weights > 0):
        with torch.no_grad():
            expected = trainer.model(input_ids=batch.input_ids, attention_mask=batch.valid.long()).logits
            logits = trainer.logits(batch.input_ids, batch.valid, picked)
        torch.testing.assert_close(logits, expected[picked], atol=1e-5, rtol=1e-5)


def test_canvases_attend_in_blocks_as_students_do():
    seen = torch.ones(2, 30, dtype=torch.long)
    blocks = BlockGrid("prompt", 8).blocks(seen, 7)
    expected = block_causal_mask(seen, blocks, doubled=False)[:, 0]
    assert torch.equal(Layout.of_canvases(blocks).visible(), expected)


def test_a_resumed_run_equals_an_uninterrupted_one(small_recipe: dict[str, Any], tmp_path: Path):
    recipe = write_recipe(small_recipe, tmp_path)
    train_teacher(recipe, tmp_path / "whole")
    train_teacher(recipe, tmp_path / "parts", stop_at_step=2, num_workers=1)
    train_teacher(recipe, tmp_path / "parts")
    for name in ("model.safetensors", "training_state.safetensors"):
        whole, parts = (load_file(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    logs = [(tmp_path / folder / "training_log.jsonl").read_text().splitlines() for folder in ("whole", "parts")]
    assert len(logs[0]) == len(logs[1]) == 4


def test_half_a_line_of_the_log_does_not_stop_a_run_from_resuming(small_recipe: dict[str, Any], tmp_path: Path):
    recipe, log = write_recipe(small_recipe, tmp_path), tmp_path / "out" / "training_log.jsonl"
    train_teacher(recipe, tmp_path / "out", stop_at_step=2)
    first = log.read_text().splitlines()[0]
    log.write_text(f"{first}\n{first[:20]}")
    train_teacher(recipe, tmp_path / "out")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 3, 4]


def test_a_file_is_no_folder_for_a_teacher(small_recipe: dict[str, Any], tmp_path: Path):
    recipe = write_recipe(small_recipe, tmp_path)
    with pytest.raises(OSError, match="is not a folder"):
        train_teacher(recipe, recipe)


def test_state_of_another_recipe_is_refused(small_recipe: dict[str, Any], tmp_path: Path):
    train_teacher(write_recipe(small_recipe, tmp_path), tmp_path / "out", stop_at_step=1)
    small_recipe["masking"][0]["tail_weight"] = 1.0
    recipe = write_recipe(small_recipe, tmp_path)
    with pytest.raises(ValueError, match=r"holds another run \(masking was "):
        train_teacher(recipe, tmp_path / "out")
    train_teacher(recipe, tmp_path / "out", resume=False, stop_at_step=1)


def test_recipe_errors(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    with pytest.raises(ValueError, match=r"\['model'\] is missing: start from .*teacher\.yaml"):
        load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(FileNotFoundError):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("seed",), "x", "['seed'] is 'x'"),
        (("model", "d_model"), 0, "['model']['d_model'] is 0"),
        (("model", "layers"), 2, "['model']['layers'] is 2: there is no such name"),
        (("generation", "preset"), "lada", "`generation` is invalid: `preset`='lada'"),
        (("optimizer", "learning_rate"), -1, "['learning_rate'] is -1"),
        (("optimizer", "learning_rate_schedule"), [[0]], "['learning_rate_schedule']"),
        (("optimizer", "betas"), [0.9, 1.5], "['betas'][1] is 1.5"),
        (("batch_size", "full"), 0, "['batch_size']['full'] is 0"),
        (("curriculum", 0, "drill"), None, "['curriculum'][0]['drill'] is None"),
        (("curriculum", -1, "until"), 5, "the last phase of `curriculum` must have no end"),
        (("drill_values", -1, "until"), 7, "the last phase of `drill_values` must have no end"),
        (("block_sizes",), [], "['block_sizes'] is []"),
        (("masking", 0, "clean_blocks"), 2, "['masking'][0]['clean_blocks'] is 2"),
        (("masking", 0, "llada"), float("nan"), "['masking'][0]['llada'] is nan"),
        (("masking",), [], "['masking'] is []"),
        (("masking", 0, "frontier"), 0.1, "the shares llada, window, frontier of `masking` sum to 0.75: expected 1"),
        (("curriculum", -1), only("short")[0] | {"short": 0.0}, "a phase of `curriculum` has no kind of batches"),
        (("curriculum", 1, "until"), 1, "the phases of `curriculum` end at ["),
        (("tail", 0, "until"), None, "the phases of `tail` end at [None"),
        (("optimizer", "learning_rate_schedule"), [[2, 1], [4, 0]], "has points at [2, 4]: expected rising steps"),
        (("optimizer", "learning_rate_schedule"), [[0, 1], [4, 0], [4, 1]], "has points at [0, 4, 4]"),
        (("steps", "short"), [5, 2], "`steps` of short is from 5 to 2"),
        (("steps", "full"), [1, 9], "`steps` go up to 9: a story has at most 8"),
        (("copy_mask_ratio",), [0.9, 0.1], "`copy_mask_ratio` is from 0.9 to 0.1"),
        (("logging", "eval_every"), 0, "['logging']['eval_every'] is 0"),
    ],
)
def test_a_value_of_a_teacher_recipe_that_cannot_be(tmp_path: Path, path: tuple, value: Any, named: str):
    recipe = load_recipe()
    section: Any = recipe
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = value
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        load_recipe(write_recipe(recipe, tmp_path))
    assert str(tmp_path / "recipe.yaml") in str(error.value)


def test_unknown_checkpoint():
    with pytest.raises(ValueError, match="Unknown checkpoint 'pupil': expected one of teacher"):
        checkpoint_path("pupil")


def test_incomplete_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("d3llm.quickstart._FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        checkpoint_path("teacher")


def test_teacher_loads_and_solves_a_problem():
    from transformers import AutoTokenizer

    from d3llm.evaluation import encode_prompt
    from d3llm.modeling import LLaDAModelLM

    folder = checkpoint_path("teacher")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LLaDAModelLM.from_pretrained(folder)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    problem = AskedProblem("Tom buys 3 boxes of 4 pens and gives 5 pens away. How many pens does Tom have now?", 7)
    ids = torch.tensor([encode_prompt(tokenizer, problem.question)])
    output = model.generate(ids, attention_mask=torch.ones_like(ids))
    assert output.shape == (1, ids.shape[1] + STORIES.max_new_tokens)
    assert is_right(problem, tokenizer.decode(output[0, ids.shape[1] :]))


def test_card_says_what_was_measured():
    from d3llm.modeling import LLaDAModelLM

    folder = checkpoint_path("teacher")
    card, recipe = (folder / "README.md").read_text(), load_recipe()
    prose = " ".join(card.split())
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == recipe["optimizer"]["max_steps"]
    assert f"seed {recipe['seed']}" in prose and f" {log[-1]['step']:,} optimizer steps" in prose
    results = one_token_results()
    assert results.keys() == {task.title for task in TASKS}
    in_memory = LLaDAModelLM.from_pretrained(folder, dtype="bfloat16")
    weights = {
        fingerprint_files([folder / name for name in ("config.json", "model.safetensors")]),
        fingerprint_weights(in_memory),
    }
    for title, result in results.items():
        assert result.weights in weights and result.num_samples >= (3000 if title == STORIES.title else 1000)
        shares = [f"{interval(result)}", *(f"{share:.1%}" for share in further(result))]
        assert f"| {title} | {result.num_samples:,} | {' | '.join(shares)} | {result.tokens_per_forward:.2f} |" in card


def one_token_results() -> dict[str, Result]:
    """The results of the teacher with one token per forward, by the title of their task."""
    found = read_results([ROOT / "docs/results/teacher", ROOT / "docs/results/student"])
    return {result.title: result for result in found if result.method in ("teacher", "teacher-one_token")}


def interval(result: Result) -> str:
    low, high = result.accuracy_interval
    return f"{result.accuracy:.1%} ({low:.1%} to {high:.1%})"


def further(result: Result) -> list[float]:
    """Shares of right final numbers, and of right names and things."""
    return [result.further_accuracy[name]["accuracy"] for name in ("number", "names")]


@pytest.mark.slow
def test_teacher_accuracy(tmp_path):
    from d3llm.evaluation import measure
    from d3llm.quickstart.student_stages import load, load_teacher_tokenizer

    recorded = {title: result.accuracy for title, result in one_token_results().items()}
    options = {"split": "validation", "limit": 200, "batch_size": 50}
    (result,) = measure(load("teacher"), load_teacher_tokenizer("teacher"), STORIES, tmp_path, **options)
    assert result.accuracy >= recorded[STORIES.title] - 0.05


def test_muon_scales_its_updates_to_the_rms_of_adamw():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8, 32))
    weight.grad = torch.randn(8, 32)
    Muon([weight], lr=1.0).step()
    # 0.2 times the square root of the longer side, of a matrix whose rows are near orthonormal: an RMS of about 0.2
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.25)
