"""A run of the decoder: its state, and the steps of the loop in `generate()`."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from .canvas import Canvas, Proposal
from .canvas_cache import CanvasCache
from .compilation import CompiledCall
from .configuration_diffusion import DiffusionGenerationConfig
from .guidance import Guidance, Unguided
from .output_diffusion import CanvasResult, DiffusionGenerationOutput
from .preparation import SpecialTokens
from .proposals import propose
from .selection import select
from .stops import Stops
from .streaming import StreamFeed
from .windows import make_policy


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
        window, finished = self.window, self.finished
        numbers = [self.faulty, finished.sum(), window.candidates.sum(dim=1).amax(), *window.extent()]
        faults, done, candidates, self.width, start, end, shared = torch.stack(numbers).tolist()
        if faults:
            raise ValueError(
                f"the logits of {faults} candidates are not numbers (NaN) in forward {self.forwards}: the weights are "
                f"damaged, or {self.model.dtype} is too narrow for them"
            )
        if done:
            self.result.store(self.canvas, self.forwards)
            if done == len(finished):
                return False
            rows = finished.long().argsort(stable=True)[: len(finished) - done]
            if self.cache is not None:
                self.cache.select_rows(self.guidance.forwarded(rows))
            for state in (self.canvas, self.policy, window):
                state.select_rows(rows)
        self.span = slice(start, end) if shared else None
        if self.config.compile_config is not None:  # few shapes, and no numbers of this forward in the graph
            candidates, self.width, self.span = self._round_up(candidates), self._round_up(self.width), None
        order = window.candidates.long().argsort(dim=1, descending=True, stable=True)
        self.positions = order[:, : max(1, candidates)]
        self.eligible = window.eligible.gather(1, self.positions)
        return True

    def forward(self) -> torch.Tensor:
        """Runs the transformer over the windows; returns the hidden states (B, K, ..) that predict the candidates.

        Rows either share one span, or each has its own window, at the right end of equally many positions.
        """
        self.forwards += 1
        canvas, recomputed = self.canvas, self.window.positions
        if self.span is not None:
            positions = torch.arange(self.span.start, self.span.stop, device=recomputed.device)
            positions = positions.expand(len(recomputed), -1)
        else:
            positions = self.window.indices(self.width, canvas.first_real)
        filled = positions.shape[1] - recomputed.sum(dim=1, keepdim=True)
        rows = self.model.logit_rows(self.positions).maximum(canvas.first_real[:, None])
        rows = filled + (recomputed.long().cumsum(dim=1) - 1).gather(1, rows).clamp(min=0)
        inputs = {
            "input_ids": canvas.tokens.gather(1, positions),
            "position_ids": (positions - canvas.first_real[:, None]).clamp(min=0),
            "attention_mask": visible_positions(self.model, canvas, self.config, positions),
            "logits_to_keep": rows,
            "run_head": False,
            "return_dict": True,
        }
        inputs = self.guidance.widen(inputs, positions)
        if self.cache is not None:
            slots = self.guidance.widen_rows(positions)
            self.cache.record_tokens(inputs["input_ids"], slots)
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
    model: Any, canvas: Canvas, config: DiffusionGenerationConfig, positions: torch.LongTensor
) -> torch.Tensor | None:
    """The attention mask of the recomputed `positions` (B, W): padding (B, L), or block-causal (B, 1, W, L)."""
    if config.attention == "bidirectional":
        return canvas.attention_mask
    blocks = canvas.attention_block_of
    visible = blocks <= blocks[positions][:, None, :, None]
    if canvas.attention_mask is not None:
        visible = visible & (canvas.attention_mask[:, None, None, :] > 0)
    if model.config._attn_implementation == "eager":
        return torch.zeros_like(visible, dtype=model.dtype).masked_fill(~visible, torch.finfo(model.dtype).min)
    return visible
