"""The word problems, their tokenizer, the teacher's trainer and the shipped checkpoint."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from d3llm.quickstart import checkpoint_path, problems
from d3llm.quickstart.muon import Muon, orthogonalize
from d3llm.quickstart.problems import (
    LARGEST_VALUE,
    SPLITS,
    apply_operation,
    extract_answer,
    generate_problems,
    split_of_signature,
    vocabulary,
)
from d3llm.quickstart.teacher_recipe import load_recipe
from d3llm.quickstart.tokenizer import build_tokenizer
from d3llm.quickstart.train_teacher import TeacherTrainer, learning_rate_factor, train_teacher
from d3llm.quickstart.training_rows import Layout, TokenIds, make_batch, mask_answers, render_prompt
from d3llm.trainers.block_causal import BlockGrid, block_causal_mask


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """The tokenizer after a round trip through a folder, as users load it."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def small_recipe() -> dict[str, Any]:
    return shrunk(load_recipe(None))


def shrunk(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with a tiny model, small batches and four steps."""
    recipe.pop("copying_heads", None)
    recipe["model"].update(d_model=16, n_layers=1, n_heads=2, mlp_hidden_size=32)
    recipe["batch_size"] = dict.fromkeys(recipe["batch_size"], 4)
    recipe["optimizer"].update(max_steps=4, learning_rate_schedule=[[0, 1], [2, 1], [4, 0]])
    recipe["logging"].update(log_every=1, eval_every=4, eval_problems=2)
    return recipe


def write_recipe(recipe: dict[str, Any], folder: Path) -> Path:
    import yaml

    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def test_problems_are_a_function_of_the_seed():
    assert generate_problems("test", 20, seed=3) == generate_problems("test", 20, seed=3)
    assert generate_problems("test", 20, seed=3) != generate_problems("test", 20, seed=4)
    assert generate_problems("test", 20, seed=3)[:5] == generate_problems("test", 5, seed=3)


def test_problems_stay_as_they_were_when_the_teacher_was_trained():
    problem = generate_problems("validation", 1, seed=0)[0]
    assert problem.signature == "9+15,/3"
    assert problem.question.startswith(
        "Emma has 15 stickers and Tom has 9. Emma takes them all. She puts them into 3 ba"
    )
    assert problem.solution.endswith("There are <<24/3=8>>8 stickers in each.\n#### 8")


def test_splits_are_disjoint_and_distinct():
    signatures = {split: [problem.signature for problem in generate_problems(split, 800)] for split in SPLITS}
    for split, drawn in signatures.items():
        assert len(set(drawn)) == len(drawn)
        assert all(split_of_signature(signature) == split for signature in drawn)
    train, validation, test = (set(signatures[split]) for split in SPLITS)
    assert not train & validation and not train & test and not validation & test


def test_test_split_has_thousands_of_problems():
    assert len(generate_problems("test", 2000)) == 2000


@pytest.mark.parametrize("signature", ["3*4", "20-5"])
def test_single_facts_belong_to_train(signature: str):
    assert split_of_signature(signature) == "train"


def test_worked_solutions_are_right():
    for problem in generate_problems("train", 500):
        equations = re.findall(r"<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)", problem.solution)
        operations = problem.signature.split(",")
        assert len(equations) == len(operations) >= 2
        previous = None
        for (left, operation, right, result, copy), told in zip(equations, operations, strict=True):
            assert apply_operation(int(left), operation, int(right)) == int(result) == int(copy) <= LARGEST_VALUE
            if previous is not None:  # every step goes on with the result of the one before
                assert left == previous and told == f"{operation}{right}"
            previous = result
        assert problem.answer == int(previous) == extract_answer(problem.solution)
        told = re.findall(r"\d+|half", problem.question)
        told = ["2" if word == "half" else word for word in told]
        assert told == [equations[0][0], *(equation[2] for equation in equations)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so <<3*4=12>>12.\n#### 12", 12),
        ("#### 7<|endoftext|>#### 8", 7),
        ("<|endoftext|>#### 8", None),
        ("no answer", None),
        ("####", None),
    ],
)
def test_extract_answer(text: str, answer: int | None):
    assert extract_answer(text) == answer


def test_problem_errors():
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        generate_problems("dev", 1)
    with pytest.raises(ValueError, match="has no whole result"):
        apply_operation(7, "/", 2)


def test_tokenizer_round_trip(tokenizer: PreTrainedTokenizerBase):
    for problem in generate_problems("train", 500):
        for text in (problem.question, problem.solution):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_tokenizer_is_complete(tokenizer: PreTrainedTokenizerBase):
    assert len(tokenizer) == len(set(vocabulary())) + 6 <= 200
    assert tokenizer.mask_token == "<|mdm_mask|>"
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.padding_side == "left"
    assert len(tokenizer("17 30")["input_ids"]) == 2
    batch = tokenizer(["Tom has 3 apples.", "4"], padding=True)
    assert batch["attention_mask"] == [[1] * 5, [0] * 4 + [1]]


def test_chat_template_gives_the_prompt_of_training(tokenizer: PreTrainedTokenizerBase):
    problem = generate_problems("validation", 1)[0]
    messages = [{"role": "user", "content": problem.question}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer(render_prompt(problem))["input_ids"]
    messages.append({"role": "assistant", "content": problem.solution})
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == f"{render_prompt(problem)} {problem.solution}<|endoftext|>"


def test_batches_are_masked_in_the_answer_only(tokenizer: PreTrainedTokenizerBase):
    recipe, ids = load_recipe(None), TokenIds.of(tokenizer)
    recipe["batch_size"] = dict.fromkeys(recipe["batch_size"], 8)
    kinds = set()
    for step in range(0, 700, 25):
        batch = make_batch(recipe, tokenizer, ids, step)
        again = make_batch(recipe, tokenizer, ids, step)
        assert torch.equal(batch.input_ids, again.input_ids) and torch.equal(batch.weights, again.weights)
        is_masked = batch.input_ids == ids.mask
        assert torch.equal(batch.input_ids[~is_masked], batch.labels[~is_masked])
        assert (batch.weights[~is_masked] == 0).all() and (batch.weights >= 0).all() and batch.weights.sum() > 0
        if batch.kind != "drill":
            assistant = tokenizer.convert_tokens_to_ids("<|assistant|>")
            has_marker = (batch.labels == assistant).any(1)
            answer = (batch.labels == assistant).long().cumsum(1).bool()
            assert not (is_masked & ~answer)[has_marker].any()
        kinds.add(batch.kind)
    assert {"drill", "1", "2"} <= kinds


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
    batch = make_batch(small_recipe, trainer.tokenizer, trainer.ids, 700)
    for picked in (batch.valid, batch.weights > 0):
        with torch.no_grad():
            expected = trainer.model(input_ids=batch.input_ids, attention_mask=batch.valid.long()).logits
            logits = trainer.logits(batch.input_ids, batch.valid, picked)
        torch.testing.assert_close(logits, expected[picked], atol=1e-5, rtol=1e-5)


def test_resumed_training_equals_uninterrupted_training(small_recipe: dict[str, Any], tmp_path: Path):
    recipe = write_recipe(small_recipe, tmp_path)
    train_teacher(recipe, tmp_path / "whole")
    train_teacher(recipe, tmp_path / "parts", stop_at_step=2)
    train_teacher(recipe, tmp_path / "parts")
    for name in ("model.safetensors", "training_state.safetensors"):
        whole, parts = (load_file(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    logs = [(tmp_path / folder / "training_log.jsonl").read_text().splitlines() for folder in ("whole", "parts")]
    assert len(logs[0]) == len(logs[1]) == 4


def test_canvases_attend_in_blocks_as_students_do():
    seen = torch.ones(2, 30, dtype=torch.long)
    blocks = BlockGrid("prompt", 8).blocks(seen, 7)
    expected = block_causal_mask(seen, blocks, doubled=False)[:, 0]
    assert torch.equal(Layout.of_canvases(blocks).visible(), expected)


def test_state_of_another_recipe_is_refused(small_recipe: dict[str, Any], tmp_path: Path):
    train_teacher(write_recipe(small_recipe, tmp_path), tmp_path / "out", stop_at_step=1)
    small_recipe["masking"][0]["llada"] = 1.0
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
        (("masking", 0, "llada"), float("nan"), "['masking'][0]['llada'] is nan"),
        (("masking",), [], "['masking'] is []"),
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
    question = "Tom has 3 bags with 4 apples in each. He gives 5 to Anna. How many apples does Tom have now?"
    ids = torch.tensor([encode_prompt(tokenizer, question)])
    output = model.generate(ids, attention_mask=torch.ones_like(ids))
    assert output.shape == (1, ids.shape[1] + 96)
    assert extract_answer(tokenizer.decode(output[0, ids.shape[1] :])) == 7


def test_card_says_what_was_measured():
    folder = checkpoint_path("teacher")
    result = json.loads((folder / "results.json").read_text())
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    recipe = load_recipe()
    assert log[-1]["step"] == recipe["optimizer"]["max_steps"]
    assert result["split"] == "test" and result["problems"] >= 500 and result["accuracy"] >= 0.95
    card = (folder / "README.md").read_text()
    assert f"{result['correct']} of {result['problems']} = {100 * result['accuracy']:.1f} %" in card
    assert f"seed {recipe['seed']}" in card and f": {recipe['optimizer']['max_steps']} optimizer" in card


@pytest.mark.slow
def test_teacher_accuracy(tmp_path):
    from d3llm.evaluation import measure
    from d3llm.quickstart.distill_student import load, load_tokenizer
    from d3llm.quickstart.task import QUICKSTART

    options = {"split": "validation", "limit": 200, "batch_size": 50, "block_size": 32}
    (result,) = measure(load("teacher"), load_tokenizer(), QUICKSTART, tmp_path, presets="llada", **options)
    assert result.accuracy >= 0.93


def test_a_problem_told_with_its_numbers_swapped_is_the_same_problem():
    for operation in "+*":
        assert problems._signature(3, operation, 8, [("-", 2)]) == problems._signature(8, operation, 3, [("-", 2)])
    for operation in "-/":
        assert problems._signature(8, operation, 2, []) != problems._signature(2, operation, 8, [])


def test_muon_scales_its_updates_to_the_rms_of_adamw():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8, 32))
    weight.grad = torch.randn(8, 32)
    Muon([weight], lr=1.0).step()
    # 0.2 times the square root of the longer side, of a matrix whose rows are near orthonormal: an RMS of about 0.2
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.25)
