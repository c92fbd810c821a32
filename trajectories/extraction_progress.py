"""Shows how far an extraction is: a live line in a terminal, a line of the log per chunk elsewhere."""

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .store import Parts
from .trajectory_facts import ChunkCounts


logger = logging.getLogger(__name__)


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
        self.samples = samples
        self.visible = visible
        self.counts = ChunkCounts()
        for index in set(range(parts.count)) - self.missing:
            self._count(index)
        self.before = self.counts.samples
        self.began = time.monotonic()
        console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("extracting"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (visible and console.is_terminal),
        )
        self.task = self.bar.add_task(
            "extracting", total=samples, completed=self.counts.samples, figures=self._figures()
        )

    def __enter__(self) -> "ExtractionProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self) -> None:
        """Looks for new parts, of any process, and shows them."""
        if not self.visible:
            return
        for index in sorted(self.missing):
            if self.parts.path(index).exists():
                self._count(index)
                self.missing.remove(index)
        self.bar.update(self.task, completed=self.counts.samples, figures=self._figures())
        if self.bar.disable:
            left = (self.samples - self.counts.samples) / self.rate if self.rate else float("inf")
            logger.info("%d of %d samples, %s, %.0f s left", self.counts.samples, self.samples, self._figures(), left)

    @property
    def rate(self) -> float:
        """Samples per second of this run."""
        return (self.counts.samples - self.before) / max(time.monotonic() - self.began, 1e-9)

    def _count(self, index: int) -> None:
        self.counts += ChunkCounts(**self.parts.counts(index))

    def _figures(self) -> str:
        share = self.counts.share_correct
        return f"{self.rate:.2f} samples/s" + (f", {share:.1%} correct" if share is not None else "")
