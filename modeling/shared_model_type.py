"""Architectures that are published under the `model_type` of another one: `architectures` says which config it is."""

from typing import Any

from transformers import PretrainedConfig


_config_classes: dict[tuple[str, str], type[PretrainedConfig]] = {}


def share_model_type(model_type: str, architecture: str, config_class: type[PretrainedConfig]) -> None:
    """
    States which config class reads a config.json of an architecture with the `model_type` of another family.

    Args:
        model_type (`str`): The `model_type`; the config class it belongs to derives from [`SharedModelTypeMixin`].
        architecture (`str`): The first of `architectures`.
        config_class (`type[PretrainedConfig]`): The config class of the architecture.
    """
    _config_classes[model_type, architecture] = config_class


class SharedModelTypeMixin:
    """For the config class that the Auto classes take by a `model_type` which other architectures use too."""

    model_type: str

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> PretrainedConfig:
        """As in transformers; for another architecture with this `model_type`, the config is of its class."""
        architecture = next(iter(config_dict.get("architectures") or ()), "")
        other = _config_classes.get((cls.model_type, architecture))
        if other is None:
            return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
        return other.from_dict({**config_dict, "model_type": other.model_type}, **kwargs)
