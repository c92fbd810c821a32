"""The rotary base in a model's config, under its old and its new name."""

from typing import Any


class PlainRotaryMixin:
    """For configs of models whose rotary embedding does not scale."""

    rope_theta: float

    def set_rotary_base(
        self, rope_theta: float, rope_scaling: dict[str, Any] | None, rope_parameters: dict[str, Any] | None
    ) -> None:
        """Sets `rope_theta` by the fields of config.json.

        Args:
            rope_theta (`float`): As servers and transformers 4 read and write it.
            rope_scaling (`dict[str, Any]`, *optional*): Refused if it scales.
            rope_parameters (`dict[str, Any]`, *optional*): As transformers 5 may write it; its base comes first.

        Raises:
            ValueError: For a `rope_scaling` that is not the default.
        """
        if rope_scaling and rope_scaling.get("rope_type", rope_scaling.get("type", "default")) != "default":
            raise ValueError(f"{type(self).__name__}.rope_scaling={rope_scaling} is not supported: use None")
        self.rope_theta = (rope_parameters or {}).get("rope_theta", rope_theta)

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()  # type: ignore[misc]
        output["rope_scaling"] = None  # in transformers 5 another name of `rope_parameters`
        return output
