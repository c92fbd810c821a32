"""Whether bfloat16 pays on this processor."""

import time

import torch


ROWS, WIDTH = 256, 1024
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
