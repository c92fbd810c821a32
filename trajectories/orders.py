"""
Where the order of a response comes from.

An order is a function of a chunk of samples that gives a [`Trajectory`] for each. The teacher's own run is in
`teacher_runs.py`, that of an autoregressive model in `greedy_runs.py`; the others here take the response from the
dataset, and commit one token per forward.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from random import Random
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .dataset import LARGEST_STEP
from .prompt_rows import Sample, check_ids
from .published import CORRECT_COLUMN, TRAJECTORY_COLUMN, read_published
from .row import Trajectory


OrderName = Literal["teacher", "random", "left_to_right", "column", "ar_rank", "ar_buckets", "published", "ar"]
ORDERS: tuple[OrderName, ...] = get_args(OrderName)
CommitSteps = list[Annotated[int, Field(ge=0, le=LARGEST_STEP)]]


class ResponseReader:
    """
    Reads the responses that are in the dataset.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Tokenizer of the responses that are texts; an EOS is added to them.
        eos_token_ids (`Collection[int]`): What ends a response; the first of them is the EOS that is added.
        response_column (`str`): Column of texts or token ids.
        vocab_size (`int`): No id may reach it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: Collection[int],
        response_column: str,
        vocab_size: int,
    ):
        self.tokenizer = tokenizer
        self.eos_token_ids = list(eos_token_ids)
        self.response_column = response_column
        self.vocab_size = vocab_size

    def read_response(self, sample: Sample) -> list[int]:
        response = sample.row[self.response_column]
        if not response or (isinstance(response, str) and not response.strip()):
            raise ValueError(f"{sample.id} has no response (column {self.response_column!r}).")
        if isinstance(response, str):
            response = [*self.tokenizer(response, add_special_tokens=False)["input_ids"], *self.eos_token_ids[:1]]
        try:
            check_ids(response, self.vocab_size)
            if len(response) > LARGEST_STEP:
                raise ValueError(f"it has {len(response)} tokens, and commit steps are kept up to {LARGEST_STEP}")
        except ValueError as error:
            raise ValueError(f"The response of {sample.id} cannot be used: {error}.") from error
        return response


class GivenResponses(ResponseReader, ABC):
    """
    Orders of responses that are in the dataset.

    Args:
        args: As for [`ResponseReader`].
    """

    def __call__(self, samples: list[Sample]) -> list[Trajectory]:
        responses = [self.read_response(sample) for sample in samples]
        responses = [response[: length_up_to_eos(response, self.eos_token_ids)] for response in responses]
        return [
            Trajectory(response_ids=response, commit_steps=steps, num_forwards=max(steps))
            for response, steps in zip(responses, self.rank(samples, responses), strict=True)
        ]

    @abstractmethod
    def rank(self, samples: list[Sample], responses: list[list[int]]) -> list[list[int]]:
        """The commit steps of each response, which ends with its first EOS."""


class LeftToRight(GivenResponses):
    """One token after another, as an autoregressive model commits them."""

    def rank(self, samples: list[Sample], responses: list[list[int]]) -> list[list[int]]:
        return [list(range(1, len(response) + 1)) for response in responses]


class RandomOrder(GivenResponses):
    """
    A random order of each response.

    Args:
        seed (`int`): Seed of the run; the order of a sample depends on it and on the sample's id alone.
        args, kwargs: As for [`GivenResponses`].
    """

    def __init__(self, *args, seed: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed

    def rank(self, samples: list[Sample], responses: list[list[int]]) -> list[list[int]]:
        return [
            Random(sample.seed(self.seed)).sample(range(1, len(response) + 1), len(response))
            for sample, response in zip(samples, responses, strict=True)
        ]


class OrderColumn(GivenResponses):
    """
    A column of the dataset: the commit step of each token of the response, counted from 1.

    Args:
        order_column (`str`): The column.
        args, kwargs: As for [`GivenResponses`].
    """

    def __init__(self, *args, order_column: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.order_column = order_column

    def rank(self, samples: list[Sample], responses: list[list[int]]) -> list[list[int]]:
        steps = []
        for sample, response in zip(samples, responses, strict=True):
            order, length = sample.row[self.order_column], len(self.read_response(sample))
            if len(order) != length:
                raise ValueError(
                    f"The order of {sample.id} (column {self.order_column!r}) has {len(order)} commit steps, and the "
                    f"response {length} tokens, with its EOS."
                )
            steps.append(order[: len(response)])
        return steps


class ARRank(GivenResponses):
    """
    The tokens that an autoregressive model finds most probable first: an order without a diffusion run.

    Args:
        model (`PreTrainedModel`): A causal language model over the teacher's token ids.
        batch_size (`int`): Rows per forward.
        args, kwargs: As for [`GivenResponses`].
    """

    HEAD_ROWS = 1024  # rows of logits at once

    def __init__(self, *args, model: PreTrainedModel, batch_size: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.model = model
        self.batch_size = batch_size

    def rank(self, samples: list[Sample], responses: list[list[int]]) -> list[list[int]]:
        steps = []
        for start in range(0, len(samples), self.batch_size):
            batch = slice(start, start + self.batch_size)
            steps += [self.steps_of(row) for row in self._log_probabilities(samples[batch], responses[batch])]
        return steps

    def steps_of(self, log_probabilities: torch.Tensor) -> list[int]:
        """The commit steps of a response, from the log-probability of each of its tokens (N,)."""
        return ranks(-log_probabilities)

    @torch.no_grad()
    def _log_probabilities(self, samples: list[Sample], responses: list[list[int]]) -> tuple[torch.Tensor, ...]:
        """Of each token of each response, given the prompt and what precedes it."""
        texts = [
            torch.tensor(sample.prompt_ids + response) for sample, response in zip(samples, responses, strict=True)
        ]
        input_ids = pad_sequence(texts, batch_first=True).to(self.model.device)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        ends = torch.tensor([len(text) for text in texts], device=input_ids.device)[:, None]
        starts = torch.tensor([len(sample.prompt_ids) for sample in samples], device=input_ids.device)[:, None]
        hidden = self.model.base_model(input_ids=input_ids, attention_mask=(positions < ends).long()).last_hidden_state
        predicted = (positions >= starts) & (positions < ends)
        rows, targets = hidden[:, :-1][predicted[:, 1:]], input_ids[predicted]
        head = self.model.get_output_embeddings()
        found = [
            head(chunk).float().log_softmax(dim=-1).gather(1, target[:, None])[:, 0]
            for chunk, target in zip(rows.split(self.HEAD_ROWS), targets.split(self.HEAD_ROWS), strict=True)
        ]
        return torch.cat(found).cpu().split([len(response) for response in responses])


class ARBuckets(ARRank):
    """
    The tokens that an autoregressive model finds hardest first, in buckets that are committed at once (TRIMS, arXiv
    2604.00666): the negative log-likelihood of a token is its difficulty, and quantiles of it divide a response into
    buckets of equal size. What is hard is an anchor for the rest, which is then likely at once.

    Args:
        buckets (`int`): K, the number of buckets; a shorter response has one for each token.
        args, kwargs: As for [`ARRank`].
    """

    def __init__(self, *args, buckets: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.buckets = buckets

    def steps_of(self, log_probabilities: torch.Tensor) -> list[int]:
        length = len(log_probabilities)
        buckets = min(self.buckets, length)
        return [1 + (place - 1) * buckets // length for place in ranks(log_probabilities)]


class PublishedTrajectories:
    """
    The order of the published trajectory datasets, see [`read_published`].

    Args:
        mask_token_id (`int`): The teacher's mask token.
        eos_token_ids (`Collection[int]`): What ends a response.
        vocab_size (`int`): No id may reach it.
    """

    def __init__(self, mask_token_id: int, eos_token_ids: Collection[int], vocab_size: int):
        self.mask_token_id = mask_token_id
        self.eos_token_ids = eos_token_ids
        self.vocab_size = vocab_size

    def __call__(self, samples: list[Sample]) -> list[Trajectory]:
        return [self._read(sample) for sample in samples]

    def _read(self, sample: Sample) -> Trajectory:
        trajectory = sample.row[TRAJECTORY_COLUMN]
        try:
            response, steps = read_published(sample.prompt_ids, trajectory, self.mask_token_id)
            check_ids(response, self.vocab_size)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{sample.id} cannot be used: {error}.") from error
        end = length_up_to_eos(response, self.eos_token_ids)
        return Trajectory(
            response_ids=response[:end],
            commit_steps=steps[:end],
            num_forwards=len(trajectory),
            correct=sample.row[CORRECT_COLUMN],
            tail_steps=steps[end:],
        )


def length_up_to_eos(response: list[int], eos_token_ids: Collection[int]) -> int:
    """Number of tokens up to and including the first EOS."""
    return next((index + 1 for index, token in enumerate(response) if token in eos_token_ids), len(response))


def ranks(keys: torch.Tensor) -> list[int]:
    """The place of each of `keys` (N,) from the smallest up, counted from 1; equal ones from left to right."""
    order = keys.argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(1, len(order) + 1)).tolist()
