"""Shows how far an extraction is: a live line in a terminal, a line of the log per chunk elsewhere."""

import time
from types import TracebackType

from ..common.progress import RunProgress
from .store import Parts
from .trajectory_facts import ChunkCounts


class ExtractionProgress:
    """
    Progress over all processes, read from the parts that are there. A context manager.

    Args:
        parts ([`Parts`]): The parts.
        todo (`list[int]`): Those that this run makes.
        samples (`int`): Samples of all parts.
        visible (`bool`): Whether this process shows anything.
    """

    def __init__(self, parts: Parts, todo: list[int], samples: int, *, visible: bool):
        self.parts = parts
        self.missing = set(todo)
        self.visible = visible
        self.counts = ChunkCounts()
        for index in set(range(parts.count)) - self.missing:
            self._count(index)
        self.before = self.counts.samples
        self.began = time.monotonic()
        self.progress = RunProgress("extracting", samples, self.counts.samples, visible=visible, log=True)

    def __enter__(self) -> "ExtractionProgress":
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.__exit__(kind, error, trace)

    def update(self) -> None:
        """Looks for new parts, of any process, and shows them."""
        if not self.visible:
            return
        for index in sorted(self.missing):
            if self.parts.path(index).exists():
                self._count(index)
                self.missing.remove(index)
        share = self.counts.share_correct
        figures = [f"{self.rate:.2f} samples/s", *([f"{share:.1%} correct"] if share is not None else [])]
        self.progress.update(self.counts.samples, ", ".join(figures))

    @property
    def rate(self) -> float:
        """Samples per second of this run."""
        return (self.counts.samples - self.before) / max(time.monotonic() - self.began, 1e-9)

    def _count(self, index: int) -> None:
        self.counts += ChunkCounts.of_part(self.parts.counts(index))
