"""Compiled forwards keep to few graphs, whatever the lengths of prompts and windows."""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

from d3llm.modeling import DreamModel
from tests.helpers.decoding import left_pad, prompts
from tests.helpers.models import tiny_model


@pytest.fixture
def graphs():
    """The number of graphs so far."""
    torch.compiler.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch.compiler.reset()


@pytest.mark.parametrize("cache", [pytest.param("none", marks=pytest.mark.slow), "block"])
def test_one_graph_for_prompts_of_every_length(graphs, cache):
    model = tiny_model(DreamModel, layers=1)
    arguments = {"preset": "d3llm", "threshold": 1.0, "cache": cache, "max_new_tokens": 12, "block_size": 4}
    for ids in prompts(torch.randint(3, 60, (8,), generator=torch.Generator().manual_seed(0)).tolist()):
        output = model.generate(ids[None], compile_config=CompileConfig(backend="eager"), **arguments)
    assert graphs() == 1
    assert torch.equal(output, model.generate(ids[None], **arguments))


@pytest.mark.slow
def test_few_graphs_for_batches(graphs):
    model = tiny_model(DreamModel, layers=1)
    arguments = {"preset": "fast_dllm", "threshold": 0.5, "max_new_tokens": 12, "block_size": 4}
    for seed in range(4):
        ids, mask = left_pad(prompts(torch.randint(3, 40, (3,)).tolist(), seed=seed))
        config = CompileConfig(backend="eager")
        output = model.generate(ids, attention_mask=mask, compile_config=config, **arguments)
    assert 1 <= graphs() <= 3  # rows leave the batch, and one row is a graph of its own
    assert torch.equal(output, model.generate(ids, attention_mask=mask, **arguments))
