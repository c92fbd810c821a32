"""The decoder: one loop, of which every published method is a preset."""

if __name__ != "d3llm.generation":  # a second copy of every class
    raise ImportError("generation is a part of d3llm: import d3llm.generation.")

from .canvas_cache import CanvasCache
from .configuration_diffusion import DiffusionGenerationConfig, register_preset
from .decoding_diffusion import DiffusionGenerationMixin
from .introspective import IntrospectiveGenerationMixin, IntrospectiveOutput
from .output_diffusion import DiffusionGenerationOutput
from .presets import PRESETS, Preset
from .selection import register_rule
from .streaming import CanvasSpan, CanvasSpanStreamer, CanvasStreamer


__all__ = [
    "PRESETS",
    "CanvasCache",
    "CanvasSpan",
    "CanvasSpanStreamer",
    "CanvasStreamer",
    "DiffusionGenerationConfig",
    "DiffusionGenerationMixin",
    "DiffusionGenerationOutput",
    "IntrospectiveGenerationMixin",
    "IntrospectiveOutput",
    "Preset",
    "register_preset",
    "register_rule",
]
