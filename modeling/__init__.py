"""Model classes, registered with the Auto classes on import."""

if __name__ != "d3llm.modeling":  # a second copy of every class
    raise ImportError("modeling is a part of d3llm: import d3llm.modeling.")

import transformers
from transformers import AutoConfig

from .configuration_dream import DreamConfig
from .configuration_llada import LLaDAConfig
from .layers import MaskedDiffusionPreTrainedModel
from .modeling_dream import DreamModel
from .modeling_llada import LLaDAModelLM
from .remote_code import AUTO_CLASSES, self_contained


for config_class, model_class in ((LLaDAConfig, LLaDAModelLM), (DreamConfig, DreamModel)):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class in AUTO_CLASSES:
        getattr(transformers, auto_class).register(config_class, model_class, exist_ok=True)

# Here and not in the class, which travels to places where there is nothing to flatten.
MaskedDiffusionPreTrainedModel.save_pretrained = self_contained(MaskedDiffusionPreTrainedModel.save_pretrained)

__all__ = ["DreamConfig", "DreamModel", "LLaDAConfig", "LLaDAModelLM"]
