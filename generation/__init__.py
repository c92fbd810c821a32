"""The decoder: one loop, of which every published method is a preset."""

from .canvas_cache import CanvasCache
from .configuration_diffusion import DiffusionGenerationConfig
from .decoding_diffusion import DiffusionGenerationMixin
from .output_diffusion import DiffusionGenerationOutput
from .presets import PRESETS, Preset


__all__ = [
    "PRESETS",
    "CanvasCache",
    "DiffusionGenerationConfig",
    "DiffusionGenerationMixin",
    "DiffusionGenerationOutput",
    "Preset",
]
