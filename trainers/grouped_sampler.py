"""Batches of rows of similar length, in an order that a resumed run finds again."""

from collections.abc import Callable, Iterator

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from .rollouts import seeds_of


class SeededLengthSampler(LengthGroupedSampler):
    """
    [`~transformers.trainer_pt_utils.LengthGroupedSampler`] whose order depends on the seed and the epoch alone. The
    original draws it from the global generator, whose state in the middle of an epoch is not the one that the epoch
    began with.

    Args:
        sampler (`LengthGroupedSampler`): The lengths of the rows, and how many make a step.
        seed (`int`): Seed of the order.
        epoch (`Callable[[], int]`): The current epoch, from 0.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int, epoch: Callable[[], int]):
        super().__init__(sampler.batch_size, lengths=sampler.lengths)
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        (seed,) = seeds_of(self.seed, self.epoch(), torch.zeros(1, dtype=torch.long))
        generator = torch.Generator().manual_seed(seed)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
