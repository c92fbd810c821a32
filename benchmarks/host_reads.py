"""Counts how often a host reads a tensor: on a GPU each read would wait for the device."""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode


# Operators whose result, or whose output's shape, must be known on the host.
READING_OPERATORS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero", "aten.equal")
READING_METHODS = ("tolist", "cpu", "numpy", "item", "__bool__", "__int__", "__float__", "__index__")


class HostReadCounter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).rsplit(".", 1)[0]
        boolean_index = name == "aten.index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in READING_OPERATORS or boolean_index:
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def count_host_reads():
    """Yields the list of reads made inside the block, by operator or method; a read may be listed under both."""
    counter = HostReadCounter()

    def counted(method):
        original = getattr(torch.Tensor, method)

        def call(*args, **kwargs):
            before = len(counter.reads)
            result = original(*args, **kwargs)
            if len(counter.reads) == before:  # the operator beneath was not seen, so it was not counted
                counter.reads.append(method)
            return result

        return patch.object(torch.Tensor, method, call)

    patches = [counted(method) for method in READING_METHODS]
    for each in patches:
        each.start()
    try:
        with counter:
            yield counter.reads
    finally:
        for each in patches:
            each.stop()
