"""A dataset without a length, as a training reads it: in one order, on any number of processes and workers."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import get_worker_info


STREAM_BATCH = 100  # rows to prepare at a time


class TrajectoryStream(torch.utils.data.IterableDataset):
    """
    The rows of an iterable dataset, prepared while they are read and numbered from 0.

    accelerate gives each process files of its own of a `datasets.IterableDataset`, and so does torch with the workers
    of a dataloader: which rows make a step would depend on how many there are, and each would count its own from 0. Of
    this class every process reads all rows and keeps its share of a batch, and one worker reads.

    Args:
        rows (`IterableDataset`): The rows.
        prepare (`Callable[[dict[str, list]], Dataset]`): Called with the columns of the next rows; returns those that
            are kept.
        repeats (`bool`, *optional*, defaults to `False`): Whether they are read again and again. Rows that are
            shuffled have another order in each pass.
    """

    def __init__(self, rows: IterableDataset, prepare: Callable[[dict[str, list]], Dataset], repeats: bool = False):
        self.rows = rows.with_format(None)
        self.prepare = prepare
        self.repeats = repeats

    def repeated(self) -> "TrajectoryStream":
        """The same rows without an end, one pass after the other."""
        return TrajectoryStream(self.rows, self.prepare, repeats=True)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is not None and worker.id > 0:
            return
        for number in itertools.count():
            self.rows.set_epoch(number)
            index = -1
            for index, row in enumerate(self._read()):
                yield {**row, "index": index}
            if index < 0 or not self.repeats:  # without rows, no pass would ever yield one
                return

    def _read(self) -> Iterator[dict[str, Any]]:
        # `iter(rows)` would give a worker some of the files
        for columns in self.rows.iter(STREAM_BATCH):
            yield from self.prepare(columns)
