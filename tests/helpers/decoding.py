"""Prompts, methods and a streamer for the tests of the decoder."""

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from d3llm.generation import PRESETS
from d3llm.modeling import DreamModel, LLaDAModelLM


FAMILIES = [LLaDAModelLM, DreamModel]
# The presets that any of them decodes with.
OPEN_PRESETS = [name for name, preset in PRESETS.items() if preset.values.get("attention") != "causal"]
MASK, EOS = 63, 0


def prompts(lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 60, (length,), generator=generator) for length in lengths]


def left_pad(rows, pad=EOS):
    longest = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([torch.full((longest - len(row),), pad), row]) for row in rows])
    mask = torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in rows])
    return ids, mask


METHODS = {
    "llada": {"preset": "llada", "steps": 24},
    "dream": {"preset": "dream", "steps": 20},
    "origin": {"preset": "dream_origin", "steps": 20, "seed": 3},
    "dparallel": {"preset": "dparallel", "threshold": 1.0},
    "fast_dllm-none": {"preset": "fast_dllm", "threshold": 0.5, "cache": "none"},
    "fast_dllm-prefix": {"preset": "fast_dllm", "threshold": 0.5, "cache": "prefix"},
    "fast_dllm-dual": {"preset": "fast_dllm", "threshold": 0.5, "cache": "dual"},
    "d3llm": {"preset": "d3llm", "threshold": 1.0},
    "d3llm-block": {"preset": "d3llm", "threshold": 1.0, "cache": "block", "cache_refresh_interval": 4},
    "d3llm-every-block": {
        "preset": "d3llm",
        "threshold": 1.0,
        "forced_progress": "every_block",
        "block_activate_threshold": 0.5,
    },
    "dkv_cache": {"preset": "dkv_cache", "steps": 24, "cache_refresh_interval": 4},
    "d2f": {"preset": "d2f", "threshold": 0.6, "block_add_threshold": 0.5},
    "factor": {"preset": "fast_dllm_factor", "factor": 0.7},
    "frechet": {"preset": "frechet", "frechet_margin": 0.05},
    "wedlm": {"preset": "wedlm", "threshold": 1.0, "position_penalty": 0.1},
    "few-blocks": {"preset": "d3llm", "threshold": 1.5, "block_add_threshold": 0.0, "max_active_blocks": 3},
    "entropy-bound": {"selection": "entropy_bound", "entropy_bound": 1.0},
    "scheduled": {"preset": "fast_dllm", "selection": "scheduled_threshold", "threshold": 0.4, "steps": 24},
    "guided": {"preset": "llada", "cfg_scale": 0.5, "steps": 24},
    "guided-cached": {"preset": "fast_dllm", "cfg_scale": 0.5, "threshold": 0.5},
    "published-edge": {"preset": "fast_dllm", "threshold": 0.5, "window_edge": "published"},
}


# The families differ in the row that a window starts with, so a method with each kind of window runs with both.
WINDOWED = {"fast_dllm-dual", "d3llm-block", "dkv_cache", "published-edge"}


def families_in_turn(methods):
    """Each method with one family and then the other, for the fixture `model`; what is not needed of it is slow."""
    pairs = []
    for index, method in enumerate(methods):
        for turn, name in enumerate(("llada", "dream")):
            marks = () if index % 2 == turn or method in WINDOWED else pytest.mark.slow
            pairs.append(pytest.param(FAMILIES[turn], method, id=f"{name}-{method}", marks=marks))
    return pairs


class RecordingStreamer(BaseStreamer):
    def __init__(self):
        self.events = []

    def put(self, value):
        self.events.append(("put", value.tolist()))

    def put_draft(self, value):
        self.events.append(("draft", value.tolist()))

    def end(self):
        self.events.append(("end", None))
