"""A run of the decoder: its state, and the steps of the loop in `generate()`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from .canvas import Booleans, Canvas, Floats, Integers, Proposal, gather
from .canvas_cache import CanvasCache
from .compilation import CompiledCall
from .configuration_diffusion import DiffusionGenerationConfig
from .credits import Credits
from .grouping import group_rows
from .guidance import Guidance, Unguided
from .output_diffusion import CanvasResult, DiffusionGenerationOutput
from .preparation import SpecialTokens
from .proposals import propose
from .selection import select
from .soft_inputs import SoftInputs
from .stops import Stops
from .streaming import StreamFeed
from .visibility import Visibility
from .windows import WholeCanvas, indices_of, make_policy


# Logits that are in memory at a time, and that one pass reads, by the type of the device. On a CPU as many as fit in
# its last-level cache, since reading fresh memory is slow; elsewhere few kernels matter more (256 MiB in float32).
HEAD_ELEMENTS = {"cpu": 2**24}
PASS_ELEMENTS = {"cpu": 2**22}
MOST_ELEMENTS = 2**26


class DecodingRun:
    """
    A batch on its way from masks to text. The methods are the steps of the loop, in its order.

    Args:
        model ([`~d3llm.generation.decoding_diffusion.DiffusionGenerationMixin`]): The model.
        canvas ([`~d3llm.generation.canvas.Canvas`]): The batch.
        config ([`DiffusionGenerationConfig`]): The decoding parameters.
        special ([`~d3llm.generation.preparation.SpecialTokens`]): The token ids.
        stops ([`~d3llm.generation.stops.Stops`]): What ends rows.
        cache ([`CanvasCache`], *optional*): The keys and values.
        kept (`int`): Positions from the start that the cache has from an earlier run.
        logits_processor (`LogitsProcessorList`, *optional*): See `generate()`.
        streamer (`BaseStreamer`, *optional*): See `generate()`.
        device (`torch.device`): Device of the model's inputs.

    Attributes:
        forwards (`int`): Forwards made so far.
        masked (`Booleans` of shape `(B, L)`): Positions that the next forward may set.
        finished (`Booleans` of shape `(B,)`): Rows without a masked position.
        window ([`~d3llm.generation.windows.Window`]): The window of the next forward.
        positions (`Integers` of shape `(B, K)`): Candidates of the forward, as many in each row: which of them are
            real, `eligible` (B, K) says.
        drafts (`Integers` of shape `(B, K)`, *optional*): Tokens of the candidates to score in place of a proposal of
            the model; -1 where it proposes one.
        proposer ([`~d3llm.generation.assistant.Proposer`], *optional*): What drafts for the runs that verify.
    """

    def __init__(
        self,
        model: Any,
        canvas: Canvas,
        config: DiffusionGenerationConfig,
        special: SpecialTokens,
        stops: Stops,
        cache: CanvasCache | None,
        kept: int,
        logits_processor: LogitsProcessorList | None,
        streamer: BaseStreamer | None,
        device: torch.device,
    ):
        self.model, self.canvas, self.config, self.special = model, canvas, config, special
        self.stops, self.cache, self.logits_processor, self.device = stops, cache, logits_processor, device
        self.stream = StreamFeed(streamer) if streamer is not None else None
        self.result = CanvasResult(canvas, config)
        self.logit_rows = model.logit_rows(torch.arange(canvas.length)).numpy()
        self.policy = self.make_policy(kept)
        self.visibility = self.make_visibility()
        self.guidance = Guidance(canvas, config.cfg_scale, special.mask) if config.cfg_scale else Unguided()
        self.head = self.guidance.guide(model.get_output_embeddings())
        self.call = model if config.compile_config is None else CompiledCall(model, config.compile_config)
        self.credits = None
        if config.credit_weight:
            self.credits = Credits(canvas, config.credit_weight, config.credit_power, config.credit_decay)
        self.soft_inputs = None
        if config.soft_inputs:
            self.soft_inputs = SoftInputs(canvas, model.get_input_embeddings(), special.mask)
        self.drafts: Integers | None = None
        self.proposer: Any = None
        self.forwards = 0

    def make_policy(self, kept: int) -> WholeCanvas:
        """The cache policy; the cache has `kept` positions from an earlier run."""
        return make_policy(self.canvas, self.config, self.model.logits_shift, self.logit_rows, kept)

    def make_visibility(self) -> Visibility:
        """What the rows see."""
        return Visibility(self.model, self.canvas, self.config.attention == "block_causal", self.device)

    def shown_tokens(self) -> Integers:
        """The tokens (B, L) that the next forward sees."""
        return self.canvas.tokens

    def rows_that_predict(self, positions: Integers) -> Integers:
        """The rows of the logits that predict these positions (B, K)."""
        return self.logit_rows[positions]

    def end_rows(self) -> None:
        """Ends rows at their first EOS or by a stop."""
        # Candidates are fixed first, as in the published decoder: in the one forward after an EOS the tail still takes
        # part in the selection, though it keeps its EOS.
        self.masked = ~self.canvas.committed
        self.canvas.count_masks()
        self.canvas.held = self.policy.must_stay(self.canvas)
        self.stops.end_rows(self.canvas, self.forwards)
        self.canvas.held &= ~self.canvas.ended

    def advance_blocks(self) -> None:
        """Activates and opens blocks, and moves rows to their first unfinished one."""
        canvas, config = self.canvas, self.config
        canvas.advance_blocks(config.block_add_threshold, config.block_activate_threshold, config.max_active_blocks)
        self.finished = canvas.committed.all(axis=1) & ~canvas.held

    def choose_window(self) -> None:
        """Asks the cache policy what the next forward recomputes, and which positions are candidates."""
        open_positions = self.masked & self.canvas.in_opened_blocks()
        self.window = self.policy.window(self.canvas, open_positions, self.forwards + 1)

    def keep_unfinished_rows(self) -> bool:
        """Shows the state, and removes finished rows from the batch; `False` when none is left."""
        self.result.record(self.canvas, self.forwards)
        if self.stream is not None:
            self.stream.update(self.canvas, self.special.eos, early_stop=bool(self.stops.eos_token_ids))
        if not self.finished.any():
            return True
        self.result.store(self.canvas, self.forwards)
        if self.finished.all():
            return False
        self.keep_rows(np.flatnonzero(~self.finished))
        return True

    def keep_rows(self, rows: Integers) -> None:
        """Keeps only these rows of the batch."""
        if self.cache is not None:
            self.cache.select_rows(self.upload(self.guidance.forwarded(rows)))
        for state in self.states():
            state.select_rows(rows)

    def turn(self) -> bool:
        """One turn of the loop; `False` when no row is left."""
        self.end_rows()
        self.advance_blocks()
        self.choose_window()
        if not self.keep_unfinished_rows():
            return False
        proposal = self.propose(self.forward())
        self.commit(proposal, self.select(proposal))
        return True

    def states(self) -> list[Any]:
        """What has an entry per row, besides the cache."""
        states = self.canvas, self.policy, self.window, self.visibility, self.credits, self.soft_inputs
        return [state for state in states if state is not None]

    def forward(self) -> torch.Tensor:
        """Runs the transformer over the windows; returns the hidden states (B, K, ..) that predict the candidates.

        Rows either share one span, or each has its own window. Rows whose windows differ much in width are forwarded
        one after another: see [`~d3llm.generation.grouping.group_rows`].
        """
        self.forwards += 1
        candidates, windows = self.window.candidates, self.window.positions
        most, widths = max(1, int(candidates.sum(axis=1).max())), windows.sum(axis=1)
        span = shared_span(windows, widths)
        fills_cache = self.cache is not None and self.cache.tokens is None
        one_call = span is not None or fills_cache or self.cache is None
        calls = [(None, int(widths.max()))] if one_call else group_rows(widths)
        if self.config.compile_config is not None:  # few shapes, and no numbers of this forward in the graph
            most, span, calls = self._round_up(most), None, [(None, self._round_up(int(widths.max())))]
        self.positions = (~candidates).argsort(axis=1, kind="stable")[:, :most]
        self.eligible = gather(self.window.eligible, self.positions)
        if len(calls) == 1:
            return self._forward(None, calls[0][1], span)
        states = torch.cat([self._forward(rows, width, None) for rows, width in calls])
        return states[self.upload(np.concatenate([rows for rows, _ in calls]).argsort())]

    def _forward(self, rows: Integers | None, width: int, span: slice | None) -> torch.Tensor:
        """Of some rows (R,), or all, whose windows have at most `width` positions."""

        def of_rows(values: np.ndarray) -> np.ndarray:
            return values if rows is None else values[rows]

        canvas, recomputed, first_real = self.canvas, of_rows(self.window.positions), of_rows(self.canvas.first_real)
        kept = np.maximum(of_rows(self.rows_that_predict(self.positions)), first_real[:, None])
        if span is not None:
            positions = np.arange(span.start, span.stop)[None].repeat(len(recomputed), axis=0)
            kept = (kept - span.start).clip(0, positions.shape[1] - 1)  # fillers may be anywhere
        else:
            positions = indices_of(recomputed, width, first_real)
            filled = width - recomputed.sum(axis=1, keepdims=True)
            kept = filled + gather(recomputed.cumsum(axis=1) - 1, kept).clip(min=0)
        tokens, slots = gather(of_rows(self.shown_tokens()), positions), self.upload(positions)
        on_device = None if rows is None else self.upload(rows)
        inputs = {
            "input_ids": self.upload(tokens),
            "position_ids": self.upload((positions - first_real[:, None]).clip(min=0)),
            "attention_mask": self.visibility.mask(slots, on_device),
            "logits_to_keep": self.upload(kept),
            "run_head": False,
            "return_dict": True,
        }
        inputs = self.guidance.widen(inputs, gather(of_rows(canvas.given), positions))
        if self.soft_inputs is not None:
            inputs = self.soft_inputs.soften(inputs, canvas, positions, slice(None) if rows is None else rows)
            tokens = np.where(gather(of_rows(self.soft_inputs.shown(canvas)), positions), -1, tokens)
        if self.cache is None:
            return self.guidance.narrow(self.call(**inputs).hidden_states[0])
        row_ids = canvas.row_ids if rows is None else canvas.row_ids[rows]
        self.cache.record_tokens(tokens, positions, row_ids)
        inputs |= {"cache": self.cache, "cache_positions": span or self.guidance.widen_rows(slots)}
        try:
            with self.cache.for_rows(None if rows is None else self.upload(self.guidance.forwarded(rows))):
                return self.guidance.narrow(self.call(**inputs).hidden_states[0])
        except BaseException:  # some of the slots may be filled, and the caller may use the cache again
            self.cache.record_tokens(np.full_like(tokens, -1), positions, row_ids)
            raise

    def propose(self, states: torch.Tensor) -> Proposal:
        """Runs the head on the hidden states of the candidates: a token and a score for each. This is the one host
        read per forward."""
        proposal = propose(
            self.logits_in_parts(states),
            self.positions,
            self.canvas,
            self.config,
            self.special.mask,
            self.logits_processor,
            self.forwards,
            self.credits,
            self.drafts,
            None if self.credits is None else gather(self.window.candidates, self.positions),
        )
        self.check_numbers(proposal.score)
        if self.soft_inputs is not None:
            self.soft_inputs.observe(self.positions, self.window.candidates, proposal)
        return proposal

    def check_numbers(self, scores: Floats) -> None:
        """Raises a `ValueError` for scores (B, K) that are not numbers."""
        if faults := np.isnan(scores).sum():
            cause = f"the weights are damaged, or {self.model.dtype} is too narrow for them"
            if self.logits_processor:
                cause = f"`logits_processor` forbids every token, or {cause}"
            raise ValueError(
                f"the logits of {faults} candidates are not numbers (NaN) in forward {self.forwards}: {cause}"
            )

    def select(self, proposal: Proposal) -> Booleans:
        """Which proposals (B, K) to write."""
        accepted = select(proposal, self.positions, self.eligible, self.canvas, self.config)
        accepted = self.policy.accept(accepted, self.eligible)
        accepted = accepted & ~gather(self.canvas.committed, self.positions)  # not the tail that an EOS has filled
        return self.policy.revise(self.canvas, self.positions, proposal, accepted)

    def commit(self, proposal: Proposal, accepted: Booleans) -> None:
        """Writes the accepted proposals."""
        self.canvas.commit(self.positions, proposal, accepted, self.forwards)

    def upload(self, values: np.ndarray) -> torch.Tensor:
        """Values of the state, on the device of the model."""
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def to_the_end(self) -> DiffusionGenerationOutput:
        """Takes turns until no row is left, and returns what `generate()` returns."""
        while self.turn():
            pass
        return self.output()

    def output(self) -> DiffusionGenerationOutput:
        """What `generate()` returns."""
        if self.stream is not None:
            self.stream.end()
        return self.result.output(self.special.eos, self.cache, self.device)

    def logits_in_parts(self, states: torch.Tensor, device_type: str | None = None) -> Iterator[torch.Tensor]:
        """Logits (candidates, vocab), row after row of the batch, in the parts that suit this type of device."""
        vocab_size = self.model.config.vocab_size  # the weights of a head may be packed
        at_a_time, in_a_pass = (
            max(1, elements.get(device_type or states.device.type, MOST_ELEMENTS) // vocab_size)
            for elements in (HEAD_ELEMENTS, PASS_ELEMENTS)
        )
        for part in states.flatten(0, 1).split(at_a_time):
            yield from self.head(part).split(in_a_pass)

    def _round_up(self, number: int) -> int:
        multiple = self.config.block_size or self.canvas.length
        return min(self.canvas.length, -(-number // multiple) * multiple)


def shared_span(windows: Booleans, widths: Integers) -> slice | None:
    """The span that is the window (B, L) of every row, of these `widths` (B,), if there is one."""
    start, width = int(windows[0].argmax()), int(widths[0])
    if not (widths == width).all() or not windows[:, start : start + width].all():
        return None
    return slice(start, start + width)
