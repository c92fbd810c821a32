"""The decoder for third-party checkpoints: the function of a `custom_generate` repository.

It works with any LLaDA- or Dream-like class whose forward takes the whole canvas and has no canvas cache. In
`transformers`, `model.generate(ids, custom_generate=REPO, trust_remote_code=True, preset="d3llm")` calls it.
"""

import inspect
from types import SimpleNamespace

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import logging

from ..generation.decoding_diffusion import DiffusionGenerationMixin
from ..generation.output_diffusion import DiffusionGenerationOutput
from ..generation.presets import PRESETS
from ..modeling.families import family_names, find_family
from ..modeling.layers import MaskedDiffusionPreTrainedModel


logger = logging.get_logger(__name__)


class FinishedHead:
    """Stands in for the LM head of a model whose forward already runs it."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


class AdaptedModel(DiffusionGenerationMixin):
    """
    Adapts a third-party model to the interface that the decoder expects.

    Args:
        model (`PreTrainedModel`): A model whose forward returns logits over the whole canvas.
        logits_shift (`int`): 0 if row `i` of the logits predicts position `i`, 1 if it predicts `i + 1`.
    """

    logit_rows = MaskedDiffusionPreTrainedModel.logit_rows

    def __init__(self, model: PreTrainedModel, logits_shift: int):
        self.model = model
        self.logits_shift = logits_shift
        family = find_family(model.config.model_type, [type(model).__name__])
        self.preset_values = family.preset_values if family else {}
        self.attention = family.attention if family else None
        self.attention_block_size = None
        self.dtype = model.dtype
        self.generation_config = model.generation_config
        longest = [getattr(model.config, name, None) for name in ("max_position_embeddings", "max_sequence_length")]
        self.config = SimpleNamespace(
            model_type=model.config.model_type,
            vocab_size=model.config.get_text_config().vocab_size,
            mask_token_id=getattr(model.config, "mask_token_id", None),
            max_position_embeddings=next((length for length in longest if length is not None), None),
            _attn_implementation="sdpa",
        )
        self.parameters = inspect.signature(model.forward).parameters

    def diffusion_config(self, generation_config=None, kwargs=None, *args, **settings):
        kwargs = kwargs or {}
        if kwargs.get("cache") not in (None, "none"):
            raise ValueError(f"`cache`={kwargs['cache']!r}: this model's forward has no canvas cache, omit it")
        if kwargs.get("compile_config") is not None:
            raise ValueError("`compile_config` is not supported for a model of another class: omit it")
        config = super().diffusion_config(generation_config, {**kwargs, "cache": "none"}, *args, **settings)
        if config.attention != "bidirectional":
            raise ValueError(
                f"`attention`={config.attention!r} needs a class of d3llm: load the model with this package"
            )
        if config.soft_inputs:
            raise ValueError("`soft_inputs` needs a class of d3llm: load the model with this package")
        if config.preset and PRESETS[config.preset].values_for(self.preset_values).get("cache", "none") != "none":
            logger.warning_once(f"preset {config.preset!r} runs without its cache, which this model lacks")
        return config

    def get_output_embeddings(self) -> FinishedHead:
        return FinishedHead()

    def __call__(
        self,
        input_ids: torch.LongTensor,
        position_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None,
        logits_to_keep: torch.LongTensor,
        run_head: bool,
        return_dict: bool,
    ) -> CausalLMOutput:
        """Returns logits in place of hidden states, since third-party forwards run their head."""
        inputs = {"input_ids": input_ids}
        if "return_dict" in self.parameters:
            inputs["return_dict"] = return_dict
        if attention_mask is not None:
            attention_mask = attention_mask[:, 0, 0]  # of padding alone: the same for every position
            inputs["attention_mask"] = attention_mask
            if "position_ids" in self.parameters:  # Dream: padding shifts the positions, and the mask is pairwise
                seen = attention_mask.bool()[:, None, None]
                inputs |= {"attention_mask": seen & seen.transpose(2, 3), "position_ids": position_ids}
        logits = self.model(**inputs).logits
        kept = logits.gather(1, logits_to_keep[..., None].expand(-1, -1, logits.shape[-1]))
        return CausalLMOutput(hidden_states=(kept,))


def generate(
    model: PreTrainedModel, inputs: torch.LongTensor | None = None, logits_shift: int | None = None, **kwargs
) -> torch.LongTensor | DiffusionGenerationOutput:
    """
    Decode with any preset, using a LLaDA- or Dream-like model.

    Args:
        model (`PreTrainedModel`): The model.
        inputs (`torch.LongTensor` of shape `(B, P)`): Left-padded prompts; also accepted as `input_ids`.
        logits_shift (`int`, *optional*): 0 if row `i` of the logits predicts position `i` (LLaDA), 1 if it predicts
            `i + 1` (Dream). For the families of this package it is known from `config.model_type`.
        kwargs: As for `generate` of `d3llm`. There is no cache: presets with a cache run without it.

    Returns:
        `torch.LongTensor` of shape `(B, P + N)`, or [`DiffusionGenerationOutput`] with
        `return_dict_in_generate=True`.

    Raises:
        `ValueError`: For an unknown family without `logits_shift`, and for features that need a class of `d3llm`:
            `cache`, `compile_config`, `soft_inputs`, block-causal attention.
    """
    if logits_shift is None:
        family = find_family(model.config.model_type, [type(model).__name__])
        logits_shift = family.logits_shift if family else None
    if logits_shift not in (0, 1):
        raise ValueError(
            f"model_type={model.config.model_type!r} is not {family_names()}: pass `logits_shift`=0 if row i of the "
            "logits predicts position i, 1 if it predicts i + 1"
        )
    kwargs.pop("synced_gpus", None)  # `GenerationMixin` passes all its arguments, most of them `None`
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    return AdaptedModel(model, logits_shift).generate(inputs, **kwargs)
