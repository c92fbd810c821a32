"""Decodes requests as they come: rows enter a batch and leave it between forwards, so none waits for the slowest."""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from .configuration_diffusion import DiffusionGenerationConfig
from .decoding_run import DecodingRun
from .open_run import OpenRun, may_join
from .output_diffusion import DiffusionGenerationOutput
from .preparation import check_tokens


@dataclass
class Request:
    """
    A prompt to decode.

    Attributes:
        number (`int`): Counted from 0.
        prompt (`list[int]`): Its tokens.
        config ([`DiffusionGenerationConfig`]): Its decoding parameters, with every field filled in.
        streamer (`BaseStreamer`, *optional*): As for `generate()`.
    """

    number: int
    prompt: list[int]
    config: DiffusionGenerationConfig
    streamer: BaseStreamer | None = None

    @property
    def settings(self) -> str:
        """What rows of one batch have in common: all but the seed."""
        return json.dumps({**self.config.to_dict(), "seed": None}, sort_keys=True, default=str)


@dataclass
class Batch:
    """A run and the numbers of its rows. Only an open one takes more."""

    run: DecodingRun
    settings: str
    numbers: set[int] = field(default_factory=set)


class Scheduler:
    """
    Decodes requests in batches by their settings. A request joins a batch between two forwards as soon as there is
    room, in the order of arrival, and leaves it when it is finished. Its output is that of `generate()` alone.
    Requests that [`~d3llm.generation.open_run.may_join`] excludes are decoded in a batch of their own. Batches take
    turns, one forward each.

    It is not safe to call it from several threads.

    Args:
        model ([`DiffusionGenerationMixin`]): The model.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Needed for `stop_strings`.
        rows (`int`, *optional*, defaults to 16): How many rows are forwarded at a time, of all batches.

    Example:

    ```python
    >>> scheduler = Scheduler(model)
    >>> numbers = [scheduler.add(prompt, preset="d3llm", max_new_tokens=64) for prompt in prompts]
    >>> while scheduler.is_busy():
    ...     for number, output in scheduler.step().items():
    ...         print(number, output.sequences, output.forward_passes)
    ```
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase | None = None, *, rows: int = 16):
        self.model, self.tokenizer, self.rows = model, tokenizer, rows
        self.waiting: deque[Request] = deque()
        self.batches: deque[Batch] = deque()
        self.count = 0

    def add(
        self,
        prompt: list[int],
        *,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        **fields: Any,
    ) -> int:
        """
        Adds a request.

        Args:
            prompt (`list[int]`): The tokens, at least one.
            generation_config (`GenerationConfig`, *optional*): As for `generate()`.
            streamer (`BaseStreamer`, *optional*): As for `generate()`.
            fields: Fields of [`DiffusionGenerationConfig`], with an int as `seed`.

        Returns:
            `int`: The number of the request.

        Raises:
            `ValueError`: As for `generate()`, and for `num_return_sequences` above 1.
        """
        if not prompt:
            raise ValueError("the prompt is empty: give at least one token")
        check_tokens(self.model, np.array(prompt))
        config = self.model.diffusion_config(generation_config, fields, len(prompt))
        if config.num_return_sequences > 1:
            raise ValueError(f"`num_return_sequences`={config.num_return_sequences}: add the prompt as many times")
        request = Request(self.count, prompt, config, streamer)
        self.count += 1
        self.waiting.append(request)
        return request.number

    def cancel(self, number: int) -> None:
        """Drops a request, before the next forward. One that is finished or unknown is none to drop."""
        self.waiting = deque(request for request in self.waiting if request.number != number)
        for batch in list(self.batches):
            if number in batch.numbers:
                batch.numbers.remove(number)
                if isinstance(batch.run, OpenRun):
                    batch.run.drop(number)
                if not batch.numbers:
                    self.batches.remove(batch)

    def is_busy(self) -> bool:
        """Whether any request waits or is decoded."""
        return bool(self.waiting or self.batches)

    def running(self) -> int:
        """How many rows are in batches."""
        return sum(len(batch.numbers) for batch in self.batches)

    @torch.no_grad()
    def step(self) -> dict[int, DiffusionGenerationOutput | Exception]:
        """
        Admits requests, and makes a forward of the next batch.

        Returns:
            `dict[int, DiffusionGenerationOutput | Exception]`: The requests that are done, by their numbers: the
            output of each for a batch of one, without `cache`; the error of one that cannot begin; or a
            `RuntimeError` of one whose batch failed.
        """
        done = self._admit()
        if not self.batches:
            return done
        batch = self.batches.popleft()
        try:
            continues = batch.run.turn()
        except Exception as error:  # a damaged model, or no memory: other batches continue
            return done | dict.fromkeys(batch.numbers, failure_of(error))
        done |= self._take_finished(batch, continues)
        if continues:
            self.batches.append(batch)
        return done

    def _admit(self) -> dict[int, DiffusionGenerationOutput | Exception]:
        """Lets requests in; returns why some of them cannot begin."""
        failed: dict[int, DiffusionGenerationOutput | Exception] = {}
        leaving = sum(batch.run.count_leaving() for batch in self.batches if isinstance(batch.run, OpenRun))
        while self.waiting and self.running() - leaving < self.rows:
            request = self.waiting.popleft()
            batch = next((batch for batch in self.batches if batch.settings == request.settings), None)
            try:
                self._let_in(request, batch)
            except Exception as error:
                failed[request.number] = error
                if batch is not None:  # it may have some of the new row
                    self.batches.remove(batch)
                    failed |= dict.fromkeys(batch.numbers, failure_of(error))
        return failed

    def _let_in(self, request: Request, batch: Batch | None) -> None:
        prompt = torch.tensor([request.prompt], device=self.model.device)
        config, tokenizer, streamer = request.config, self.tokenizer, request.streamer
        if not may_join(self.model, config):
            run = self.model.start_run(
                prompt, None, config, config.max_new_tokens, tokenizer=tokenizer, streamer=streamer
            )
            self.batches.append(Batch(run, "", {request.number}))
            return
        run = OpenRun.start(self.model, config, request.number, prompt, tokenizer, streamer)
        if batch is None:
            batch = Batch(run, request.settings)
            self.batches.append(batch)
        elif isinstance(batch.run, OpenRun):
            batch.run.join(run)
        batch.numbers.add(request.number)

    def _take_finished(self, batch: Batch, continues: bool) -> dict[int, DiffusionGenerationOutput | Exception]:
        if not isinstance(batch.run, OpenRun):
            return {} if continues else dict.fromkeys(batch.numbers, batch.run.output())
        left, batch.run.left = batch.run.left, {}
        batch.numbers -= left.keys()
        return dict(left)


def failure_of(error: Exception) -> RuntimeError:
    """What is returned for the rows of a batch that failed with this error, which none of them need have caused."""
    failure = RuntimeError(f"decoding failed: {error}")
    failure.__cause__ = error
    return failure
