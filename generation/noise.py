"""Random numbers as a function of row, position and forward, so that a row samples the same in any batch."""

from dataclasses import dataclass

import torch


def mix(state: torch.LongTensor) -> torch.LongTensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit changes every output bit."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return state ^ ((state >> 31) & ((1 << 33) - 1))


GOLDEN_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer


def seeds_of_copies(seeds: torch.LongTensor, copies: int) -> torch.LongTensor:
    """`copies` seeds for each of `seeds` (B,), next to each other (B * copies,): the seed itself, then numbers that
    SplitMix64 draws from it, so that neighbouring seeds share none."""
    numbers = torch.arange(copies, device=seeds.device)
    drawn = mix(seeds[:, None] + numbers * GOLDEN_GAMMA)
    return torch.where(numbers == 0, seeds[:, None], drawn).flatten()


@dataclass
class Draw:
    """Random numbers for some candidates of a forward; they depend on nothing but these attributes.

    Attributes:
        seeds (`torch.LongTensor` of shape `(candidates,)`): The seed of each candidate's row.
        generated (`torch.LongTensor` of shape `(candidates,)`): Positions in the generated region.
        forward (`int`): Number of the forward.
    """

    seeds: torch.LongTensor
    generated: torch.LongTensor
    forward: int

    def uniform(self, count: int, stream: int = 1) -> torch.Tensor:
        """Numbers in (0, 1) with 24 random bits, (candidates, count) in float32. The two streams, 1 and -1, differ."""
        key = mix(mix(mix(self.seeds) + stream * self.forward) + self.generated)
        bits = mix(key[:, None] + torch.arange(count, device=key.device)) >> 40
        return ((bits & 0xFFFFFF).float() + 0.5) / 2**24

    def gumbel(self, count: int) -> torch.Tensor:
        """Standard Gumbel noise (candidates, count) in float32."""
        return -(-self.uniform(count).log()).log()
