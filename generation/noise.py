"""Random numbers as a function of row, position and forward, so that a row samples the same in any batch."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from .canvas import Floats, Integers


Numbers = TypeVar("Numbers", Integers, torch.LongTensor)


def mix(state: Numbers) -> Numbers:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit changes every output bit."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return state ^ ((state >> 31) & ((1 << 33) - 1))


GOLDEN_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer


def seeds_of_copies(seeds: Integers, copies: int) -> Integers:
    """`copies` seeds for each of `seeds` (B,), next to each other (B * copies,): the seed itself, then numbers that
    SplitMix64 draws from it, so that neighbouring seeds share none."""
    numbers = np.arange(copies)
    drawn = mix(seeds[:, None] + numbers * GOLDEN_GAMMA)
    return np.where(numbers == 0, seeds[:, None], drawn).flatten()


LARGEST = np.float32(2**24 - 1)  # float32 rounds the half after it up to 2**24, whose noise would be infinite


@dataclass
class Draw:
    """Random numbers for some candidates of a forward; they depend on nothing but these attributes.

    The numbers come in two streams, which differ: one per candidate, on the host, and one per candidate and token, of
    which the host makes the keys.

    Attributes:
        seeds (`Integers` of shape `(candidates,)`): The seed of each candidate's row.
        generated (`Integers` of shape `(candidates,)`): Positions in the generated region.
        forward (`int` or `Integers` of shape `(candidates,)`): Number of the forward, for the row.
    """

    seeds: Integers
    generated: Integers
    forward: int | Integers

    def keys(self, stream: int) -> Integers:
        """One number per candidate (candidates,), from which those of a stream are mixed."""
        return mix(mix(mix(self.seeds) + stream * self.forward) + self.generated)

    def uniform(self) -> Floats:
        """A number in (0, 1) for each candidate (candidates,)."""
        bits = mix(self.keys(stream=-1)) >> 40
        numbers = (bits & 0xFFFFFF).astype(np.float32) + np.float32(0.5)
        return numbers.clip(max=LARGEST) / np.float32(2**24)

    def gumbel(self, count: int, device: torch.device | str) -> torch.Tensor:
        """Standard Gumbel noise (candidates, count) in float32, from numbers in (0, 1) with 24 random bits."""
        keys = torch.from_numpy(self.keys(stream=1)).to(device)
        bits = mix(keys[:, None] + torch.arange(count, device=device)) >> 40
        numbers = ((bits & 0xFFFFFF).float() + 0.5).clamp_(max=float(LARGEST))
        return -(-(numbers / 2**24).log()).log()
