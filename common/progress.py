"""Progress of a long run: a live line in a terminal, log lines elsewhere."""

import logging
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


logger = logging.getLogger(__name__)


class RunProgress:
    """
    Progress of a run over its items. A context manager.

    Args:
        description (`str`): The activity, such as `"extracting"`.
        total (`int`): The number of items.
        done (`int`, *optional*, defaults to 0): The number of items already done.
        visible (`bool`, *optional*, defaults to `True`): Whether this process shows anything.
        log (`bool`, *optional*, defaults to `False`): Whether each update is logged when there is no terminal.
        console (`Console`, *optional*): The console to draw on; by default standard error.
    """

    def __init__(
        self,
        description: str,
        total: int,
        done: int = 0,
        *,
        visible: bool = True,
        log: bool = False,
        console: Console | None = None,
    ):
        console = console or Console(stderr=True, highlight=False)
        self.description, self.total, self.done = description, total, done
        self.in_terminal = visible and console.is_terminal
        self.in_log = visible and log and not self.in_terminal
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self.in_terminal,
        )
        self.task = self.bar.add_task(description, total=total, completed=done, figures="")

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, count: int = 1, figures: str = "") -> None:
        """
        Adds to the number of items done.

        Args:
            count (`int`, *optional*, defaults to 1): The number of newly done items.
            figures (`str`, *optional*, defaults to `""`): Further figures to show.
        """
        self.update(self.done + count, figures)

    def update(self, done: int, figures: str = "") -> None:
        """
        Sets the number of items done.

        Args:
            done (`int`): The number of items done.
            figures (`str`, *optional*, defaults to `""`): Further figures to show.
        """
        self.done = done
        self.bar.update(self.task, completed=done, figures=figures)
        if self.in_log:
            left = self.bar.tasks[self.task].time_remaining
            notes = [figures] if figures else []
            notes += [f"{left:.0f} s left"] if left is not None else []
            logger.info("%s: %s", self.description, ", ".join([f"{done} of {self.total}", *notes]))
