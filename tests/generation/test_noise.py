"""Random numbers of the decoder: no two alike, whatever it is that differs."""

import torch

from d3llm.generation.noise import Draw


def test_the_noise_of_no_two_candidates_is_the_same():
    """Whatever they differ in: seed, position, forward or stream; also when one is larger by what another is less."""
    counts = torch.arange(8)
    seeds, generated = counts.repeat_interleave(8), counts.repeat(8)
    noise = torch.cat(
        [Draw(seeds, generated, forward).uniform(4, stream) for forward in range(1, 9) for stream in (1, -1)]
    )
    assert len(noise.unique(dim=0)) == len(noise) == 8 * 8 * 8 * 2
