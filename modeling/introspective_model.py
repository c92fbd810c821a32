"""A causal model and its drafter, with a `generate()` of the same text in fewer forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from ..generation.introspective import IntrospectiveGenerationMixin
from .checkpoint import load_errors
from .drafter import Drafter
from .drafter_files import read_drafter
from .packed_weights import PackedWeights


class IntrospectiveModel(IntrospectiveGenerationMixin):
    """
    A causal model that drafts for itself.

    Args:
        drafter ([`Drafter`]): With its base, whose weights stay as they are. It is put into the form in which it
            decodes, see [`Drafter.for_decoding`].
        pack_weights (`bool`): Whether a base in float32 on a CPU multiplies by copies of its weights that suit few
            rows, see [`~d3llm.modeling.packed_weights.PackedWeights`]. They take the memory of the weights again.

    Example:

    ```python
    >>> from d3llm import IntrospectiveModel

    >>> model = IntrospectiveModel.from_pretrained("drafter", base_model="SmolLM2-135M-Instruct")
    >>> output = model.generate(**inputs, max_new_tokens=128, return_dict_in_generate=True)
    >>> output.tokens_per_forward
    ```
    """

    def __init__(self, drafter: Drafter, pack_weights: bool = True):
        self.drafter = drafter.for_decoding()
        self.base = drafter.base.eval()
        self.packed = PackedWeights(drafter.linear_layers() if pack_weights else ())

    @classmethod
    def from_pretrained(
        cls,
        drafter_folder: str | Path,
        base_model: PreTrainedModel | str | Path | None = None,
        pack_weights: bool = True,
        **kwargs: Any,
    ) -> IntrospectiveModel:
        """
        Loads a drafter and its base.

        Args:
            drafter_folder (`str` or `Path`): As written by `Drafter.save_pretrained`.
            base_model (`PreTrainedModel`, `str` or `Path`, *optional*): The base, its folder, or its name on the Hub;
                by default the one that the drafter names.
            pack_weights (`bool`): As for the class.
            kwargs: For `AutoModelForCausalLM.from_pretrained`: `dtype`, `device_map`, `attn_implementation` and so on.

        Returns:
            [`IntrospectiveModel`]: For evaluation.

        Raises:
            `OSError`: For a folder that lacks a file, or has a damaged one.
            `ValueError`: For a drafter of another base, or a base that cannot draft.
        """
        base: Any = base_model
        if base is None:
            base = read_drafter(Path(drafter_folder))[0].base_name
            if base is None:
                raise ValueError(f"The drafter in {drafter_folder} does not name its base: pass `base_model`.")
        if isinstance(base, (str, Path)):
            with load_errors(base, "base model"):
                base = AutoModelForCausalLM.from_pretrained(base, **kwargs)
        return cls(Drafter.from_pretrained(drafter_folder, base), pack_weights)

    @property
    def config(self) -> PretrainedConfig:
        """The config of the base."""
        return self.base.config

    @property
    def generation_config(self) -> GenerationConfig:
        """The generation config of the base."""
        return self.base.generation_config

    @property
    def device(self) -> torch.device:
        """The device that prompts go to."""
        return self.base.device
