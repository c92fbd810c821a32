"""The decoder: one loop, of which every published method is a preset."""

from .canvas_cache import CanvasCache
from .configuration_diffusion import DiffusionGenerationConfig
from .decoding_diffusion import DiffusionGenerationMixin
from .output_diffusion import DiffusionGenerationOutput
from .presets import PRESETS, Preset
from .streamers import CanvasSpan, CanvasSpanStreamer


__all__ = [
    "PRESETS",
    "CanvasCache",
    "CanvasSpan",
    "CanvasSpanStreamer",
    "DiffusionGenerationConfig",
    "DiffusionGenerationMixin",
    "DiffusionGenerationOutput",
    "Preset",
]
