"""Fixtures of the decoder's tests."""

import pytest
import torch

from tests.helpers.decoding import EOS, FAMILIES, MASK
from tests.helpers.models import tiny_model


@pytest.fixture(scope="module", params=FAMILIES, ids=["llada", "dream"])
def model(request):
    """A random model that rarely proposes EOS, never pads, and is neither sure nor unsure of everything."""
    built = tiny_model(request.param)
    with torch.no_grad():
        built.get_output_embeddings().weight[[MASK, EOS]] = 0.0
        built.get_output_embeddings().weight.mul_(2.5)
    return built
