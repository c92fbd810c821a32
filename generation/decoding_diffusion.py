"""`generate()` of masked-diffusion models: one loop, of which every published decoder is a preset."""

from collections.abc import Callable, Iterator

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from .canvas import Canvas
from .canvas_cache import CanvasCache
from .canvas_stream import CanvasStream
from .configuration_diffusion import DiffusionGenerationConfig
from .guidance import Guidance
from .likelihood import LikelihoodMixin
from .output_diffusion import CanvasResult, DiffusionGenerationOutput
from .preparation import SpecialTokens
from .selection import propose, select
from .stops import Stops
from .windows import Window, make_policy


logger = logging.get_logger(__name__)

# Logits that are in memory at a time, and that one pass goes over: as many as the last-level cache of a CPU holds,
# since a pass over fresh memory waits for it.
HEAD_ELEMENTS = 2**24
PASS_ELEMENTS = 2**22


def round_up(number: int, multiple: int, canvas: Canvas) -> int:
    return min(canvas.length, -(-number // multiple) * multiple)


class DiffusionGenerationMixin(LikelihoodMixin, GenerationMixin):
    """Diffusion decoding for a model whose forward takes `cache_positions` and `logits_to_keep`, and that has
    `logit_rows` (see [`~d3llm.modeling.layers.MaskedDiffusionPreTrainedModel`])."""

    generation_config_class = DiffusionGenerationConfig
    dtype: torch.dtype
    logits_shift: int

    def adjust_generation_fn(self, generation_config, *args, **kwargs):
        super().adjust_generation_fn(generation_config, *args, **kwargs)
        self.generation_config = DiffusionGenerationConfig.from_plain(self.generation_config)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        attention_mask: torch.LongTensor | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        cache: CanvasCache | str | None = None,
        **kwargs,
    ) -> torch.LongTensor | DiffusionGenerationOutput:
        r"""
        Fill a canvas of prompt + masked positions, many positions per forward.

        1. A row ends at its first EOS; blocks are activated and opened.
        2. The cache policy says which window of the canvas to recompute.
        3. One forward over the window; the head runs on the candidates, the masked positions of opened blocks.
        4. A token and a score for every candidate.
        5. Selection, and forced progress.
        6. Commit, and again until no position is masked. Finished rows leave the batch.

        Args:
            inputs (`torch.LongTensor` of shape `(B, P)`): Prompts, left-padded; also as `input_ids`. Mask tokens in a
                prompt are filled in.
            generation_config ([`DiffusionGenerationConfig`], *optional*): Base of the decoding parameters, the model's
                own when not given.
            streamer (`BaseStreamer`, *optional*): Gets `put(prompt)`, `put_draft(tokens)` after each forward with what
                is not final yet, `put(block)` when a block is final, and `end()`. Batch of one only.
            attention_mask (`torch.LongTensor` of shape `(B, P)`, *optional*): 0 = padding, on the left.
            logits_processor (`LogitsProcessorList`, *optional*): Applied to the logits of the candidates before
                anything else, as rows `(candidates, vocab)` beside their canvases `(candidates, P + N)`. They see the
                first token of a row in place of its padding: one that asks which tokens there are, such as
                `RepetitionPenaltyLogitsProcessor`, does to a padded row what it does to the row alone. Processors that
                take the last token of `input_ids` for the one before a candidate have no meaning here.
            stopping_criteria (`StoppingCriteriaList`, *optional*): Called after each forward with the canvases
                `(rows, P + N)` and no scores; a row that it stops is filled as after an EOS.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Needed for `stop_strings`.
            cache ([`CanvasCache`] or `str`, *optional*): The name of a cache policy, as the field of the config; or
                `output.cache` of an earlier run, such as the turn before of a chat. What both canvases begin with is
                then not computed again; in a bidirectional model its keys and values do not know of what has changed
                after it. It is overwritten. The policy is that of the earlier run unless the preset has one. Batch of
                one only. Also as `past_key_values`, beside a policy's name.
            kwargs: Any field of [`DiffusionGenerationConfig`].

        Returns:
            `torch.LongTensor` of shape `(B, P + N)`, or [`DiffusionGenerationOutput`] with
            `return_dict_in_generate=True`.

        Raises:
            `ValueError`: For an unknown field or preset, a value out of its range, an empty or too long prompt, an
                attention mask that does not fit or is right-padded, a model without a mask token, or a preset for
                another attention than the model's.

        Example:

        ```python
        >>> prompt = tokenizer("How many legs do three spiders have?", return_tensors="pt")
        >>> output = model.generate(**prompt, preset="d3llm", max_new_tokens=128)
        ```
        """
        prompt = self._prepare_prompt(inputs, kwargs.pop("input_ids", None))
        earlier = self._prepare_earlier_cache(cache, kwargs)
        config = self._prepare_diffusion_config(generation_config, kwargs, prompt.shape[1])
        if isinstance(cache, CanvasCache) and config.cache == "none" and cache.policy is not None:
            config.cache = cache.policy
        output = self._fill(
            prompt,
            attention_mask,
            config,
            config.max_new_tokens,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            tokenizer=tokenizer,
            streamer=streamer,
            earlier=earlier,
        )
        return output if config.return_dict_in_generate else output.sequences

    @torch.no_grad()
    def infill(
        self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor | None = None, **kwargs
    ) -> torch.LongTensor | DiffusionGenerationOutput:
        r"""
        Fill in the mask tokens of a text, with what is on both sides in view. The text is one block, and keeps its
        length and every token that was given: a stop fills no more than the gaps after it.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, P)`): Texts with mask tokens, left-padded.
            attention_mask (`torch.LongTensor` of shape `(B, P)`, *optional*): 0 = padding, on the left.
            kwargs: As for [`generate`], without `max_new_tokens`, `max_length`, `block_size` and `early_stop`.

        Returns:
            `torch.LongTensor` of shape `(B, P)`, or [`DiffusionGenerationOutput`] with `return_dict_in_generate=True`,
            where `commit_steps` is of shape `(B, P)` and `tokens_per_forward` counts the filled positions.

        Raises:
            `ValueError`: As for [`generate`], for a batch without a mask token, and for `window_edge="published"`.

        Example:

        ```python
        >>> text = tokenizer(f"Tom has {tokenizer.mask_token * 2} apples.", return_tensors="pt")
        >>> print(tokenizer.decode(model.infill(**text, preset="d3llm")[0]))
        ```
        """
        fixed = {"max_new_tokens", "max_length", "block_size", "early_stop"} & kwargs.keys()
        if fixed:
            raise ValueError(f"infill() fills a text of a given length as one block: leave out {sorted(fixed)}")
        other = {name: kwargs.pop(name, None) for name in ("logits_processor", "stopping_criteria", "tokenizer")}
        other["streamer"] = kwargs.pop("streamer", None)
        prompt = self._prepare_prompt(input_ids, None)
        config = self._prepare_diffusion_config(
            kwargs.pop("generation_config", None), kwargs, prompt.shape[1], fill=True
        )
        output = self._fill(prompt, attention_mask, config, 0, **other)
        return output if config.return_dict_in_generate else output.sequences

    def _fill(
        self,
        prompt: torch.LongTensor,
        attention_mask: torch.Tensor | None,
        config: DiffusionGenerationConfig,
        new_tokens: int,
        *,
        logits_processor: LogitsProcessorList | None,
        stopping_criteria: StoppingCriteriaList | None,
        tokenizer: PreTrainedTokenizerBase | None,
        streamer: BaseStreamer | None,
        earlier: CanvasCache | None = None,
    ) -> DiffusionGenerationOutput:
        attention_mask = self._prepare_padding(prompt, attention_mask)
        special = self._prepare_special_token_ids(config, prompt.device)
        if not new_tokens and not (prompt == special.mask).any():
            raise ValueError(f"nothing to fill in: `input_ids` has no mask token (id {special.mask})")
        if config.num_return_sequences > 1:
            prompt = prompt.repeat_interleave(config.num_return_sequences, dim=0)
            if attention_mask is not None:
                attention_mask = attention_mask.repeat_interleave(config.num_return_sequences, dim=0)
        if streamer is not None and len(prompt) > 1:
            raise ValueError(f"`streamer` takes a batch of one sequence, not {len(prompt)}")
        canvas = Canvas.from_prompt(
            prompt,
            attention_mask,
            new_tokens=new_tokens,
            block_size=config.block_size or max(new_tokens, 1),
            mask_token_id=special.mask,
            seeds=self._prepare_seeds(config, prompt),
        )
        stops = self._prepare_stops(config, stopping_criteria, tokenizer, special)
        stream = CanvasStream(streamer) if streamer is not None else None
        cache, kept = self._prepare_cache(canvas, config, earlier)
        return self._denoise(canvas, config, special, logits_processor, stops, stream, cache, kept)

    def _denoise(
        self,
        canvas: Canvas,
        config: DiffusionGenerationConfig,
        special: SpecialTokens,
        logits_processor: LogitsProcessorList | None,
        stops: Stops | None,
        stream: CanvasStream | None,
        cache: CanvasCache | None,
        kept: int,
    ) -> DiffusionGenerationOutput:
        result = CanvasResult(canvas, config)
        policy = make_policy(canvas, config, self.logits_shift)
        guidance = Guidance(canvas, config.cfg_scale, special.mask) if config.cfg_scale else None
        head = self.get_output_embeddings() if guidance is None else guidance.guide(self.get_output_embeddings())
        positions = torch.arange(canvas.length, device=canvas.tokens.device)
        forwards, faulty = 0, torch.zeros_like(canvas.row_ids[0])

        while True:
            # 1. The candidates are fixed before the cut at an EOS, as in the published decoder: in the one forward
            # after it the tail still takes part in the selection, though it keeps its EOS.
            candidates = ~canvas.committed
            if config.early_stop and len(special.eos):
                canvas.cut_after(canvas.first_of(special.eos), special.fill, forwards)
            if stops is not None and forwards:
                canvas.cut_after(stops.last_kept(canvas), special.fill, forwards)
            canvas.count_left()
            held = policy.held(canvas)
            canvas.advance_blocks(config.block_add_threshold, config.block_activate_threshold, held)
            done = canvas.committed.all(dim=1) & ~held
            result.record(canvas, forwards)
            if stream is not None:
                stream.update(canvas, special.eos)

            # 2.
            window = policy.window(canvas, forwards + 1)
            window.positions[:, :kept] = False
            if config.attention == "block_causal" and cache is not None:
                window.positions &= canvas.in_opened_blocks()  # what is not opened yet is seen by nothing
            eligible = candidates & canvas.in_opened_blocks() & window.positions
            if window.single is not None:
                first = canvas.block_starts[canvas.current][:, None] == positions
                eligible &= first | ~window.single[:, None]
            if cache is not None and config.window_edge == "exact":
                window.positions |= self._rows_of(eligible)
            if cache is not None and canvas.attention_mask is not None:
                window.positions &= canvas.attention_mask > 0  # nothing sees the padding

            # The one host read of a forward.
            shape = torch.stack([faulty, done.sum(), eligible.sum(dim=1).amax(), *window.extent()])
            faults, finished, count, width, start, end, shared = shape.tolist()
            if faults:
                raise ValueError(
                    f"the logits of {faults} candidates are no numbers (NaN) in forward {forwards}: the weights are "
                    f"damaged, or {self.dtype} is too narrow for them"
                )
            if finished:
                result.store(canvas, forwards)
                if finished == len(done):
                    break
                rows = done.long().argsort(stable=True)[: len(done) - finished]
                if cache is not None:
                    cache.select_rows(rows if guidance is None else guidance.double(rows))
                eligible = eligible[rows]
                for state in (canvas, policy, window):
                    state.select_rows(rows)

            # 3.
            forwards += 1
            span = slice(start, end) if shared else None
            if config.compile_config is not None:  # few shapes, and no numbers of this forward in the graph
                multiple = config.block_size or canvas.length
                count, width, span = round_up(count, multiple, canvas), round_up(width, multiple, canvas), None
            chosen = eligible.long().argsort(dim=1, descending=True, stable=True)[:, : max(1, count)]
            eligible = eligible.gather(1, chosen)
            states = self._recompute(canvas, config, window, span, width, chosen, cache, guidance)

            # 4., 5. and 6.
            logits = self._logits_in_parts(states, head)
            proposal = propose(logits, chosen, canvas, config, special.mask, logits_processor, forwards)
            accepted = select(proposal, chosen, eligible, canvas, config)
            if window.single is not None:
                accepted |= eligible & window.single[:, None]
            canvas.commit(chosen, proposal, accepted, forwards)
            faulty = proposal.score.isnan().sum()

        if stream is not None:
            stream.end()
        return result.output(special.eos, cache)

    def _logits_in_parts(
        self, states: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """Run the head on hidden states (B, K, ..); yields logits (candidates, vocab), row after row of the batch."""
        vocab_size = self.config.vocab_size  # the weights of a head may be packed
        for some in states.flatten(0, 1).split(max(1, HEAD_ELEMENTS // vocab_size)):
            yield from head(some).split(max(1, PASS_ELEMENTS // vocab_size))

    def _rows_of(self, eligible: torch.BoolTensor) -> torch.BoolTensor:
        """Positions (B, L) whose rows predict the `eligible` ones (B, L)."""
        rows = self.logit_rows(torch.arange(eligible.shape[1], device=eligible.device)).expand_as(eligible)
        return torch.zeros_like(eligible, dtype=torch.long).scatter_add(1, rows, eligible.long()) > 0

    def _recompute(
        self,
        canvas: Canvas,
        config: DiffusionGenerationConfig,
        window: Window,
        span: slice | None,
        width: int,
        chosen: torch.LongTensor,
        cache: CanvasCache | None,
        guidance: Guidance | None,
    ) -> torch.Tensor:
        """Forward the windows and return the hidden states (B, K, ..) that predict the `chosen` positions (B, K).

        Rows share one `span`, or have windows of their own of at most `width` positions, at the right end of as many.
        """
        if span is not None:
            positions = torch.arange(span.start, span.stop, device=chosen.device).expand(len(chosen), -1)
        else:
            positions = window.indices(width, canvas.first_real)
        filled = positions.shape[1] - window.positions.sum(dim=1, keepdim=True)
        rows = self.logit_rows(chosen).maximum(canvas.first_real[:, None])
        rows = filled + (window.positions.long().cumsum(dim=1) - 1).gather(1, rows).clamp(min=0)
        inputs = {
            "input_ids": canvas.tokens.gather(1, positions),
            "position_ids": (positions - canvas.first_real[:, None]).clamp(min=0),
            "attention_mask": self._attention_mask(canvas, config, positions),
            "logits_to_keep": rows,
            "run_head": False,
            "return_dict": True,
        }
        if guidance is not None:
            inputs = guidance.widen(inputs, positions)
        if cache is not None:
            cached_positions = positions if guidance is None else positions.repeat(2, 1)
            cache.note(inputs["input_ids"], cached_positions)
            inputs |= {"cache": cache, "cache_positions": span or cached_positions}
        call = self if config.compile_config is None else self.get_compiled_call(config.compile_config)
        states = call(**inputs).hidden_states[0]
        return states if guidance is None else guidance.narrow(states)

    def _attention_mask(
        self, canvas: Canvas, config: DiffusionGenerationConfig, positions: torch.LongTensor
    ) -> torch.Tensor | None:
        """What the recomputed `positions` (B, W) may see: padding (B, L), or block-causal (B, 1, W, L)."""
        if config.attention == "bidirectional":
            return canvas.attention_mask
        visible = canvas.block_of <= canvas.block_of[positions][:, None, :, None]
        if canvas.attention_mask is not None:
            visible = visible & (canvas.attention_mask[:, None, None, :] > 0)
        if self.config._attn_implementation == "eager":
            return torch.zeros_like(visible, dtype=self.dtype).masked_fill(~visible, torch.finfo(self.dtype).min)
        return visible
