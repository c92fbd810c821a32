"""Training batches of the teacher: masked stories, sheets of equations and lists, by recipe and step."""

import math
import random
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..training_rows import Batch, TokenIds, draw_kind, mask_answers, mask_blocks, phase_at
from .grammar import KINDS
from .numbers import LARGEST_FACTOR, LARGEST_VALUE, calculate
from .problem import draw_problem, generate_problems
from .tokenizer import build_tokenizer
from .words import InventedShares, draw_name, draw_thing


UNITS = (24, 60, 100, 1000)  # constants that stories multiply and divide by, besides small factors
MIDDLE_FACTOR = 60  # of products in sheets of equations; those of stories have a small factor or two middle ones
OPEN, CLOSE = " <<", ">>"
LEFT, RIGHT, RESULT, COPY = range(1, 5)


class StoryLesson:
    """
    What a teacher is taught: batches that are pure functions of recipe and step, and problems to watch.

    Attributes:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        ids ([`TokenIds`]): Its special ids, for masking.
    """

    def __init__(self) -> None:
        self.tokenizer: PreTrainedTokenizerBase = build_tokenizer()
        self.ids = TokenIds.of(self.tokenizer)
        marks = self.tokenizer.convert_tokens_to_ids(["\u0120<<", *"+-*/", "=", CLOSE])  # the first one after a space
        self.close = marks[-1]
        self.section_after = torch.zeros(len(self.tokenizer), dtype=torch.long)
        self.section_after[marks] = torch.tensor([LEFT, *[RIGHT] * 4, RESULT, COPY])

    def validation_texts(self, num_problems: int) -> tuple[list[str], list[str]]:
        """Prompts and solutions of validation problems, always the same."""
        problems = generate_problems("validation", num_problems)
        prompts = [self.render_prompt(problem.question) for problem in problems]
        return prompts, [problem.solution for problem in problems]

    def render_prompt(self, question: str) -> str:
        """The question in the tokenizer's chat template."""
        message = [{"role": "user", "content": question}]
        return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    def make_batch(self, recipe: dict[str, Any], step: int) -> Batch:
        """The batch of a training step, counted from 0."""
        rng = random.Random(f"{recipe['seed']}:{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        kind = draw_kind(recipe["curriculum"], step, rng)
        if kind == "drill":
            return self._drill_batch(recipe, step, rng, generator)
        if kind == "copy":
            return self._copy_batch(recipe, rng, generator)
        low, high = recipe["steps"][kind]
        shares = phase_at(recipe["invented_words"], step)
        invented = InventedShares(shares["names"], shares["things"])
        weights = phase_at(recipe["kind_weights"], step)["weights"]
        kinds = [kind for kind in KINDS for _ in range(weights.get(kind, 1))]
        problems = [
            draw_problem(rng, "train", rng.randint(low, high), invented=invented, kinds=kinds)
            for _ in range(recipe["batch_size"][kind])
        ]
        prompts = [
            problem.question if rng.random() < recipe["plain_prompt_rate"] else self.render_prompt(problem.question)
            for problem in problems
        ]
        most = recipe["canvas_tail"] if kind == "full" else phase_at(recipe["tail"], step)["largest"]
        tails = [int((most + 1) * rng.random() ** 2) for _ in problems]
        block_size = recipe["model"].get("attention_block_size", 1)
        labels, valid, start = self.canvases(prompts, [problem.solution for problem in problems], tails, block_size)
        masking = phase_at(recipe["masking"], step)
        if rng.random() < masking.get("clean_blocks", 0.0):
            return mask_blocks(labels, valid, start, self.ids, recipe["block_sizes"], kind, generator)
        masked, weights = mask_answers(labels[:, start:], self.ids, masking, generator)
        prompt = torch.zeros(len(problems), start)
        masked = torch.cat((prompt.bool(), masked), dim=1) & valid
        inputs = labels.masked_fill(masked, self.ids.mask)
        return Batch(labels, inputs, valid, torch.cat((prompt, weights), dim=1) * valid, kind)

    def canvases(
        self, prompts: list[str], solutions: list[str], tails: list[int], block_size: int = 1
    ) -> tuple[Tensor, Tensor, int]:
        """
        The tokens of canvases, each of its own length, the longest first: left-padded prompts, then answers with their
        tails of EOS, and more EOS as padding.

        Args:
            prompts (`list[str]`), solutions (`list[str]`): The texts.
            tails (`list[int]`): Least number of EOS after the one that ends each answer.
            block_size (`int`, *optional*, defaults to 1): The answer with its tail is a multiple of it.

        Returns:
            `tuple[Tensor, Tensor, int]`: Tokens `(B, L)`, validity `(B, L)` and the length of the prompt region.
        """
        questions, answers = self.tokenizer(prompts)["input_ids"], self.tokenizer(solutions)["input_ids"]
        regions = [
            math.ceil((len(answer) + 1 + tail) / block_size) * block_size
            for answer, tail in zip(answers, tails, strict=True)
        ]
        rows = sorted(
            zip(questions, answers, regions, strict=True), key=lambda row: len(row[0]) + row[2], reverse=True
        )
        start, length = max(map(len, questions)), max(regions)
        labels = torch.full((len(rows), start + length), self.ids.eos)
        for index, (question, answer, _) in enumerate(rows):
            labels[index, start - len(question) : start + len(answer)] = torch.tensor(question + answer)
        first = torch.tensor([start - len(question) for question, _, _ in rows])
        end = torch.tensor([start + region for _, _, region in rows])
        column = torch.arange(start + length)
        return labels, (column >= first[:, None]) & (column < end[:, None]), start

    def _drill_batch(self, recipe: dict[str, Any], step: int, rng: random.Random, generator: torch.Generator) -> Batch:
        kind = "drill"
        size, length = recipe["batch_size"][kind], recipe["drill_length"]
        largest = phase_at(recipe["drill_values"], step)["largest"]
        # an equation has at least eight tokens
        sheets = [
            "".join(draw_equation(rng, largest, recipe["drill_operations"]) for _ in range(length // 8 + 1))
            for _ in range(size)
        ]
        labels = torch.tensor([row[:length] for row in self.tokenizer(sheets)["input_ids"]])
        section, equation = self.sections(labels)
        if rng.random() < phase_at(recipe["masking"], step).get("clean_blocks", 0.0):
            valid = torch.ones_like(labels).bool()
            # operands are random, and a copy is easy
            predicted = (section == RESULT) & (labels != self.ids.equals) | (labels == self.close)
            return mask_blocks(labels, valid, 0, self.ids, [1], kind, generator, predicted)
        # Usually the result and its copy are hidden, otherwise one of the operands.
        draw = torch.rand(size, length, generator=generator).gather(1, equation)
        hidden = torch.where(draw < 0.8, RESULT, torch.where(draw < 0.9, LEFT, RIGHT))
        masked = self.ids.numbers[labels] & ((section == hidden) | (section == COPY) & (hidden == RESULT))
        return Batch(labels, labels.masked_fill(masked, self.ids.mask), torch.ones_like(masked), masked.float(), kind)

    def _copy_batch(self, recipe: dict[str, Any], rng: random.Random, generator: torch.Generator) -> Batch:
        """
        Prompts that list who has how many of what, and answers with the same list in another order. What is masked can
        only be copied, as the names and things of a story must be.
        """
        size = recipe["batch_size"]["copy"]
        lists = [[draw_possession(rng) for _ in range(recipe["copy_sentences"])] for _ in range(size)]
        prompts = [self.render_prompt(" ".join(sentences)) for sentences in lists]
        solutions = [" ".join(rng.sample(sentences, len(sentences))) for sentences in lists]
        labels, valid, start = self.canvases(prompts, solutions, [0] * size)
        low, high = recipe["copy_mask_ratio"]
        ratio = low + (high - low) * torch.rand(size, 1, generator=generator)
        masked = (torch.rand(labels.shape, generator=generator) < ratio) & valid
        masked[:, :start] = False
        return Batch(labels, labels.masked_fill(masked, self.ids.mask), valid, masked.float(), "copy")

    def sections(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """
        The part of an equation that each position belongs to.

        Args:
            labels (`Tensor` of shape `(B, L)`): Tokens.

        Returns:
            `tuple[Tensor, Tensor]`: `LEFT`, `RIGHT`, `RESULT`, `COPY` or 0 by the last mark up to the position, and
            the number of the equation, both `(B, L)`.
        """
        after = self.section_after[labels]
        last_mark = torch.where(after > 0, torch.arange(labels.shape[1]), 0).cummax(1).values
        return after.gather(1, last_mark), (after == LEFT).cumsum(1)


def draw_possession(rng: random.Random) -> str:
    """A sentence about a person, a number and things."""
    (name, _), (_, things) = draw_name(rng), draw_thing(rng)
    return f"{name} has {1 + int(LARGEST_VALUE * rng.random() ** 2)} {things}."


def draw_equation(rng: random.Random, largest: int, operations: str = "+-*/") -> str:
    """
    One equation in a story's form, after a space; small numbers are more likely than large ones. The operation is
    drawn from the characters of `operations`.
    """
    while True:
        operation = operations[int(rng.random() * len(operations))]
        left, right = (int(largest * rng.random() ** 2) + 1 for _ in range(2))
        if operation in "*/":
            small = min(largest, LARGEST_FACTOR)
            draw = rng.random()
            right = rng.choice(UNITS) if draw < 0.1 else 1 + int(rng.random() * small)
            if draw > 0.7:  # two factors of one size, as of 24 buses with 18 people
                right = rng.randint(2, min(largest, MIDDLE_FACTOR))
                left = rng.randint(1, LARGEST_VALUE // right)
        if operation == "/":
            left *= right
        elif (operation == "-" and left < right) or (operation == "*" and rng.random() < 0.5):
            left, right = right, left
        result = calculate(left, operation, right)
        if result is not None and result <= LARGEST_VALUE and max(left, right) <= LARGEST_VALUE:
            return f"{OPEN}{left}{operation}{right}={result}{CLOSE}{result}"
