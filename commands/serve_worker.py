"""The thread that decodes for `d3llm serve`, and the jobs that it shares with the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from transformers.generation.streamers import BaseStreamer

from ..generation.scheduler import Scheduler
from .serve_requests import RequestError


class Job:
    """
    A request on its way through the decoder.

    Attributes:
        events (`asyncio.Queue`): What happens to it, in order: its number when it is accepted; what its streamer
            tells; and at the end its output or an exception.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.number: int | None = None
        self.left = False

    def tell(self, event: Any) -> None:
        """Adds an event, from any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Worker:
    """
    Runs a scheduler in a thread of its own.

    Args:
        scheduler ([`~d3llm.generation.scheduler.Scheduler`]): What decodes.
        most (`int`): Jobs at a time, those that wait included.
    """

    def __init__(self, scheduler: Scheduler, most: int):
        self.scheduler, self.most = scheduler, most
        self.open: set[Job] = set()  # of the event loop
        self.jobs: dict[int, Job] = {}  # of the thread
        self.orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self.thread.start()

    def is_alive(self) -> bool:
        """Whether it takes jobs."""
        return self.thread.is_alive() and not self.stopping

    def end(self) -> None:
        """Has the thread end after the forward that it makes; all open jobs then fail."""
        self.stopping = True
        self.orders.put(lambda: None)  # wakes it

    def stop(self) -> None:
        """Ends the thread, as [`Worker.end`] does, and waits for it."""
        self.end()
        if self.thread.is_alive():
            self.thread.join()

    def enter(self) -> Job | None:
        """A new job; `None` if there are too many."""
        if len(self.open) >= self.most:
            return None
        job = Job()
        self.open.add(job)
        return job

    def submit(self, job: Job, prompt: list[int], streamer: BaseStreamer | None, fields: dict[str, Any]) -> None:
        """Has a job decoded."""
        self.orders.put(lambda: self._begin(job, prompt, streamer, fields))

    def leave(self, job: Job) -> None:
        """Ends a job; one that is still decoded is cancelled."""
        self.open.discard(job)
        job.left = True
        self.orders.put(lambda: self._cancel(job))

    def _run(self) -> None:
        try:
            while not self.stopping:
                self._take_orders()
                for number, output in self.scheduler.step().items():
                    self.jobs.pop(number).tell(output)
        finally:
            self.stopping = True
            for job in list(self.open):  # also one whose order was not taken
                job.tell(RequestError("The server shuts down.", 503))

    def _take_orders(self) -> None:
        """Waits for an order if there is nothing to decode, and follows all that there are."""
        if not self.scheduler.is_busy():
            self.orders.get()()
        with suppress(Empty):
            while True:
                self.orders.get_nowait()()

    def _begin(self, job: Job, prompt: list[int], streamer: BaseStreamer | None, fields: dict[str, Any]) -> None:
        if job.left:
            return
        try:
            job.number = self.scheduler.add(prompt, streamer=streamer, **fields)
        except Exception as error:
            job.tell(error)
            return
        self.jobs[job.number] = job
        job.tell(job.number)

    def _cancel(self, job: Job) -> None:
        if job.number is not None and self.jobs.pop(job.number, None) is not None:
            self.scheduler.cancel(job.number)
