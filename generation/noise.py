"""Random numbers that are a function of what they are for, so that a row samples the same whatever its batch."""

import torch


def mix(state: torch.LongTensor) -> torch.LongTensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit changes every output bit."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return state ^ ((state >> 31) & ((1 << 33) - 1))


def uniform(seeds: torch.LongTensor, forward: int, positions: torch.LongTensor, count: int = 1) -> torch.Tensor:
    """Uniform numbers in (0, 1) with 24 random bits.

    Args:
        seeds (`torch.LongTensor` of shape `(B,)`): One for each row.
        forward (`int`): Number of the forward.
        positions (`torch.LongTensor` of shape `(B, K)`): Positions in the generated region.
        count (`int`, *optional*, defaults to 1): How many numbers for each position.

    Returns:
        `torch.Tensor` of shape `(B, K, count)`: In float32.
    """
    key = mix(mix(seeds[:, None]) + forward)
    key = mix(key + positions)
    bits = mix(key[..., None] + torch.arange(count, device=key.device)) >> 40
    return ((bits & 0xFFFFFF).float() + 0.5) / 2**24


def gumbel(seeds: torch.LongTensor, forward: int, positions: torch.LongTensor, count: int) -> torch.Tensor:
    """Standard Gumbel noise of shape `(B, K, count)`; arguments as for [`uniform`]."""
    return -(-uniform(seeds, forward, positions, count).log()).log()
