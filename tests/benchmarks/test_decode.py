"""The decoding benchmark counts what it says it counts."""

import pytest
import torch

from benchmarks.at_8b import Sizes
from benchmarks.floor import Floor
from benchmarks.measuring import compare_with_single_rows, measure
from benchmarks.subjects import Prompts, pad_left, random_model
from benchmarks.watching import HeadCall, Watch, launches_work, watch_windows
from d3llm.modeling import LLaDAConfig, LLaDAModelLM


NEW_TOKENS = 24
FIELDS = {"max_new_tokens": NEW_TOKENS, "block_size": 8}


@pytest.fixture(scope="module")
def model() -> LLaDAModelLM:
    special = {"mask_token_id": 126, "eos_token_id": 127, "pad_token_id": 127}
    shape = {"d_model": 32, "n_layers": 2, "mlp_hidden_size": 48, "max_sequence_length": 64}
    return random_model(6.0, seed=0, vocab_size=128, embedding_size=128, **shape, **special)


@pytest.fixture(scope="module")
def ragged() -> Prompts:
    generator = torch.Generator().manual_seed(0)
    return pad_left([torch.randint(100, (size,), generator=generator).tolist() for size in (5, 12, 9, 7)], 127)


@pytest.mark.parametrize("preset", ["fast_dllm", "d3llm"])
def test_alone_a_row_computes_what_it_needs(model, ragged, preset):
    cost = measure(model, ragged.row(1), repeats=1, preset=preset, **FIELDS)
    row = cost.summary()
    assert row["work_over_need"] == 1.0
    assert row["forwards"] == row["forwards_of_rows"][0] == len(cost.need.positions)
    assert 1 < row["tokens_per_forward"] < NEW_TOKENS  # thresholds are at work: neither one token nor all at once
    assert row["kernels_per_forward"] > 0
    assert row["host_reads_per_forward"] >= 1
    assert cost.floor_calls == cost.model_calls == row["forwards"]
    assert row["overhead"] > 0 and 0 < row["share_of_head"] < 1


@pytest.mark.parametrize(
    "cache", ["block", *(pytest.param(cache, marks=pytest.mark.slow) for cache in ("none", "dual"))]
)
def test_need_of_a_batch_is_that_of_its_rows_alone(model, ragged, cache):
    fields = {"preset": "fast_dllm", "cache": cache, **FIELDS}
    cost = measure(model, ragged, repeats=1, **fields)
    alone = 0
    for index in range(len(ragged.input_ids)):
        with Watch(model) as watch:
            model.generate(ragged.row(index).input_ids, **fields)
        alone += sum(call.inputs["input_ids"].numel() for call in watch.model_calls)
    row = cost.summary()
    assert row["positions_needed"] == alone
    assert row["positions_computed"] >= alone
    assert cost.floor_calls == cost.model_calls


def test_rows_alone_get_the_same_tokens(model, ragged):
    row = compare_with_single_rows(model, ragged, repeats=1, preset="d3llm", **FIELDS)
    assert row["rows_with_equal_tokens"] == row["rows_with_equal_forwards"] == len(ragged.input_ids)
    assert row["time_over_single_rows"] > 0


def test_rebuilds_are_those_of_the_cache(model, ragged):
    prompt = ragged.row(1).input_ids
    with watch_windows() as need:
        model.generate(prompt, preset="fast_dllm", **FIELDS)
    assert sum(need.rebuilds) == NEW_TOKENS // FIELDS["block_size"]  # one per block
    assert need.positions[0] == prompt.shape[1] + NEW_TOKENS


def test_a_random_model_does_not_end_its_rows(model):
    states = torch.nn.functional.rms_norm(torch.randn(2000, model.config.d_model), (model.config.d_model,))
    logits = model.get_output_embeddings()(states)
    assert not (logits.argmax(dim=-1) == model.config.eos_token_id).any()
    assert 5 < logits[:, :100].std() < 7  # the sharpness is 6


def test_floor_head_is_the_head(model):
    states = torch.randn(5, model.config.d_model)
    with Watch(model) as watch:
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), run_head=False, return_dict=True)
    floor = Floor(model, [*watch.calls, HeadCall(states)])
    floor.seconds()
    assert torch.allclose(floor.logits, model.get_output_embeddings()(states), atol=1e-5)
    with pytest.raises(ValueError, match="calls of transformer and head"):
        Floor(model, watch.calls)


def test_views_and_allocations_are_not_kernels():
    aten = torch.ops.aten
    assert not any(map(launches_work, (aten.view.default, aten.expand.default, aten.empty.memory_format)))
    assert not launches_work(aten._local_scalar_dense.default)
    assert all(map(launches_work, (aten.add.Tensor, aten.scatter_.src, aten.sort.stable, aten.arange.default)))


def test_what_is_left_at_8b():
    short, long = (Sizes(LLaDAConfig(), prompt=64, new_tokens=size) for size in (256, 2048))
    assert round(short.compute_gain(), 2) == 1.07
    gib = [round(size / 2**30, 1) for size in (short.published_bytes(), short.ours_bytes())]
    assert gib == [1.6, 0.3]
    gib = [round(size / 2**30, 1) for size in (long.published_bytes(), long.ours_bytes())]
    assert gib == [10.3, 1.4]
