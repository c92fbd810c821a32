"""The only list of the model families. All facts about a family are stated by its class."""

from collections.abc import Sequence

from ..generation.fields import METHOD_DEFAULTS, check_names
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
from .shared_model_type import share_model_type


FAMILIES: tuple[type[MaskedDiffusionPreTrainedModel], ...] = (
    LLaDAModelLM,
    DreamModel,
    MMadaModelLM,
    SDARForCausalLM,
    Fast_dLLM_QwenForCausalLM,
    LLaDAMoEModelLM,
    LLaDA2MoeModelLM,
    SDARMoeForCausalLM,
    ReFusionForCausalLM,
)

_registered: dict[str, type[MaskedDiffusionPreTrainedModel]] = {}


def families() -> tuple[type[MaskedDiffusionPreTrainedModel], ...]:
    """[`FAMILIES`] and the families added by `register_family`."""
    return tuple(_registered.values())


def find_family(
    model_type: str | None, architectures: Sequence[str] | None = None
) -> type[MaskedDiffusionPreTrainedModel] | None:
    """The model class of a family. The first of `architectures` decides where it names a class of a family, since
    several of them may be published under one `model_type`; any other name does not count.

    Args:
        model_type (`str`, *optional*): `config.model_type`.
        architectures (`Sequence[str]`, *optional*): `config.architectures`.

    Returns:
        `type[MaskedDiffusionPreTrainedModel]` or `None`: `None` if there is no such family.

    Raises:
        `ValueError`: If the two name different families of this package.
    """
    named = next((family for family in families() if family.__name__ in (architectures or ())[:1]), None)
    by_type = _registered.get(model_type or "")
    accepted = (named.config_class.model_type, *named.hub_model_types) if named else ()
    if named and model_type in accepted:
        return named
    if named and by_type:
        raise ValueError(
            f"`model_type` {model_type!r} and `architectures` {named.__name__!r} name different models: of this class "
            f"it is {' or '.join(map(repr, accepted))}, so correct one of them in config.json."
        )
    return by_type


def family_names() -> str:
    """The names of all families, for messages: "LLaDA, Dream or SDAR"."""
    *others, last = (family.display_name or model_type for model_type, family in _registered.items())
    return f"{', '.join(others)} or {last}"


def add_family(model_class: type[MaskedDiffusionPreTrainedModel]) -> None:
    """Adds a family to the list. It replaces a family of the same `model_type`.

    Args:
        model_class (`type[MaskedDiffusionPreTrainedModel]`): The class with the LM head.

    Raises:
        `ValueError`: For a class that does not state the facts of its family, or values of presets that are not fields
            of a method.
    """
    name = getattr(model_class, "__name__", repr(model_class))
    if not (isinstance(model_class, type) and issubclass(model_class, MaskedDiffusionPreTrainedModel)):
        raise ValueError(f"{name} is not a family: derive its class from MaskedDiffusionPreTrainedModel.")
    if not getattr(model_class.config_class, "model_type", ""):
        raise ValueError(f"{name} has no config class with a `model_type`: state `config_class`.")
    if not any("logits_shift" in vars(parent) for parent in _family_classes(model_class)):
        raise ValueError(f"{name} does not state its `logits_shift`: 0 or 1, see MaskedDiffusionPreTrainedModel.")
    for values in model_class.preset_values.values():
        check_names(values, known=METHOD_DEFAULTS)
    _registered[model_class.config_class.model_type] = model_class
    for model_type in model_class.hub_model_types:
        share_model_type(model_type, model_class.__name__, model_class.config_class)


def _family_classes(model_class: type[MaskedDiffusionPreTrainedModel]) -> list[type]:
    """A class and its parents, up to the base class shared by all families."""
    return list(model_class.__mro__[: model_class.__mro__.index(MaskedDiffusionPreTrainedModel)])


for _family in FAMILIES:
    add_family(_family)
