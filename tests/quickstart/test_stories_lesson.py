"""What the teacher is taught: masked stories, sheets of equations and lists."""

import re
from typing import Any

import pytest
import torch

from d3llm.quickstart.stories.lesson import COPY, LEFT, RESULT, RIGHT, StoryLesson, draw_equation
from d3llm.quickstart.stories.numbers import calculate
from d3llm.quickstart.teacher_recipe import load_recipe
from d3llm.quickstart.train_teacher import TeacherTrainer
from d3llm.quickstart.training_rows import Batch, mask_blocks

from .test_teacher import KINDS, only, shrunk


@pytest.fixture(scope="module")
def lesson() -> StoryLesson:
    return StoryLesson()


@pytest.fixture
def small_recipe() -> dict[str, Any]:
    return shrunk(load_recipe())


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_functions_of_the_step_and_train_masks_of_answers_alone(lesson, small_recipe, kind):
    small_recipe["curriculum"] = only(kind)
    batch, again, other = (lesson.make_batch(small_recipe, step) for step in (3, 3, 4))
    assert batch.kind == kind and not torch.equal(batch.labels[:, :40], other.labels[:, :40])
    assert all(torch.equal(getattr(batch, name), getattr(again, name)) for name in ("input_ids", "weights"))
    masked = batch.input_ids == lesson.ids.mask
    assert torch.equal(batch.input_ids[~masked], batch.labels[~masked])
    assert not batch.weights[~(masked & batch.valid)].any() and batch.weights.sum() > 0
    assistant = lesson.tokenizer.convert_tokens_to_ids("<|assistant|>")
    before = (batch.labels == assistant).long().flip(1).cumsum(1).flip(1).bool()
    assert not (masked & before).any()


def test_a_share_of_a_batch_has_no_columns_of_padding_alone(lesson, small_recipe):
    small_recipe["curriculum"] = only("full")
    batch = lesson.make_batch(small_recipe, 0)
    shares = batch.split(4)
    assert sum(share.weights.sum() for share, _ in shares) == pytest.approx(batch.weights.sum().item())
    for row, (share, total) in enumerate(shares):
        assert share.valid.all() and total == pytest.approx(batch.weights.sum().item())
        assert torch.equal(share.labels[0], batch.labels[row][batch.valid[row]])


def test_sections_of_an_equation(lesson):
    labels = torch.tensor([lesson.tokenizer(" <<12*3=36>>36 <<7-5=2>>2")["input_ids"]])
    sections, equation = lesson.sections(labels)
    digits = lesson.ids.numbers[labels]
    tokens = lesson.tokenizer.convert_ids_to_tokens(labels[0].tolist())
    read = {
        (int(number), int(section)): "".join(
            token
            for token, s, e, d in zip(tokens, sections[0], equation[0], digits[0], strict=True)
            if d and s == section and e == number
        )
        for section in (LEFT, RIGHT, RESULT, COPY)
        for number in (1, 2)
    }
    assert [read[1, part] for part in (LEFT, RIGHT, RESULT, COPY)] == ["12", "3", "36", "36"]
    assert [read[2, part] for part in (LEFT, RIGHT, RESULT, COPY)] == ["7", "5", "2", "2"]


def test_a_drill_hides_a_result_with_its_copy_or_one_operand(lesson, small_recipe):
    small_recipe["curriculum"] = only("drill")
    batch = lesson.make_batch(small_recipe, 2000)
    sections, equation = lesson.sections(batch.labels)
    masked = batch.input_ids == lesson.ids.mask
    digits = lesson.ids.numbers[batch.labels]
    for row in range(len(masked)):
        for number in range(1, int(equation[row].max()) + 1):
            here = (equation[row] == number) & digits[row]
            hidden = set(sections[row][here & masked[row]].tolist())
            assert hidden in ({RESULT, COPY}, {RESULT}, {LEFT}, {RIGHT}, set())
            if hidden:
                assert masked[row][here & torch.isin(sections[row], torch.tensor(list(hidden)))].all()


def test_an_answer_of_a_list_to_copy_has_its_sentences_in_another_order(lesson, small_recipe):
    small_recipe["curriculum"] = only("copy")
    batch = lesson.make_batch(small_recipe, 5)
    orders = set()
    for row, valid in zip(batch.labels, batch.valid, strict=True):
        question, answer = lesson.tokenizer.decode(row[valid]).split("<|assistant|>")
        told = [text.strip() for text in question.removeprefix("<|user|>").split(".")][:-1]
        copied = [text.strip() for text in answer.removesuffix("<|endoftext|>").split(".")][:-1]
        assert len(told) == 5 and sorted(told) == sorted(copied)
        orders.add(tuple(told.index(text) for text in copied))
    assert len(orders) > 1
    low, high = small_recipe["copy_mask_ratio"]
    share = (batch.weights > 0).sum(1) / (batch.valid.sum(1) / 2)
    assert low / 2 < share.min() and share.max() < 1.3 * high


def test_tails_grow_with_the_phase(lesson, small_recipe):
    small_recipe["curriculum"] = only("short")
    small_recipe["tail"] = [{"until": 5, "largest": 0}, {"until": None, "largest": 60}]
    tails = []
    for step in (4, 5):
        batch = lesson.make_batch(small_recipe, step)
        tails.append(((batch.labels == lesson.ids.eos) & batch.valid).sum(1))
    assert tails[0].max() <= small_recipe["model"]["attention_block_size"] < tails[1].max()


def test_canvases_end_with_a_block(lesson):
    _, valid, start = lesson.canvases(["Who?"] * 2, ["Tom.", "Tom has <<3*4=12>>12 pens."], [0, 9], 8)
    lengths = valid[:, start:].sum(1)
    assert (lengths % 8 == 0).all() and lengths.min() == 8


def test_equations_are_right_and_within_the_largest_value():
    import random

    rng = random.Random(0)
    for _ in range(500):
        left, operation, right, result, copy = re.fullmatch(
            r" <<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)", draw_equation(rng, 100)
        ).groups()
        assert calculate(int(left), operation, int(right)) == int(result) == int(copy) <= 1000


def test_the_accuracy_of_results_counts_whole_numbers(small_recipe, monkeypatch):
    trainer = TeacherTrainer(small_recipe)
    digit = trainer.tokenizer.convert_tokens_to_ids("5")

    def always_five(input_ids, valid, picked, layout):
        return torch.nn.functional.one_hot(torch.full((int(picked.sum()),), digit), len(trainer.tokenizer)).float()

    monkeypatch.setattr(trainer, "logits", always_five)
    texts = ["2+3", "6"], [" <<2+3=5>>5", " <<50+5=55>>5 <<9+6=15>>15"]
    monkeypatch.setattr(trainer.lesson, "validation_texts", lambda n: texts)
    assert trainer.result_accuracy(2) == pytest.approx(2 / 3)


def test_blocks_are_masked_wholly_at_random_or_from_a_place_on(small_recipe: dict[str, Any]):
    ids = TeacherTrainer(small_recipe).ids
    labels = torch.full((900, 24), ids.equals)
    batch = mask_blocks(labels, labels > 0, 0, ids, [8], "short", torch.Generator().manual_seed(0))
    masked = (batch.input_ids[:, 24:] == ids.mask).view(900, 3, 8)
    is_whole = masked.all(-1).all(-1)
    is_suffix = (masked.long().cummax(-1).values == masked).all(-1).all(-1)
    shares = [rows.float().mean().item() for rows in (is_whole, is_suffix & ~is_whole, ~is_suffix)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.07)
    places = masked[is_suffix & ~is_whole].sum(-1)
    assert (places[:, 0] != places[:, 1]).float().mean() > 0.8  # each block has its own
    alone = mask_blocks(labels, labels > 0, 0, ids, [1], "short", torch.Generator().manual_seed(0))
    assert (alone.input_ids[:, 24:] == ids.mask).all()


@pytest.mark.parametrize("block_size", [1, 4, 64])
def test_a_noisy_block_sees_itself_and_the_clean_text_before_it(small_recipe: dict[str, Any], block_size: int):
    trainer = TeacherTrainer(small_recipe)  # of one layer, so what a visible token sees does not matter
    lesson, generator = trainer.lesson, torch.Generator().manual_seed(0)
    questions, solutions = ["Tom has 3 pens.", "Who?"], ["<<3*4=12>>12 pens.\n#### 12", "Tom.\n#### 7"]
    labels, valid, start = lesson.canvases(questions, solutions, [2, 0])
    batch = mask_blocks(labels, valid, start, lesson.ids, [block_size], "short", generator)
    picked = batch.valid & batch.layout.noisy
    with torch.no_grad():
        logits = trainer.logits(batch.input_ids, batch.valid, picked, batch.layout)
        expected = torch.cat([alone(trainer, batch, row, start, labels.shape[1], block_size) for row in range(2)])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def alone(trainer: TeacherTrainer, batch: Batch, row: int, start: int, length: int, block_size: int) -> torch.Tensor:
    """Logits of the noisy blocks of a row, each after its clean prefix and with nothing else in the canvas."""
    blocks = []
    for first in range(start, length, block_size):
        last = min(first + block_size, length)
        noisy = slice(length + first - start, length + last - start)
        ids = torch.cat((batch.input_ids[row, :first], batch.input_ids[row, noisy]))
        mask = torch.cat((batch.valid[row, :first], batch.valid[row, noisy]))
        output = trainer.model(input_ids=ids[None], attention_mask=mask[None].long()).logits[0, first:]
        blocks.append(output[batch.valid[row, noisy]])
    return torch.cat(blocks)


def test_rows_of_clean_and_noisy_blocks_weigh_their_masks(small_recipe: dict[str, Any]):
    ids = TeacherTrainer(small_recipe).ids
    labels = torch.randint(100, 200, (64, 24))
    valid = torch.ones_like(labels).bool()
    valid[:, -2:] = False
    batch = mask_blocks(labels, valid, 4, ids, [1, 8], "short", torch.Generator().manual_seed(0))
    masked = batch.input_ids == ids.mask
    assert batch.weights.equal((masked & batch.valid).float())
    assert not masked[:, :24].any() and not masked[:, -2:].any()
    wholly = masked[:, 24:-2].all(1)
    single = batch.layout.blocks[:, 5] == 2  # the second token of the answer is in the second block
    assert wholly[single].all() and 0 < wholly[~single].sum() < (~single).sum()


def test_sheets_of_blocks_predict_results_from_what_is_before_them(small_recipe):
    small_recipe["masking"][0]["clean_blocks"] = 1.0
    small_recipe["curriculum"] = only("drill")
    trainer = TeacherTrainer(small_recipe)
    batch, length = trainer.lesson.make_batch(small_recipe, 0), small_recipe["drill_length"]
    assert batch.layout.noisy[:, length:].all() and not batch.layout.noisy[:, :length].any()
    for row in range(len(batch.labels)):
        sheet = trainer.tokenizer.decode(batch.labels[row, :length])
        results = "".join(f"{result}>>" for result in re.findall(r"=(\d+)(?=>>)", sheet))
        there = batch.valid[row] & batch.layout.noisy[row]
        assert trainer.tokenizer.decode(batch.labels[row, there]).startswith(results) and results
        assert (batch.input_ids[row, there] == trainer.ids.mask).all() and (batch.weights[row] > 0).equal(there)
        expected = batch.labels[row, batch.layout.positions[row, there]]
        assert batch.labels[row, there].equal(expected)
