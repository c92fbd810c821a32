"""Several decoders that take turns, forward by forward, so that each computes alone and all are seen together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar


Result = TypeVar("Result")


class StoppedError(Exception):
    """Raised in a runner that is to end early."""


class Turns:
    """
    The clock of each runner, and whose turn it is: always that of the one that has used the least time, so that all
    of them show what they have reached after the same time.

    Args:
        runners (`int`): How many there are.

    Attributes:
        seconds (`list[float]`): The time that each has computed.
    """

    def __init__(self, runners: int):
        self.seconds = [0.0] * runners
        self._waiting = set(range(runners))
        self._turn: int | None = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._start = 0.0

    @contextmanager
    def running(self, runner: int) -> Iterator[None]:
        """Waits for the first turn of a runner, and ends its last one."""
        try:
            self._take(runner)
            yield
            self._count(runner)
        finally:
            self._waiting.discard(runner)
            self._pass_on()

    def next(self, runner: int, draw: Callable[[], None]) -> None:
        """
        Ends the turn of a runner, and waits for its next one.

        Args:
            runner (`int`): The runner.
            draw (`Callable[[], None]`): Called in between, when nobody computes.

        Raises:
            [`StoppedError`]: After [`stop`].
        """
        self._count(runner)
        draw()
        self._pass_on()
        self._take(runner)

    def stop(self) -> None:
        """Ends all runners at their next turn."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _take(self, runner: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._turn == runner)
            if self._stopped:
                raise StoppedError
        self._start = time.perf_counter()

    def _count(self, runner: int) -> None:
        self.seconds[runner] += time.perf_counter() - self._start

    def _pass_on(self) -> None:
        with self._changed:
            self._turn = min(self._waiting, key=self.seconds.__getitem__, default=None)
            self._changed.notify_all()


def run_in_turns(turns: Turns, runners: Sequence[Callable[[], Result]]) -> list[Result]:
    """
    Runs functions in threads that take turns; each calls [`Turns.next`] whenever another may continue.

    Args:
        turns ([`Turns`]): Their clocks.
        runners (`Sequence[Callable]`): The functions.

    Returns:
        `list`: What they return. If one of them fails, or the user interrupts, all end and the error is raised.
    """

    def run(number: int) -> Result:
        with turns.running(number):
            return runners[number]()

    with ThreadPoolExecutor(len(runners)) as threads:
        try:
            return [future.result() for future in [threads.submit(run, number) for number in range(len(runners))]]
        except BaseException:
            turns.stop()
            raise
