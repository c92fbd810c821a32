"""Checks the arguments of introspective decoding and merges them with the generation config of the base."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    MaxTimeCriteria,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.stopping_criteria import StopStringCriteria

from .canvas import Integers
from .configuration_diffusion import check_kind
from .fields import Field, Number, OneOrMore, Whole, shown, suggestion
from .preparation import prepare_criteria, prepare_padding, prepare_prompt
from .row_cache import check_attention


PRESET = "introspective"
OWN_FIELDS = {
    "draft_tokens": Field(None, Whole(0)),
    "max_rows": Field(16, Whole(2)),
    "draft_confidence": Field(0.0, Number(0, 1)),
    "seed": Field(None, OneOrMore(Whole(0, 2**64 - 1))),
}
# Other values than these ask for another decoder, or for what this one does not have.
PLAIN_VALUES: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "guidance_scale": (None, 1),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
    "prompt_lookup_num_tokens": (None,),
    "watermarking_config": (None,),
    "cache_implementation": (None, "dynamic"),
    "use_cache": (None, True),
    "output_scores": (None, False),
    "output_logits": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
}


@dataclass
class IntrospectiveSettings:
    """
    What a run does.

    Attributes:
        config (`GenerationConfig`): The base's, with the caller's fields.
        draft_tokens (`int`): Most drafts of a forward, K.
        max_rows (`int`): Base rows and mask rows of a forward aim to be at most this many.
        draft_confidence (`float`): Drafts below it are not verified.
        seed (`int` or `list[int]`, *optional*): Seed of sampling.
        max_new_tokens (`int`): Tokens after the prompt.
        eos_token_ids (`list[int]`): The tokens that end a row.
        pad_token_id (`int`): Fills rows after their end.
        criteria (`StoppingCriteriaList`): The caller's, stop strings and the most time.
        num_return_sequences (`int`): Always 1.
    """

    config: GenerationConfig
    draft_tokens: int
    max_rows: int
    draft_confidence: float
    seed: int | list[int] | None
    max_new_tokens: int
    eos_token_ids: list[int]
    pad_token_id: int
    criteria: StoppingCriteriaList
    num_return_sequences: int = 1


def prepare_settings(
    base: PreTrainedModel,
    window: int,
    input_ids: torch.Tensor,
    generation_config: GenerationConfig | None,
    stopping_criteria: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    fields: dict[str, Any],
) -> IntrospectiveSettings:
    """
    The settings of a run.

    Args:
        base (`PreTrainedModel`): Its generation config has the defaults, as in its own `generate()`.
        window (`int`): The largest `draft_tokens`.
        input_ids (`torch.Tensor` of shape `(B, P)`): The prompts.
        generation_config, stopping_criteria, tokenizer, fields: As the caller passed them.

    Returns:
        [`IntrospectiveSettings`]: The settings.

    Raises:
        `ValueError`: For a field that is unknown, out of its range or means another decoder.
    """
    if generation_config is not None:
        check_kind(generation_config)
    own = {name: field.default for name, field in OWN_FIELDS.items()} | {"draft_tokens": window}
    for name in [name for name in fields if name in own]:
        value = fields.pop(name)
        if value is None:
            continue
        if fault := OWN_FIELDS[name].kind.fault(value):
            raise ValueError(f"`{name}`={shown(value)} {fault}")
        own[name] = value
    if own["draft_tokens"] > window:
        raise ValueError(f"`draft_tokens`={own['draft_tokens']} exceeds the window of the drafter, which is {window}")
    given = [fields, *(vars(config) for config in (generation_config, base.generation_config) if config is not None)]
    has_length = any(values.get("max_length") is not None for values in given)
    config, unknown = base._prepare_generation_config(generation_config, **fields)
    for name, plain in PLAIN_VALUES.items():
        if (value := getattr(config, name, None)) not in plain:
            raise ValueError(f"introspective decoding has no `{name}`={shown(value)}: set it to {plain[-1]!r}")
    for name in unknown:
        close = suggestion(name, [*OWN_FIELDS, *GenerationConfig().to_dict()])
        raise ValueError(f"unknown generation field `{name}`{close}")
    base._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=input_ids.device)
    eos = [] if config._eos_token_tensor is None else config._eos_token_tensor.tolist()
    pad = 0 if config._pad_token_tensor is None else int(config._pad_token_tensor)
    longest = getattr(base.config, "max_position_embeddings", None)
    length = input_ids.shape[1]
    if config.max_new_tokens is not None:
        new = config.max_new_tokens
    elif has_length:
        new = config.max_length - length
    else:  # what transformers does without any length
        new = config.max_length if longest is None else min(config.max_length, longest - length)
    if new < 1:
        raise ValueError(f"`max_length`={config.max_length} ends at a prompt of {length} tokens: set `max_new_tokens`")
    return IntrospectiveSettings(
        config=config,
        **own,
        max_new_tokens=new,
        eos_token_ids=eos,
        pad_token_id=pad,
        criteria=_criteria(config, stopping_criteria, tokenizer),
    )


def check_prompt(base: PreTrainedModel, input_ids: Any) -> torch.LongTensor:
    """The prompts (B, P); raises a `ValueError` for what is not tokens, is empty, or is longer than the base takes,
    and for a base whose attention takes no masks."""
    check_attention(base)
    prompt = prepare_prompt(None, input_ids)
    longest = getattr(base.config, "max_position_embeddings", None)
    if longest is not None and prompt.shape[1] > longest:
        raise ValueError(
            f"a prompt of {prompt.shape[1]} tokens exceeds the {longest} positions of the model: shorten it"
        )
    vocabulary = base.get_input_embeddings().weight.shape[0]
    if not 0 <= int(prompt.min()) <= int(prompt.max()) < vocabulary:
        raise ValueError(
            f"`input_ids` has ids outside of the {vocabulary} of the model: was it made by its tokenizer?"
        )
    return prompt


def unpadded(
    prompt: torch.LongTensor, attention_mask: torch.Tensor | None, settings: IntrospectiveSettings
) -> tuple[Integers, Integers]:
    """
    The prompts without their padding, on the host.

    Args:
        prompt (`torch.LongTensor` of shape `(B, P)`): Padded on the left.
        attention_mask (`torch.Tensor` of shape `(B, P)`, *optional*): 0 for padding. By default padding is what has
            the id of padding, unless that is an EOS too, as in transformers.
        settings ([`IntrospectiveSettings`]): Has these ids.

    Returns:
        `(Integers, Integers)`: The tokens (B, P) from column 0 on, and the lengths (B,) of the prompts.

    Raises:
        `ValueError`: For a mask of another shape, padding that is not on the left, or a row without a token.
    """
    padding = settings.pad_token_id
    if attention_mask is None and settings.config.pad_token_id is not None and padding not in settings.eos_token_ids:
        attention_mask = prompt != padding
    mask = prepare_padding(prompt, attention_mask)
    tokens, length = prompt.cpu().numpy(), prompt.shape[1]
    if mask is None:
        return tokens, np.full(len(tokens), length)
    lengths = mask.sum(dim=1).cpu().numpy()
    columns = (np.arange(length) + length - lengths[:, None]) % length
    return np.take_along_axis(tokens, columns, axis=1), lengths


def _criteria(
    config: GenerationConfig, stopping_criteria: Any, tokenizer: PreTrainedTokenizerBase | None
) -> StoppingCriteriaList:
    criteria = prepare_criteria(stopping_criteria)
    if config.max_time is not None:
        criteria.append(MaxTimeCriteria(max_time=config.max_time))
    if config.stop_strings is not None:
        if tokenizer is None:
            raise ValueError("`stop_strings` are found in text: pass the `tokenizer` too")
        criteria.append(StopStringCriteria(stop_strings=config.stop_strings, tokenizer=tokenizer))
    return criteria
