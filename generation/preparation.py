"""Checks the arguments of `generate()` and prepares them for the loop."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MaxTimeCriteria,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.stopping_criteria import StopStringCriteria
from transformers.utils import logging

from .canvas import Canvas, Integers
from .canvas_cache import CanvasCache
from .configuration_diffusion import DiffusionGenerationConfig
from .fields import FIELDS, METHOD_DEFAULTS, RUN_DEFAULTS, SCHEDULED, check_names, shown
from .noise import seeds_of_copies
from .presets import PRESETS
from .stops import Stops


logger = logging.get_logger(__name__)


@dataclass
class SpecialTokens:
    """Token ids of a run: `mask`, every `eos`, and what `fill`s an ended row (`mask` without an EOS)."""

    mask: int
    eos: list[int]
    fill: int


def prepare_prompt(inputs: torch.Tensor | None, input_ids: torch.Tensor | None) -> torch.LongTensor:
    """The prompts (B, P), given once as `inputs` or `input_ids`."""
    if inputs is None and input_ids is None:
        raise ValueError("there is no prompt: pass at least one token, as `inputs` or as `input_ids`")
    if inputs is not None and input_ids is not None:
        raise ValueError("pass the prompts once, as `inputs` or as `input_ids`")
    prompt = inputs if inputs is not None else input_ids
    if not isinstance(prompt, torch.Tensor) or prompt.ndim != 2 or prompt.is_floating_point():
        raise ValueError("`input_ids` must be a tensor of token ids of shape (batch, positions)")
    if not prompt.numel():
        raise ValueError(f"`input_ids` of shape {tuple(prompt.shape)} is an empty prompt: pass at least one token")
    return prompt.long()


def check_tokens(model: Any, tokens: Integers) -> None:
    """Raises a `ValueError` for tokens that the model has no embedding for."""
    if not hasattr(model, "get_input_embeddings"):  # a model of another class, which the decoder was put around
        return
    rows = model.get_input_embeddings().weight.shape[0]
    strange = tokens[(tokens < 0) | (tokens >= rows)]
    if strange.size:
        raise ValueError(f"`input_ids` holds the token {strange[0]}, and the model has embeddings for 0 to {rows - 1}")


def prepare_config(
    model: Any,
    generation_config: GenerationConfig | None,
    kwargs: dict[str, Any],
    prompt_length: int,
    fill: bool = False,
) -> DiffusionGenerationConfig:
    """The decoding parameters of a run, see `DiffusionGenerationMixin.diffusion_config`."""
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    check_names(kwargs, known=FIELDS)
    own = DiffusionGenerationConfig.from_plain(model.generation_config)
    config = own if generation_config is None else DiffusionGenerationConfig.from_plain(generation_config)
    if generation_config is not None:
        method = METHOD_DEFAULTS if config.preset is not None else ()
        config.update(defaults_only=True, **{n: getattr(own, n) for n in FIELDS if n not in method})
    if "preset" in kwargs:
        config.update(**dict.fromkeys(METHOD_DEFAULTS))
    if kwargs.pop("use_cache", getattr(generation_config, "use_cache", None)) is False:
        kwargs["cache"] = "none"
    if kwargs.get("temperature") and "do_sample" not in kwargs:
        config.do_sample = None  # a file that says `False` does not turn off what the call asks for
    config.update(**kwargs)
    if config.max_new_tokens is not None and "max_length" in kwargs:
        logger.warning_once("`max_new_tokens` and `max_length` are both set: `max_new_tokens` takes precedence")

    if config.max_new_tokens is None and config.max_length is not None:
        config.max_new_tokens = config.max_length - prompt_length
    longest = model.config.max_position_embeddings
    if config.max_new_tokens is None and longest is not None:
        config.max_new_tokens = max(1, min(RUN_DEFAULTS["max_new_tokens"], longest - prompt_length))
    config = prepare_attention(model, config)
    if fill:
        if config.window_edge == "published":
            raise ValueError(
                "`window_edge`='published' reproduces runs of `generate()`: leave it out of infill(), where no "
                "published decoder has an edge"
            )
        config.early_stop = False  # an EOS in an infilled text is part of it
        if longest is not None and prompt_length > longest:
            raise ValueError(f"a text of {prompt_length} tokens exceeds the {longest} positions of the model")
        return config
    if longest is not None and prompt_length + config.max_new_tokens > longest:
        raise ValueError(
            f"a prompt of {prompt_length} tokens and `max_new_tokens`={config.max_new_tokens} exceed the "
            f"{longest} positions of the model: shorten the prompt or generate less"
        )
    check_steps(config, -(-config.max_new_tokens // (config.block_size or config.max_new_tokens)))
    return config


def check_steps(config: DiffusionGenerationConfig, blocks: int) -> None:
    """Raises a `ValueError` for fewer scheduled forwards than there are `blocks` in the generated region."""
    if config.steps is not None and config.selection in SCHEDULED and config.steps < blocks:
        raise ValueError(f"`steps`={config.steps} is less than one forward for each of the {blocks} blocks")


def trained_attention(model: Any) -> str | None:
    """The attention that a model was trained with, as config.json or its class states it."""
    return getattr(model.config, "attention", None) or model.attention


def prepare_attention(model: Any, config: DiffusionGenerationConfig) -> DiffusionGenerationConfig:
    """Resolves the config, with the attention that the model was trained with, as config.json or its class states it,
    where neither the caller nor the preset asks for one."""
    trained = trained_attention(model)
    asked, block_size = config.attention, config.block_size
    if config.preset is None and (asked or trained) == "causal":
        config.preset = "refusion"  # the one method that decodes with it
    named = PRESETS[config.preset].values_for(model.preset_values) if config.preset is not None else {}
    config.attention = asked or named.get("attention") or trained
    if trained is not None and asked is None and config.attention != trained:
        raise ValueError(
            f"`preset`={config.preset!r} decodes with {config.attention} attention and this model was trained "
            f"with {trained}: choose another preset, or set `attention` to decode with it all the same"
        )
    config = config.resolve(model.preset_values)
    if config.attention == "bidirectional":
        return config
    if trained is None and asked is None:
        logger.warning_once(
            f"`preset`={config.preset!r} needs weights that were trained with {config.attention.replace('_', '-')} "
            "attention; config.json does not say (`attention`) whether these were"
        )
    if model.config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"`attention`={config.attention!r} needs `attn_implementation`='sdpa' or 'eager', "
            f"not {model.config._attn_implementation!r}"
        )
    if config.attention == "causal":
        if model.logits_shift:
            raise ValueError(
                f"`selection`='slots' needs logits of masked positions that predict their own token, and those of "
                f"{type(model).__name__} predict the next one: choose another preset"
            )
        return config
    return prepare_attention_blocks(model.attention_block_size, config, block_size or named.get("block_size"))


def prepare_attention_blocks(
    trained: int | None, config: DiffusionGenerationConfig, block_size: int | None
) -> DiffusionGenerationConfig:
    """Fills in the size of the attention's blocks: that of the training, unless the caller gives one; and the size of
    the decoder's blocks, the same unless caller or preset asked for a `block_size`."""
    if config.attention_block_size is None:
        config.attention_block_size = trained
    elif trained is not None and config.attention_block_size != trained:
        logger.warning_once(
            f"`attention_block_size`={config.attention_block_size}, and the model was trained with blocks of {trained}"
        )
    if block_size is None and config.attention_block_size is not None:
        config.block_size = config.attention_block_size
    config.check_blocks()
    return config


def prepare_padding(prompt: torch.LongTensor, attention_mask: torch.Tensor | None) -> torch.LongTensor | None:
    """The attention mask (B, P) of left-padded prompts; `None` without padding."""
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, torch.Tensor):
        raise ValueError(f"`attention_mask` must be a tensor, not a {type(attention_mask).__name__}")
    if attention_mask.shape != prompt.shape:
        raise ValueError(
            f"`attention_mask` of shape {tuple(attention_mask.shape)} does not fit `input_ids` of shape "
            f"{tuple(prompt.shape)}"
        )
    attention_mask = (attention_mask != 0).long()
    if not attention_mask[:, -1].all() or (attention_mask.diff(dim=1) < 0).any():
        raise ValueError(
            "`attention_mask` must have its zeros on the left and no row of zeros only: set "
            "`tokenizer.padding_side = 'left'` for generation"
        )
    return None if attention_mask.all() else attention_mask


def prepare_seeds(config: Any, rows: int) -> Integers:
    """A seed for each of so many `rows`: that of its prompt, or the one for all, and a derived one for each further
    return sequence."""
    if config.seed is None:
        return torch.randint(2**62, (rows,)).numpy()
    prompts = rows // config.num_return_sequences
    seeds = config.seed if isinstance(config.seed, (list, tuple)) else [config.seed] * prompts
    if len(seeds) != prompts:
        raise ValueError(f"`seed` lists {len(seeds)} seeds for {prompts} prompts")
    # an array of integers holds 64 bits as a signed number
    signed = np.array([seed - 2**64 if seed >= 2**63 else seed for seed in seeds])
    return seeds_of_copies(signed, config.num_return_sequences)


def prepare_earlier_cache(cache: Any, kwargs: dict[str, Any]) -> Any:
    """The cache of an earlier run, given as `cache` or as `past_key_values`, its name before transformers 5.24. A
    `cache` given as a string is the name of a policy, and goes to `kwargs`."""
    earlier = kwargs.pop("past_key_values", None)
    if cache is None or isinstance(cache, str):
        kwargs["cache"] = cache
        return earlier
    if earlier is not None:
        raise ValueError("`cache` and `past_key_values` are two names of one argument: pass one of them")
    return cache


def prepare_cache(
    model_config: Any,
    canvas: Canvas,
    config: DiffusionGenerationConfig,
    earlier: CanvasCache | None,
    absolute: bool,
) -> tuple[CanvasCache | None, int]:
    """The cache of a run, and how many positions from the start it already holds: exactly, if the blocks of the
    attention are on an `absolute` grid."""
    attention = (config.attention, config.attention_block_size or config.block_size)
    if earlier is None:
        if config.cache == "none":
            return None, 0
        return CanvasCache(model_config.num_hidden_layers, canvas.length, config.cache, attention), 0
    if not isinstance(earlier, CanvasCache):
        raise ValueError(f"`cache` must be a CanvasCache or the name of a policy, not a {type(earlier).__name__}")
    if config.cache == "none":
        raise ValueError("an earlier run's cache needs a run with a cache: choose a preset with one")
    if len(canvas.tokens) > 1 or canvas.attention_mask is not None or config.cfg_scale:
        raise ValueError("an earlier run's cache takes one sequence without padding and without `cfg_scale`")
    if len(earlier.layers) != model_config.num_hidden_layers:
        raise ValueError(
            f"`cache` has {len(earlier.layers)} layers, and the model {model_config.num_hidden_layers}: pass that of "
            "a run of this model"
        )
    is_exact = earlier.policy == "block" and earlier.attention == attention
    earlier.policy, earlier.attention = config.cache, attention
    first_masked = int(canvas.committed.cumprod(axis=1).sum())
    if absolute:  # whole blocks of the attention: the tokens of an unfinished one see what is decoded in it
        ends = np.flatnonzero(np.diff(canvas.attention_block_of[0], prepend=-1))
        return earlier, earlier.reuse_prefix(canvas.tokens, first_masked if is_exact else 0, ends)
    # the row before the first masked position may be the one that predicts it
    return earlier, earlier.reuse_prefix(canvas.tokens, limit=first_masked - 1)


def prepare_processors(logits_processor: Any) -> LogitsProcessorList | None:
    """The processors of a run, given as a list of either kind."""
    if logits_processor is None:
        return None
    check_list("logits_processor", logits_processor)
    return LogitsProcessorList(logits_processor)


def prepare_criteria(stopping_criteria: Any) -> StoppingCriteriaList:
    """The stopping criteria of a run, given as a list of either kind."""
    if stopping_criteria is None:
        return StoppingCriteriaList()
    check_list("stopping_criteria", stopping_criteria)
    return StoppingCriteriaList(stopping_criteria)


def check_list(name: str, given: Any) -> None:
    """Raises a `ValueError` for an argument that is not a list of functions."""
    if not isinstance(given, list) or not all(map(callable, given)):
        raise ValueError(f"`{name}`={shown(given)} must be a list, also of one")


def prepare_stops(
    config: DiffusionGenerationConfig,
    stopping_criteria: StoppingCriteriaList | None,
    tokenizer: PreTrainedTokenizerBase | None,
    special: SpecialTokens,
) -> Stops:
    """The stops of a run."""
    criteria = prepare_criteria(stopping_criteria)
    if config.max_time is not None:
        criteria.append(MaxTimeCriteria(config.max_time))
    stop_strings = None
    if config.stop_strings:
        if not hasattr(tokenizer, "get_vocab"):
            raise ValueError("`stop_strings` needs the model's `tokenizer`: pass it to generate()")
        try:
            stop_strings = StopStringCriteria(tokenizer, config.stop_strings)
        except (ValueError, IndexError) as error:
            raise ValueError(
                "`stop_strings` needs a tokenizer that can spell any text, and this one cannot: use "
                "`stopping_criteria` or `eos_token_id`"
            ) from error
    if (stop_strings is not None or criteria) and special.fill == special.mask:
        raise ValueError("a stopped row is filled with `eos_token_id` or `pad_token_id`, and the model has neither")
    eos = special.eos if config.early_stop else []
    return Stops(eos, special.fill, criteria, stop_strings, special.mask, config.early_stop_rule)


def prepare_special_tokens(model_config: Any, config: DiffusionGenerationConfig) -> SpecialTokens:
    """The token ids that a run needs, checked against the vocabulary."""
    mask = find_mask_token(model_config, config)
    eos = tokens_that_end(config)
    # models with several stop tokens were trained on answers padded with one of them
    candidates = [config.pad_token_id] if config.pad_token_id in eos else [*eos, config.pad_token_id]
    fill = next((token for token in candidates if token is not None), mask)
    vocab_size = getattr(model_config, "vocab_size", None)
    for name, tokens in {"mask_token_id": [mask], "eos_token_id": eos, "pad_token_id": [fill]}.items():
        if vocab_size is not None and tokens and max(tokens) >= vocab_size:
            raise ValueError(f"`{name}`={max(tokens)} is outside of the model's vocabulary of {vocab_size} tokens")
    return SpecialTokens(mask, eos, fill)


def tokens_that_end(config: GenerationConfig) -> list[int]:
    """The EOS tokens of decoding parameters."""
    eos = [] if config.eos_token_id is None else config.eos_token_id
    return [eos] if isinstance(eos, int) else list(eos)


def find_mask_token(model_config: Any, generation_config: Any) -> int:
    """The mask token of a run: that of the decoding parameters, or of the model."""
    for config in (generation_config, model_config):
        if getattr(config, "mask_token_id", None) is not None:
            return config.mask_token_id
    raise ValueError(
        f"the {model_config.model_type!r} model has no mask token: set `mask_token_id` in config.json or pass it to "
        "generate()"
    )
