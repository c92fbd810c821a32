"""A run of the decoder: its state, and the steps of the loop in `generate()`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from .canvas import Canvas, Proposal
from .canvas_cache import CanvasCache
from .compilation import CompiledCall
from .configuration_diffusion import DiffusionGenerationConfig
from .grouping import group_rows
from .guidance import Guidance, Unguided
from .output_diffusion import CanvasResult, DiffusionGenerationOutput
from .preparation import SpecialTokens
from .proposals import propose
from .selection import select
from .stops import Stops
from .streaming import StreamFeed
from .windows import indices_of, make_policy


# Logits that are in memory at a time, and that one pass reads: as many as fit in the last-level cache of a CPU, since
# reading fresh memory is slow.
HEAD_ELEMENTS = 2**24
PASS_ELEMENTS = 2**22


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

    Attributes:
        forwards (`int`): Forwards made so far.
        masked (`torch.BoolTensor` of shape `(B, L)`): Positions that the next forward may set.
        finished (`torch.BoolTensor` of shape `(B,)`): Rows without a masked position.
        window ([`~d3llm.generation.windows.Window`]): Of the next forward.
        positions (`torch.LongTensor` of shape `(B, K)`): Candidates of the forward, as many in each row: which of them
            are real, `eligible` (B, K) says.
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
    ):
        self.model, self.canvas, self.config, self.special = model, canvas, config, special
        self.stops, self.cache, self.logits_processor = stops, cache, logits_processor
        self.stream = StreamFeed(streamer) if streamer is not None else None
        self.result = CanvasResult(canvas, config)
        self.policy = make_policy(canvas, config, model.logits_shift, model.logit_rows, kept)
        self.guidance = Guidance(canvas, config.cfg_scale, special.mask) if config.cfg_scale else Unguided()
        self.head = self.guidance.guide(model.get_output_embeddings())
        self.call = model if config.compile_config is None else CompiledCall(model, config.compile_config)
        self.forwards = 0
        self.faulty = torch.zeros_like(canvas.row_ids[0])

    def end_rows(self) -> None:
        """Ends rows at their first EOS or by a stop."""
        # Candidates are fixed first, as in the published decoder: in the one forward after an EOS the tail still takes
        # part in the selection, though it keeps its EOS.
        self.masked = ~self.canvas.committed
        self.stops.end_rows(self.canvas, self.forwards)
        self.canvas.count_masks()

    def advance_blocks(self) -> None:
        """Activates and opens blocks, moves rows to their first unfinished one, and shows the state."""
        canvas, must_stay = self.canvas, self.policy.must_stay(self.canvas)
        canvas.advance_blocks(self.config.block_add_threshold, self.config.block_activate_threshold, must_stay)
        self.finished = canvas.committed.all(dim=1) & ~must_stay
        self.result.record(canvas, self.forwards)
        if self.stream is not None:
            self.stream.update(canvas, self.special.eos)

    def choose_window(self) -> None:
        """Asks the cache policy what the next forward recomputes, and which positions are candidates."""
        open_positions = self.masked & self.canvas.in_opened_blocks()
        self.window = self.policy.window(self.canvas, open_positions, self.forwards + 1)

    def keep_unfinished_rows(self) -> bool:
        """Removes finished rows from the batch; `False` when none is left. This is the one host read per forward."""
        window = self.window
        faulty = self.faulty.expand_as(self.finished)
        per_row = [faulty, self.finished, window.candidates.sum(dim=1), *window.extents()]
        faults, finished, candidates, widths, starts, ends = np.array(torch.stack(per_row).tolist())
        faults = faults[0]
        if faults:
            raise ValueError(
                f"the logits of {faults} candidates are not numbers (NaN) in forward {self.forwards}: the weights are "
                f"damaged, or {self.model.dtype} is too narrow for them"
            )
        if finished.any():
            self.result.store(self.canvas, self.forwards)
            if finished.all():
                return False
            widths, starts, ends = (values[finished == 0] for values in (widths, starts, ends))
            rows = torch.from_numpy(np.flatnonzero(finished == 0)).to(self.finished.device)
            if self.cache is not None:
                self.cache.select_rows(self.guidance.forwarded(rows))
            for state in (self.canvas, self.policy, window):
                state.select_rows(rows)
        start, end, most = int(starts[0]), int(ends[0]), max(1, int(candidates.max()))
        is_span = (starts == start).all() and (ends == end).all() and (widths == end - start).all()
        self.span = slice(start, end) if is_span else None
        fills_cache = self.cache is not None and self.cache.tokens is None
        one_call = self.span is not None or fills_cache or self.cache is None
        self.calls = [(None, int(widths.max()))] if one_call else group_rows(widths)
        if self.config.compile_config is not None:  # few shapes, and no numbers of this forward in the graph
            most, self.span = self._round_up(most), None
            self.calls = [(None, self._round_up(int(widths.max())))]
        order = window.candidates.long().argsort(dim=1, descending=True, stable=True)
        self.positions = order[:, :most]
        self.eligible = window.eligible.gather(1, self.positions)
        return True

    def forward(self) -> torch.Tensor:
        """Runs the transformer over the windows; returns the hidden states (B, K, ..) that predict the candidates.

        Rows either share one span, or each has its own window. Rows whose windows differ much in width are forwarded
        one after another: see [`~d3llm.generation.grouping.group_rows`].
        """
        self.forwards += 1
        if len(self.calls) == 1:
            return self._forward(None, self.calls[0][1])
        device = self.positions.device
        groups = [torch.from_numpy(rows).to(device) for rows, _ in self.calls]
        states = [self._forward(rows, width) for rows, (_, width) in zip(groups, self.calls, strict=True)]
        return torch.cat(states)[torch.cat(groups).argsort()]

    def _forward(self, rows: torch.LongTensor | None, width: int) -> torch.Tensor:
        """Of some rows (R,), or all, whose windows have at most `width` positions."""

        def of_rows(values: torch.Tensor) -> torch.Tensor:
            return values if rows is None else values[rows]

        canvas, recomputed, first_real = self.canvas, of_rows(self.window.positions), of_rows(self.canvas.first_real)
        kept = self.model.logit_rows(of_rows(self.positions)).maximum(first_real[:, None])
        if self.span is not None:
            positions = torch.arange(self.span.start, self.span.stop, device=recomputed.device)
            positions = positions.expand(len(recomputed), -1)
            tokens, given = canvas.tokens[:, self.span], canvas.given[:, self.span]
            kept = (kept - self.span.start).clamp(min=0)
        else:
            positions = indices_of(recomputed, width, first_real)
            tokens, given = (of_rows(values).gather(1, positions) for values in (canvas.tokens, canvas.given))
            filled = width - recomputed.sum(dim=1, keepdim=True)
            kept = filled + (recomputed.long().cumsum(dim=1) - 1).gather(1, kept).clamp(min=0)
        inputs = {
            "input_ids": tokens,
            "position_ids": (positions - first_real[:, None]).clamp(min=0),
            "attention_mask": visible_positions(self.model, canvas, self.config, positions, rows),
            "logits_to_keep": kept,
            "run_head": False,
            "return_dict": True,
        }
        inputs = self.guidance.widen(inputs, given)
        if self.cache is None:
            return self.guidance.narrow(self.call(**inputs).hidden_states[0])
        slots = self.guidance.widen_rows(positions)
        with self.cache.for_rows(None if rows is None else self.guidance.forwarded(rows)):
            self.cache.record_tokens(inputs["input_ids"], self.span or slots)
            inputs |= {"cache": self.cache, "cache_positions": self.span or slots}
            return self.guidance.narrow(self.call(**inputs).hidden_states[0])

    def propose(self, states: torch.Tensor) -> Proposal:
        """Runs the head on the hidden states of the candidates: a token and a score for each."""
        proposal = propose(
            self._logits_in_parts(states),
            self.positions,
            self.canvas,
            self.config,
            self.special.mask,
            self.logits_processor,
            self.forwards,
        )
        self.faulty = proposal.score.isnan().sum()
        return proposal

    def select(self, proposal: Proposal) -> torch.BoolTensor:
        """Which proposals (B, K) to write."""
        accepted = select(proposal, self.positions, self.eligible, self.canvas, self.config)
        accepted = self.policy.accept(accepted, self.eligible)
        accepted = accepted & ~self.canvas.committed.gather(1, self.positions)  # not the tail that an EOS has filled
        return self.policy.revise(self.canvas, self.positions, proposal, accepted)

    def commit(self, proposal: Proposal, accepted: torch.BoolTensor) -> None:
        """Writes the accepted proposals."""
        self.canvas.commit(self.positions, proposal, accepted, self.forwards)

    def output(self) -> DiffusionGenerationOutput:
        """What `generate()` returns."""
        if self.stream is not None:
            self.stream.end()
        return self.result.output(self.special.eos, self.cache)

    def _logits_in_parts(self, states: torch.Tensor) -> Iterator[torch.Tensor]:
        """Logits (candidates, vocab), row after row of the batch."""
        vocab_size = self.model.config.vocab_size  # the weights of a head may be packed
        for part in states.flatten(0, 1).split(max(1, HEAD_ELEMENTS // vocab_size)):
            yield from self.head(part).split(max(1, PASS_ELEMENTS // vocab_size))

    def _round_up(self, number: int) -> int:
        multiple = self.config.block_size or self.canvas.length
        return min(self.canvas.length, -(-number // multiple) * multiple)


def visible_positions(
    model: Any,
    canvas: Canvas,
    config: DiffusionGenerationConfig,
    positions: torch.LongTensor,
    rows: torch.LongTensor | None = None,
) -> torch.Tensor | None:
    """The attention mask of the recomputed `positions` (R, W) of some rows (R,), or of all: (R, 1, W, L) for sdpa and
    eager attention, else the padding (R, L)."""
    padding = canvas.attention_mask
    if padding is not None and rows is not None:
        padding = padding[rows]
    implementation = model.config._attn_implementation
    if config.attention == "block_causal":
        blocks = canvas.attention_block_of
        visible = blocks <= blocks[positions][:, None, :, None]
        if padding is not None:
            visible = visible & (padding[:, None, None, :] > 0)
    elif padding is None or implementation not in ("sdpa", "eager"):
        return padding
    else:  # prepared here, since transformers reads a mask of padding on the host before it makes one of this
        visible = (padding > 0)[:, None, None, :].expand(-1, -1, positions.shape[1], -1)
    if implementation == "eager":
        return torch.zeros_like(visible, dtype=model.dtype).masked_fill(~visible, torch.finfo(model.dtype).min)
    return visible
