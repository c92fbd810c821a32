"""The only list of the model families. All facts about a family are stated by its class."""

from .layers import MaskedDiffusionPreTrainedModel
from .modeling_dream import DreamModel
from .modeling_llada import LLaDAModelLM
from .modeling_llada2_moe import LLaDA2MoeModelLM
from .modeling_lladamoe import LLaDAMoEModelLM
from .modeling_sdar_moe import SDARMoeForCausalLM


FAMILIES: tuple[type[MaskedDiffusionPreTrainedModel], ...] = (
    LLaDAModelLM,
    DreamModel,
    LLaDAMoEModelLM,
    LLaDA2MoeModelLM,
    SDARMoeForCausalLM,
)

_registered = {model_class.config_class.model_type: model_class for model_class in FAMILIES}


def families() -> tuple[type[MaskedDiffusionPreTrainedModel], ...]:
    """[`FAMILIES`] and the families added by `register_family`."""
    return tuple(_registered.values())


def find_family(model_type: str | None) -> type[MaskedDiffusionPreTrainedModel] | None:
    """The model class of a family.

    Args:
        model_type (`str`, *optional*): `config.model_type`.

    Returns:
        `type[MaskedDiffusionPreTrainedModel]` or `None`: `None` if there is no such family.
    """
    return _registered.get(model_type or "")


def family_names() -> str:
    """The names of all families, for messages: "LLaDA or Dream"."""
    *others, last = (family.display_name or model_type for model_type, family in _registered.items())
    return f"{', '.join(others)} or {last}"


def add_family(model_class: type[MaskedDiffusionPreTrainedModel]) -> None:
    """Adds a family to the list. It replaces a family of the same `model_type`.

    Args:
        model_class (`type[MaskedDiffusionPreTrainedModel]`): The class with the LM head.

    Raises:
        `ValueError`: For a class that does not state the facts of its family.
    """
    name = getattr(model_class, "__name__", repr(model_class))
    if not (isinstance(model_class, type) and issubclass(model_class, MaskedDiffusionPreTrainedModel)):
        raise ValueError(f"{name} is not a family: derive its class from MaskedDiffusionPreTrainedModel.")
    if not getattr(model_class.config_class, "model_type", ""):
        raise ValueError(f"{name} has no config class with a `model_type`: state `config_class`.")
    if not any("logits_shift" in vars(parent) for parent in _family_classes(model_class)):
        raise ValueError(f"{name} does not state its `logits_shift`: 0 or 1, see MaskedDiffusionPreTrainedModel.")
    _registered[model_class.config_class.model_type] = model_class


def _family_classes(model_class: type[MaskedDiffusionPreTrainedModel]) -> list[type]:
    """A class and its parents, up to the base class shared by all families."""
    return list(model_class.__mro__[: model_class.__mro__.index(MaskedDiffusionPreTrainedModel)])
