"""`generate()` of masked-diffusion models: one loop, and every published decoder is a preset of it."""

from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from .assistant import prepare_assistant, prepare_proposer
from .assisted_drafting import AssistedRun
from .canvas import Canvas
from .canvas_cache import CanvasCache
from .configuration_diffusion import DiffusionGenerationConfig
from .decoding_run import DecodingRun
from .drafting import DraftingRun
from .lanes import BranchingRun
from .output_diffusion import DiffusionGenerationOutput
from .preparation import (
    SpecialTokens,
    check_steps,
    check_tokens,
    prepare_cache,
    prepare_config,
    prepare_earlier_cache,
    prepare_padding,
    prepare_processors,
    prepare_prompt,
    prepare_seeds,
    prepare_special_tokens,
    prepare_stops,
)
from .slots import SlotRun
from .speculation import SpeculativeRun, check_speculation


# Selections that are more than a rule on the proposals of one forward, by name.
RUNS: dict[str, type[DecodingRun]] = {"slots": SlotRun}


def run_class_of(config: DiffusionGenerationConfig, assisted: bool = False) -> type[DecodingRun]:
    """What runs a loop with these parameters, `assisted` by a second model."""
    if config.assistant_rule == "lossless_distribution":
        return SpeculativeRun
    if config.draft_states > 1:
        return AssistedRun if assisted else DraftingRun
    if config.branches > 1:
        return BranchingRun
    return RUNS.get(config.selection, DecodingRun)


def attention_grid_of(model: Any, config: DiffusionGenerationConfig) -> str:
    """Where the blocks of a run are counted from, `"prompt"` or `"absolute"`."""
    return model.attention_grid if config.attention == "block_causal" else "prompt"


class DiffusionGenerationMixin(GenerationMixin):
    """Diffusion decoding for a model that has `logit_rows` and whose forward takes `cache_positions` and
    `logits_to_keep` (see [`~d3llm.modeling.layers.MaskedDiffusionPreTrainedModel`])."""

    generation_config_class = DiffusionGenerationConfig
    config: Any
    generation_config: Any
    dtype: torch.dtype
    logits_shift: int
    preset_values: dict[str, dict[str, Any]]

    def adjust_generation_fn(self, generation_config: Any, *args: Any, **kwargs: Any) -> None:
        super().adjust_generation_fn(generation_config, *args, **kwargs)
        self.generation_config = DiffusionGenerationConfig.from_plain(self.generation_config)

    def diffusion_config(
        self,
        generation_config: GenerationConfig | None = None,
        kwargs: dict[str, Any] | None = None,
        prompt_length: int = 1,
        fill: bool = False,
    ) -> DiffusionGenerationConfig:
        """
        The decoding parameters of a run: explicit ones, else those of the preset, else the model's own.

        Args:
            generation_config (`GenerationConfig`, *optional*): Base of the parameters, the model's own when not given.
            kwargs (`dict[str, Any]`, *optional*): Fields of [`DiffusionGenerationConfig`] that were given.
            prompt_length (`int`, *optional*, defaults to 1): Length of the longest prompt, in tokens.
            fill (`bool`, *optional*, defaults to `False`): Whether the run is one of [`infill`].

        Returns:
            [`DiffusionGenerationConfig`]: With every field filled in.

        Raises:
            `ValueError`: For an unknown field or preset, a value out of its range, a prompt that is too long, or a
                preset for another attention than the model's.
        """
        return prepare_config(self, generation_config, kwargs or {}, prompt_length, fill)

    def special_tokens(self, config: GenerationConfig) -> SpecialTokens:
        """
        The token ids that a run with these decoding parameters needs.

        Args:
            config (`GenerationConfig`): The parameters, as [`diffusion_config`] gives them.

        Returns:
            [`~d3llm.generation.preparation.SpecialTokens`]: The ids of the mask, EOS and fill tokens.

        Raises:
            `ValueError`: For a model without a mask token, and for ids outside of its vocabulary.
        """
        return prepare_special_tokens(self.config, config)

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
        assistant_model: Any = None,
        **kwargs: Any,
    ) -> torch.LongTensor | DiffusionGenerationOutput:
        r"""
        Fill a canvas of prompt and masked positions, many positions per forward. The steps of the loop:

        - end rows: at their first EOS, at a stop string, by a criterion;
        - advance blocks: activate them, open the next one;
        - choose the window: the cache policy says which positions to recompute, and which are candidates;
        - keep the unfinished rows: the others leave the batch, until none is left;
        - forward: the transformer over the windows;
        - propose: the head on the candidates, a token and a score for each, read on the host;
        - select: by the rule of the preset, with forced progress;
        - commit: write what was selected.

        Args:
            inputs (`torch.LongTensor` of shape `(B, P)`): Prompts, left-padded; also as `input_ids`. Mask tokens in a
                prompt are filled in.
            generation_config ([`DiffusionGenerationConfig`], *optional*): Base of the decoding parameters, the model's
                own when not given.
            streamer (`BaseStreamer`, *optional*): Gets `put(prompt)`, `put_draft(tokens)` after each forward with what
                is not final yet, `put(block)` when a block is final, and `end()`. One that sets `takes_committed` gets
                `put_draft(tokens, committed)`. Batch of one only.
            attention_mask (`torch.LongTensor` of shape `(B, P)`, *optional*): 0 = padding, on the left.
            logits_processor (`LogitsProcessorList` or `list`, *optional*): Applied to the logits of the candidates
                before anything else, as rows `(candidates, vocab)` with their canvases `(candidates, P + N)`. Padding
                is shown as the first token of the row, so that a processor such as `RepetitionPenaltyLogitsProcessor`
                treats a padded row like the row alone. Processors that expect the last token of `input_ids` to come
                right before a candidate do not work here.
            stopping_criteria (`StoppingCriteriaList` or `list`, *optional*): Called after each forward with the
                canvases `(rows, P + N)`, on the CPU, and no scores. A row that it stops is filled from its first mask
                on, as after an EOS. With drafts (`draft_states`, `branches`) it is asked about states that may be
                refused: it must be a function of the canvases alone.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Needed for `stop_strings`.
            cache ([`CanvasCache`] or `str`, *optional*): The name of a cache policy, as the field of the config; or
                `output.cache` of an earlier run, such as the previous turn of a chat. The common prefix is not
                recomputed. With bidirectional attention this is approximate: its keys and values predate the new
                tokens; so it is after a run in slots, which saw each other in the order of their completion. With
                blocks on an absolute grid it is exact, since only what a run with the policy `"block"` and the same
                attention computed is reused. The cache is overwritten. The policy is that of the earlier run
                unless the preset has one. Batch of one only. Also as `past_key_values`, besides the name of a policy.
            assistant_model ([`DiffusionGenerationMixin`], *optional*): A second model with the same tokens, on any
                device. It drafts, and this one verifies, by `assistant_rule`; a `draft_states` of 1 becomes 8.
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
        prompt = prepare_prompt(inputs, kwargs.pop("input_ids", None))
        earlier = prepare_earlier_cache(cache, kwargs)
        asks_for_policy = kwargs.get("cache") is not None or kwargs.get("use_cache") is False
        config = self.diffusion_config(generation_config, kwargs, prompt.shape[1])
        if assistant_model is not None:
            prepare_assistant(self, assistant_model, config, prompt.shape[1])
        if isinstance(earlier, CanvasCache) and config.cache == "none" and not asks_for_policy:
            config.cache = earlier.policy or config.cache
            config.check_fit()
        run = self.start_run(
            prompt,
            attention_mask,
            config,
            config.max_new_tokens,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            tokenizer=tokenizer,
            streamer=streamer,
            earlier=earlier,
            assistant=assistant_model,
        )
        output = run.to_the_end()
        return output if config.return_dict_in_generate else output.sequences

    @torch.no_grad()
    def infill(
        self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor | None = None, **kwargs: Any
    ) -> torch.LongTensor | DiffusionGenerationOutput:
        r"""
        Fill in the mask tokens of a text, in view of both sides. The text is one block and keeps its length and every
        given token: a stop only fills the gaps after it.

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
            raise ValueError(f"infill() fills a text of fixed length as one block: remove {sorted(fixed)}")
        other = {name: kwargs.pop(name, None) for name in ("logits_processor", "stopping_criteria", "tokenizer")}
        other["streamer"] = kwargs.pop("streamer", None)
        prompt = prepare_prompt(input_ids, None)
        config = self.diffusion_config(kwargs.pop("generation_config", None), kwargs, prompt.shape[1], fill=True)
        output = self.start_run(prompt, attention_mask, config, 0, **other).to_the_end()
        return output if config.return_dict_in_generate else output.sequences

    def start_run(
        self,
        prompt: torch.LongTensor,
        attention_mask: torch.Tensor | None,
        config: DiffusionGenerationConfig,
        new_tokens: int,
        *,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        streamer: BaseStreamer | None = None,
        earlier: CanvasCache | None = None,
        assistant: Any = None,
        run_class: type[DecodingRun] | None = None,
    ) -> DecodingRun:
        """
        A run before its first forward.

        Args:
            prompt (`torch.LongTensor` of shape `(B, P)`), attention_mask (`torch.Tensor`, *optional*): The prompts.
            config ([`DiffusionGenerationConfig`]): With every field filled in, as [`diffusion_config`] gives it.
            new_tokens (`int`): Length of the generated region; 0 for an infilled text.
            logits_processor, stopping_criteria, tokenizer, streamer, earlier, assistant: See [`generate`].
            run_class (`type`, *optional*): Class of the run; by default what the config asks for.

        Returns:
            [`~d3llm.generation.decoding_run.DecodingRun`]: The run.
        """
        if config.assistant_rule == "lossless_distribution":
            check_speculation(self, config, with_processor=bool(logits_processor), with_cache=earlier is not None)
            config.early_stop_rule = "at_once"  # nothing is masked before an EOS
        attention_mask = prepare_padding(prompt, attention_mask)
        special = self.special_tokens(config)
        if not new_tokens and not (prompt == special.mask).any():
            raise ValueError(f"nothing to fill in: `input_ids` has no mask token (id {special.mask})")
        if config.num_return_sequences > 1:
            prompt = prompt.repeat_interleave(config.num_return_sequences, dim=0)
            if attention_mask is not None:
                attention_mask = attention_mask.repeat_interleave(config.num_return_sequences, dim=0)
        if streamer is not None and len(prompt) > 1:
            raise ValueError(f"`streamer` takes a batch of one sequence, not {len(prompt)}")
        grid, tokens = attention_grid_of(self, config), prompt.numpy(force=True)
        check_tokens(self, tokens)
        canvas = Canvas.from_prompt(
            tokens,
            None if attention_mask is None else attention_mask.numpy(force=True),
            new_tokens=new_tokens,
            block_size=config.block_size or max(new_tokens, 1),
            mask_token_id=special.mask,
            seeds=prepare_seeds(config, len(prompt)),
            attention_block_size=config.attention_block_size,
            grid=grid,
        )
        # of a prompt that ends inside a block, the region has one more than its length says
        check_steps(config, int((canvas.block_of[:, -1] + 1 - canvas.first_block).max()) if new_tokens else 1)
        stops = prepare_stops(config, stopping_criteria, tokenizer, special)
        cache, kept = prepare_cache(self.config, canvas, config, earlier, grid == "absolute")
        run_class = run_class or run_class_of(config, assisted=assistant is not None)
        logits_processor = prepare_processors(logits_processor)
        run = run_class(self, canvas, config, special, stops, cache, kept, logits_processor, streamer, prompt.device)
        run.proposer = prepare_proposer(self, assistant, canvas, config, special, stops)
        return run
