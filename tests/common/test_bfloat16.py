"""Products in bfloat16 are timed against those in float32, and computed in it where they are slow."""

import warnings

import pytest
import torch

from d3llm.common import bfloat16
from d3llm.common.bfloat16 import quick_bfloat16


def test_the_slowdown_is_that_of_the_best_of_several_products(monkeypatch):
    clock, dtypes = [0.0], []
    monkeypatch.setattr(bfloat16.time, "perf_counter", lambda: clock[0])

    def product(rows, weight):
        took = {torch.float32: 1.0, torch.bfloat16: 6.0}[rows.dtype]
        clock[0] += took * (9 if dtypes.count(rows.dtype) < 2 else 1)  # the first ones are slow
        dtypes.append(weight.dtype)

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    assert bfloat16.bfloat16_slowdown() == 6.0
    assert set(dtypes) == {torch.float32, torch.bfloat16}


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(bfloat16, "_is_slow", lambda: True)


def products(dtype):
    """Results of a few products, and the gradients through them, under autocast."""
    torch.manual_seed(0)
    rows, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((2, 5, 48), (32, 48), (32,)))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False):
        keys, values = torch.nn.functional.linear(rows, weight, bias), torch.nn.functional.linear(rows, weight)
        scores = torch.matmul(keys, values.transpose(1, 2))
        mixed = torch.baddbmm(scores, scores, scores, beta=0.5, alpha=2.0)
    assert mixed.dtype == dtype
    mixed.float().square().mean().backward()
    return [keys, values, scores, mixed, rows.grad, weight.grad, bias.grad]


def test_quick_products_are_those_of_bfloat16_but_for_the_order_of_sums(slow):
    expected = products(torch.bfloat16)
    with quick_bfloat16():
        found = products(torch.bfloat16)
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=2**-6, atol=2**-6 * one.abs().max().item())


def test_quick_products_are_computed_in_float32(slow, monkeypatch):
    dtypes = set()

    def product(*args, out, **scales):
        dtypes.update(tensor.dtype for tensor in (*args, out))
        return out

    monkeypatch.setattr(torch.ops.aten, "mm", type("", (), {"out": staticmethod(product)}))
    rows = torch.ones(2, 3, dtype=torch.bfloat16)
    with quick_bfloat16():
        assert (rows @ rows.T).dtype == torch.bfloat16
    assert dtypes == {torch.float32}
    dtypes.clear()
    rows @ rows.T
    assert not dtypes


def test_quick_products_change_no_other_dtype_and_say_nothing(slow):
    expected, whole = products(torch.float32), torch.arange(6).reshape(2, 3)
    with warnings.catch_warnings(), quick_bfloat16():
        warnings.simplefilter("error")
        assert all(torch.equal(*pair) for pair in zip(expected, products(torch.float32), strict=True))
        assert (whole @ whole.T).tolist() == [[5, 14], [14, 50]]


def test_a_processor_with_bfloat16_keeps_its_own(monkeypatch):
    monkeypatch.setattr(bfloat16, "_is_slow", lambda: False)
    monkeypatch.setattr(torch.library, "_scoped_library", None)
    with quick_bfloat16():
        pass
