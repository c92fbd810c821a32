"""Model classes, registered with the Auto classes on import."""

if __name__ != "d3llm.modeling":  # a second copy of every class
    raise ImportError("modeling is a part of d3llm: import d3llm.modeling.")

import transformers
from transformers import AutoConfig

from .configuration_dream import DreamConfig
from .configuration_fast_dllm_qwen import Fast_dLLM_QwenConfig
from .configuration_llada import LLaDAConfig
from .configuration_llada2_moe import LLaDA2MoeConfig
from .configuration_lladamoe import LLaDAMoEConfig
from .configuration_mmada import MMadaConfig
from .configuration_refusion import ReFusionConfig
from .configuration_sdar import SDARConfig
from .configuration_sdar_moe import SDARMoeConfig
from .drafter import Drafter
from .drafter_config import DrafterConfig
from .families import FAMILIES, add_family, families, family_names, find_family
from .introspective_model import IntrospectiveModel
from .layers import MaskedDiffusionPreTrainedModel
from .modeling_dream import DreamModel
from .modeling_fast_dllm_qwen import Fast_dLLM_QwenForCausalLM
from .modeling_llada import LLaDAModelLM
from .modeling_llada2_moe import LLaDA2MoeModelLM
from .modeling_lladamoe import LLaDAMoEModelLM
from .modeling_mmada import MMadaModelLM
from .modeling_refusion import ReFusionForCausalLM
from .modeling_sdar import SDARForCausalLM
from .modeling_sdar_moe import SDARMoeForCausalLM
from .remote_code import AUTO_CLASSES


def register_family(model_class: type[MaskedDiffusionPreTrainedModel]) -> None:
    """
    Registers a family with this package and with the Auto classes of transformers.

    Args:
        model_class (`type[MaskedDiffusionPreTrainedModel]`): The class with the LM head, which states the facts of its
            family: see [`MaskedDiffusionPreTrainedModel`]. It replaces a family of the same `model_type`.

    Raises:
        `ValueError`: For a class that does not state these facts.
    """
    add_family(model_class)
    config_class = model_class.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class in AUTO_CLASSES:
        getattr(transformers, auto_class).register(config_class, model_class, exist_ok=True)


for family in FAMILIES:
    register_family(family)

__all__ = [
    "FAMILIES",
    "Drafter",
    "DrafterConfig",
    "DreamConfig",
    "DreamModel",
    "Fast_dLLM_QwenConfig",
    "Fast_dLLM_QwenForCausalLM",
    "IntrospectiveModel",
    "LLaDA2MoeConfig",
    "LLaDA2MoeModelLM",
    "LLaDAConfig",
    "LLaDAMoEConfig",
    "LLaDAMoEModelLM",
    "LLaDAModelLM",
    "MMadaConfig",
    "MMadaModelLM",
    "ReFusionConfig",
    "ReFusionForCausalLM",
    "SDARConfig",
    "SDARForCausalLM",
    "SDARMoeConfig",
    "SDARMoeForCausalLM",
    "families",
    "family_names",
    "find_family",
    "register_family",
]
