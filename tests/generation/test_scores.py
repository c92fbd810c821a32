"""Scores are exact at a vocabulary of real size."""

import numpy as np
import pytest
import torch

from d3llm.generation import DiffusionGenerationConfig
from d3llm.generation.noise import Draw
from d3llm.generation.proposals import propose_part


VOCABULARY = 126_464  # LLaDA's


@pytest.mark.parametrize("sharpness", [1.0, 4.0, 12.0])
@pytest.mark.parametrize("score", ["entropy", "probability", "margin"])
def test_against_float64(score, sharpness):
    logits = sharpness * torch.randn(8, VOCABULARY, generator=torch.Generator().manual_seed(0))
    config = DiffusionGenerationConfig(score=score, threshold=0.5).resolve()
    draw = Draw(np.zeros(8, dtype=np.int64), np.arange(8), forward=1)
    _, found, *_ = propose_part(logits.clone(), draw, config, mask_token_id=VOCABULARY - 1, may_forbid=False)
    probabilities = logits.double().softmax(dim=-1)
    top = probabilities.topk(2, dim=-1).values
    exact = {
        "entropy": (probabilities * probabilities.log()).sum(dim=-1),
        "probability": probabilities[:, :-1].amax(dim=-1),
        "margin": top[:, 0] - top[:, 1],
    }[score]
    assert (found - exact).abs().max() < 1e-5
