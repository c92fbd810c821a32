"""The number of CPU threads, which torch keeps for the whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """
    Runs its block with a number of threads, and gives the process its own number back. Sums in another number of
    threads have other last digits, so a number that stays would change what the process computes afterwards.

    Args:
        number (`int`): The threads of an operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
