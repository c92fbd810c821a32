"""Random numbers of the decoder: no two alike, whatever it is that differs."""

import numpy as np
import torch

from d3llm.generation.noise import Draw


def test_the_noise_of_no_two_candidates_is_the_same():
    """Whatever they differ in: seed, position or forward; also when one is larger by what another is less."""
    seeds, generated = np.arange(8).repeat(8), np.tile(np.arange(8), 8)
    draws = [Draw(seeds, generated, forward) for forward in range(1, 9)]
    assert len(np.unique(np.concatenate([draw.uniform() for draw in draws]))) == 8 * 8 * 8
    noise = torch.cat([draw.gumbel(4, "cpu") for draw in draws])
    assert len(noise.unique(dim=0)) == len(noise) == 8 * 8 * 8


def test_the_two_streams_differ():
    draw = Draw(np.arange(64), np.arange(64), forward=1)
    assert not np.isin(draw.keys(1), draw.keys(-1)).any()
