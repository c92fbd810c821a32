"""Whether bfloat16 pays on this processor, and its products where it does not."""

import functools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


ROWS, WIDTH = 64, 1024
TRIES = 3
SLOW = 2  # times as long as float32


def bfloat16_slowdown() -> float:
    """
    How many times as long a product of matrices takes in bfloat16 as in float32. It is measured, in less than a
    second: processors without instructions for it take several times as long, and torch does not say which those are.

    Returns:
        `float`: Below 1 where bfloat16 is faster.
    """
    return _product_seconds(torch.bfloat16) / _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    """The shortest time of a few products, after one that prepares them."""
    rows, weight = torch.ones(ROWS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    torch.nn.functional.linear(rows, weight)
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@contextmanager
def quick_bfloat16() -> Iterator[None]:
    """
    Within it, a processor that is slow in bfloat16 computes matrix products of it in float32 and rounds them, forward
    and backward. Instructions for bfloat16 do the same: they add in float32 and round once. So results differ from
    theirs by no more than the order of a sum. It changes nothing on other processors and devices.

    The kernels of torch are replaced for the whole process, in all of its threads. Do not nest it.
    """
    if not _is_slow():
        yield
        return
    with torch.library._scoped_library("aten", "IMPL", "CPU") as kernels:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s)(.*verrid)")  # which is what it is for
            for name, product in PRODUCTS.items():
                kernels.impl(name, product)
        yield


@functools.cache
def _is_slow() -> bool:
    return bfloat16_slowdown() > SLOW


# The variants with `out` are other kernels of torch, which stay as they are.


def _matrices(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return _in_float32(torch.ops.aten.mm.out, left, right)


def _batches(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return _in_float32(torch.ops.aten.bmm.out, left, right)


def _matrices_and_bias(
    bias: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    return _in_float32(torch.ops.aten.addmm.out, bias, left, right, beta=beta, alpha=alpha)


def _batches_and_bias(
    bias: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    return _in_float32(torch.ops.aten.baddbmm.out, bias, left, right, beta=beta, alpha=alpha)


def _in_float32(product: Callable[..., torch.Tensor], *tensors: torch.Tensor, **scales: float) -> torch.Tensor:
    """A product in float32 if it is one of bfloat16."""
    dtype = tensors[-1].dtype
    if dtype == torch.bfloat16:
        tensors = tuple(tensor.float() for tensor in tensors)
    left, right = tensors[-2:]
    out = left.new_empty(*left.shape[:-1], right.shape[-1])
    return product(*tensors, **scales, out=out).to(dtype)


PRODUCTS = {"mm": _matrices, "bmm": _batches, "addmm": _matrices_and_bias, "baddbmm": _batches_and_bias}
