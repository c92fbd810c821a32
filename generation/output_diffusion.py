"""The output of `generate()`, collected as rows finish."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers.utils import ModelOutput

from .canvas import Canvas, Integers
from .canvas_cache import CanvasCache
from .configuration_diffusion import DiffusionGenerationConfig


@dataclass
class DiffusionGenerationOutput(ModelOutput):
    """
    Output of `generate(..., return_dict_in_generate=True)`, for a batch of B prompts of P positions and N new ones.

    Args:
        sequences (`torch.LongTensor` of shape `(B, P + N)`): Prompt and generated region.
        commit_steps (`torch.IntTensor` of shape `(B, N)`): The forward, counted from 1, that committed each position;
            0 = given. It is the pseudo-trajectory of d3LLM (arXiv 2601.07568). Positions that an EOS filled while they
            were masked have the forward that committed the EOS; those that it overwrote keep their own.
        forward_passes (`torch.LongTensor` of shape `(B,)`): Calls of the transformer for the row (NFE).
        row_forwards (`torch.LongTensor` of shape `(B,)`): Rows of these calls that are the row's own: K states of a
            draft in one call are K, and with guidance each of them is two, with and without the given tokens. What
            only fills the batch is not counted: padding, and drafts that other rows have and this one has not.
        assistant_forwards (`torch.LongTensor` of shape `(B,)`): Calls of the `assistant_model` for the row; 0 without
            one. They are not in `forward_passes` and `row_forwards`.
        tokens (`torch.LongTensor` of shape `(B,)`): Number of generated tokens up to and including the first EOS, or
            up to where a stop ended the row.
        tokens_per_forward (`torch.FloatTensor` of shape `(B,)`): `tokens` divided by `forward_passes` (TPF).
        logprobs (`torch.FloatTensor` of shape `(B, N)`, *optional*): With `output_logprobs=True`, the log-probability
            of each token in the forward that committed it; NaN where no forward proposed the token (filled after EOS).
        history (`torch.LongTensor` of shape `(B, F, P + N)`, *optional*): With `output_history=True`, the canvas after
            each of at most F forwards; rows that needed fewer repeat their last.
        cache ([`CanvasCache`], *optional*): The cache of the run, if there was one: pass it to the next call to
            reuse the common prefix. Also as `past_key_values`.
    """

    sequences: torch.LongTensor | None = None
    commit_steps: torch.IntTensor | None = None
    forward_passes: torch.LongTensor | None = None
    row_forwards: torch.LongTensor | None = None
    assistant_forwards: torch.LongTensor | None = None
    tokens: torch.LongTensor | None = None
    tokens_per_forward: torch.FloatTensor | None = None
    logprobs: torch.FloatTensor | None = None
    history: torch.LongTensor | None = None
    cache: CanvasCache | None = None

    @property
    def past_key_values(self) -> CanvasCache | None:
        """The name of `cache` before transformers 5.24."""
        return self.cache


class CanvasResult:
    """The caller's batch, filled in as rows finish."""

    def __init__(self, canvas: Canvas, config: DiffusionGenerationConfig):
        self.region_start = canvas.region_start
        self.sequences = canvas.tokens.copy()
        self.commit_steps = canvas.commit_steps.copy()
        self.logprobs = canvas.logprobs.copy()
        self.ends = canvas.end.copy()
        self.forward_passes = np.zeros_like(canvas.row_ids)
        self.drafts = np.zeros_like(canvas.row_ids)
        self.assistant_forwards = np.zeros_like(canvas.row_ids)
        self.rows_of_a_state = 2 if config.cfg_scale else 1
        self.with_logprobs = config.output_logprobs
        self.history: list[Integers] | None = [] if config.output_history else None

    def record(self, canvas: Canvas, forwards: int) -> None:
        """Record the state after forward number `forwards`, if the caller wants the history."""
        if self.history is not None and forwards:
            self.sequences[canvas.row_ids] = canvas.tokens
            self.history.append(self.sequences.copy())

    def count_rows(self, row_ids: Integers, states: Integers) -> None:
        """Count the `states` (rows,) of which a forward took these rows of the batch; one is the row itself."""
        self.drafts[row_ids] += states - 1

    def count_assistant(self, row_ids: Integers) -> None:
        """Count a forward of the assistant for these rows of the batch."""
        self.assistant_forwards[row_ids] += 1

    def store(self, canvas: Canvas, forwards: int) -> None:
        """Copy the remaining rows into the output; called when at least one has finished."""
        self.sequences[canvas.row_ids] = canvas.tokens
        self.commit_steps[canvas.row_ids] = canvas.commit_steps
        self.logprobs[canvas.row_ids] = canvas.logprobs
        self.ends[canvas.row_ids] = canvas.end
        self.forward_passes[canvas.row_ids] = forwards

    def output(
        self, eos_token_ids: list[int], cache: CanvasCache | None, device: torch.device
    ) -> DiffusionGenerationOutput:
        """What `generate()` returns, on a device."""
        generated, commit_steps = self.sequences[:, self.region_start :], self.commit_steps[:, self.region_start :]
        before_eos = np.isin(generated, eos_token_ids).cumsum(axis=1) == 0
        tokens = (before_eos.sum(axis=1) + 1).clip(max=(self.ends - self.region_start).clip(min=0))
        if not self.region_start:  # in an infilled text an EOS does not end anything
            tokens = ((commit_steps > 0) & (np.arange(commit_steps.shape[1]) < self.ends[:, None])).sum(axis=1)
        tokens_per_forward = tokens.astype(np.float32) / self.forward_passes.clip(min=1).astype(np.float32)

        def on_device(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(device)

        return DiffusionGenerationOutput(
            sequences=on_device(self.sequences),
            commit_steps=on_device(commit_steps.astype(np.int32)),
            forward_passes=on_device(self.forward_passes),
            row_forwards=on_device((self.forward_passes + self.drafts) * self.rows_of_a_state),
            assistant_forwards=on_device(self.assistant_forwards),
            tokens=on_device(tokens),
            tokens_per_forward=on_device(tokens_per_forward),
            logprobs=on_device(self.logprobs[:, self.region_start :]) if self.with_logprobs else None,
            history=on_device(np.stack(self.history, axis=1)) if self.history is not None else None,
            cache=cache,
        )
