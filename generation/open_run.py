"""A run whose rows enter and leave between forwards, each with the text of a run of its own."""

import copy
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from .canvas import Canvas, Integers, join_rows
from .configuration_diffusion import DiffusionGenerationConfig
from .decoding_diffusion import attention_grid_of, run_class_of
from .decoding_run import DecodingRun
from .output_diffusion import CanvasResult, DiffusionGenerationOutput
from .streaming import StreamFeed


# Their policies have nothing per position.
OPEN_CACHES = ("none", "prefix", "dual", "delayed", "block", "opened", "vicinity")


def may_join(model: Any, config: DiffusionGenerationConfig) -> bool:
    """
    Whether rows with these decoding parameters may join a run that has begun: those of every cache policy of the
    package may. What has state besides canvas, cache and settled blocks may not, nor may rows whose blocks are counted
    from the start of the prompt.

    Args:
        model ([`~d3llm.generation.decoding_diffusion.DiffusionGenerationMixin`]): The model.
        config ([`DiffusionGenerationConfig`]): With every field filled in.
    """
    has_more_state = (
        config.edit_threshold is not None
        or config.credit_weight
        or config.soft_inputs
        or config.cfg_scale
        or config.max_time is not None
        or config.output_history
        or config.window_edge == "published"
    )
    of_one_shape = config.compile_config is not None or config.num_return_sequences > 1
    from_prompt = attention_grid_of(model, config) == "prompt"
    plain = run_class_of(config) is DecodingRun and config.cache in OPEN_CACHES
    return plain and from_prompt and not has_more_state and not of_one_shape


class OpenRun(DecodingRun):
    """
    A run whose rows enter by `join` and leave when they are finished, or by `drop`. Rows that join come before the
    others. A row counts its forwards from when it joined (`canvas.began`).

    Attributes:
        numbers (`Integers` of shape `(B,)`): The callers' numbers of the rows.
        feeds (`dict[int, StreamFeed]`): What streams a row, by its number.
        left (`dict[int, DiffusionGenerationOutput]`): The rows that have finished, by their numbers, until the caller
            takes them: each as `generate()` alone returns it.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.numbers: Integers = np.zeros(len(self.canvas.tokens), dtype=np.int64)
        self.feeds: dict[int, StreamFeed] = {}
        self.left: dict[int, DiffusionGenerationOutput] = {}
        self.dropped: set[int] = set()

    @classmethod
    def start(
        cls,
        model: Any,
        config: DiffusionGenerationConfig,
        number: int,
        prompt: torch.LongTensor,
        tokenizer: PreTrainedTokenizerBase | None = None,
        streamer: BaseStreamer | None = None,
    ) -> "OpenRun":
        """
        A run of one row, before its first forward.

        Args:
            model ([`~d3llm.generation.decoding_diffusion.DiffusionGenerationMixin`]): The model.
            config ([`DiffusionGenerationConfig`]): With every field filled in; see [`may_join`].
            number (`int`): The caller's number of the row.
            prompt (`torch.LongTensor` of shape `(1, P)`): The prompt.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Needed for `stop_strings`.
            streamer (`BaseStreamer`, *optional*): As for `generate()`.
        """
        run = model.start_run(prompt, None, config, config.max_new_tokens, tokenizer=tokenizer, run_class=cls)
        run.numbers[:] = number
        run._feed(number, streamer)
        return run

    def join(self, other: "OpenRun") -> None:
        """
        Takes over the rows of another run between two forwards.

        Args:
            other ([`OpenRun`]): A run with the same decoding parameters, before its first forward.
        """
        new, own = other.canvas, self.canvas
        width = max(int((canvas.region_start - canvas.first_real).max()) for canvas in (new, own))
        offset = width - own.region_start
        for canvas in (new, own):
            canvas.shift(width - canvas.region_start)
        if new.attention_mask is not None or own.attention_mask is not None:
            new.attention_mask, own.attention_mask = mask_of(new), mask_of(own)
        new.began[:] = self.forwards
        self.logit_rows = self.model.logit_rows(torch.arange(new.length)).numpy()
        policy = self.policy
        self.canvas = new
        self.policy = join_rows([self.make_policy(0), policy])
        self.canvas = join_rows([new, own])
        self.canvas.row_ids = np.arange(len(self.canvas.tokens))
        self.visibility = self.make_visibility()
        if self.cache is not None:
            self.cache.admit(len(new.tokens), offset)
        self.numbers = np.concatenate([other.numbers, self.numbers])
        self.feeds |= other.feeds

    def drop(self, number: int) -> None:
        """Removes a row before the next forward, without a result."""
        self.dropped.add(number)
        self.feeds.pop(number, None)

    def count_leaving(self) -> int:
        """How many rows will leave before the next forward, at least: those without a mask, or without one before
        their first EOS, where it ends them."""
        canvas = self.canvas
        ending = self.stops.eos_token_ids if self.stops.rule in ("at_once", "no_gap") else []
        ends = np.isin(canvas.tokens, ending) & canvas.committed & ~canvas.given
        return int((canvas.committed | np.maximum.accumulate(ends, axis=1)).all(axis=1).sum())

    def keep_unfinished_rows(self) -> bool:
        self.finished = self.finished | np.isin(self.numbers, list(self.dropped))
        for row, number in enumerate(self.numbers.tolist()):
            if number in self.feeds:
                self.feeds[number].update(self._alone(row), self.special.eos, bool(self.stops.eos_token_ids))
        for row in np.flatnonzero(self.finished).tolist():
            self._leave(row)
        self.dropped = set()
        if self.finished.all():
            return False
        if self.finished.any():
            self.keep_rows(np.flatnonzero(~self.finished))
        return True

    def keep_rows(self, rows: Integers) -> None:
        super().keep_rows(rows)
        self.numbers, self.canvas.row_ids = self.numbers[rows], np.arange(len(rows))

    def _feed(self, number: int, streamer: BaseStreamer | None) -> None:
        if streamer is not None:
            self.feeds[number] = StreamFeed(streamer)

    def _leave(self, row: int) -> None:
        """Puts the output of a row where the caller finds it, unless it was dropped."""
        number = int(self.numbers[row])
        if number in self.dropped:
            return
        canvas = self._alone(row)
        result = CanvasResult(canvas, self.config)
        result.store(canvas, self.forwards - int(canvas.began[0]))
        self.left[number] = result.output(self.special.eos, None, self.device)
        if number in self.feeds:
            self.feeds.pop(number).end()

    def _alone(self, row: int) -> Canvas:
        """The canvas of a row as in a run of its own, without padding."""
        canvas = copy.copy(self.canvas)
        canvas.select_rows(np.array([row]))
        if canvas.first_real[0]:
            canvas.shift(-int(canvas.first_real[0]))
        canvas.commit_steps = np.where(canvas.commit_steps > 0, canvas.commit_steps - canvas.began, 0)
        canvas.row_ids = np.zeros(1, dtype=np.int64)
        return canvas


def mask_of(canvas: Canvas) -> Integers:
    """The attention mask (B, L), also of a canvas without padding."""
    return np.ones_like(canvas.tokens) if canvas.attention_mask is None else canvas.attention_mask
