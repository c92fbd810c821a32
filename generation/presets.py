"""The published decoders, each as values of one loop."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A named set of decoding parameters that reproduces one published method.

    Args:
        name (`str`): Name for `generate(preset=...)`.
        summary (`str`): The method in one line.
        source (`str`): Paper, arXiv number and section of the values.
        values (`dict[str, Any]`): Fields of [`DiffusionGenerationConfig`] that differ from the defaults.
    """

    name: str
    summary: str
    source: str
    values: dict[str, Any]

    def values_for(self, preset_values: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The values for one family.

        Args:
            preset_values (`dict[str, dict[str, Any]]`): What differs, by the name of the preset: a class attribute of
                the model.
        """
        return {**self.values, **preset_values.get(self.name, {})}


# d3LLM's decoder without what its cache needs.
D3LLM: dict[str, Any] = {
    "score": "entropy",
    "selection": "threshold",
    "threshold": 0.5,
    "forced_progress": "best_and_first_block",
    "block_size": 32,
    "block_add_threshold": 0.1,
    "block_activate_threshold": 0.95,
    "early_stop": True,
}

D2F: dict[str, Any] = {
    "score": "probability",
    "selection": "threshold",
    "threshold": 0.9,
    "forced_progress": "every_block",
    "block_size": 32,
    "block_add_threshold": 0.1,
    "block_activate_threshold": 0.95,
    "attention": "block_causal",
    "cache": "block",
    "cache_delay": 0,
}

# Decoders of block-causal models: one block after another, whose size is the model's; the cache is exact.
BLOCK_DIFFUSION: dict[str, Any] = {
    "score": "probability",
    "attention": "block_causal",
    "cache": "block",
    "cache_delay": 0,
    "early_stop_rule": "block",
}

DINFER: dict[str, Any] = {
    "score": "probability",
    "selection": "threshold",
    "threshold": 0.9,
    "block_size": 32,
    "cache": "dual",
    "leave_completed_blocks": True,
}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="llada",
            summary="the surest token of the current block, one block after another",
            source="LLaDA, arXiv 2502.09992, section 2.4 and appendix B.4",
            values={"score": "probability", "selection": "count", "block_size": 32},
        ),
        Preset(
            name="dream",
            summary="whole canvas, a share of the masks per forward along a linear time grid, by entropy",
            source="Dream 7B, arXiv 2508.15487, section 3 (alg = entropy)",
            values={"score": "entropy", "selection": "fraction", "block_size": None, "eps": 1e-3},
        ),
        Preset(
            name="dream_origin",
            summary="whole canvas, each mask with a probability that a linear time grid gives, at random",
            source="Dream 7B, arXiv 2508.15487, section 3 (alg = origin)",
            values={"score": "random", "selection": "bernoulli", "block_size": None, "eps": 1e-3},
        ),
        Preset(
            name="fast_dllm",
            summary="every token above a probability, block by block, with a cache rebuilt at each block",
            source="Fast-dLLM, arXiv 2505.22618, sections 3.2 and 3.3",
            values={
                "score": "probability",
                "selection": "threshold",
                "threshold": 0.9,
                "block_size": 32,
                "cache": "dual",
            },
        ),
        Preset(
            name="fast_dllm_factor",
            summary="as many tokens as are probable enough for their rank, block by block, with a cache",
            source="Fast-dLLM, arXiv 2505.22618, section 3.3 (factor)",
            values={
                "score": "probability",
                "selection": "factor",
                "factor": 1.0,
                "block_size": 32,
                "cache": "dual",
            },
        ),
        Preset(
            name="frechet",
            summary="as many tokens as are surely right together, block by block, with a cache",
            source="Fast-dLLM++, arXiv 2606.02955 (margin 0.25, prefix cache)",
            values={
                "score": "probability",
                "selection": "frechet",
                "frechet_margin": 0.25,
                "block_size": 32,
                "cache": "prefix",
                "leave_completed_blocks": True,
            },
        ),
        Preset(
            name="wedlm",
            summary="every token below an entropy, which is lower the further it is from the first mask",
            source="WeDLM, arXiv 2512.22737 (threshold 0.6, penalty 0.02, window 16)",
            values={
                "score": "entropy",
                "selection": "threshold",
                "threshold": 0.6,
                "position_penalty": 0.02,
                "block_size": 16,
                "block_add_threshold": 0.0,
                "max_active_blocks": 2,
            },
        ),
        Preset(
            name="dkv_cache",
            summary="LLaDA's order with a cache of tokens, each one forward after it was committed",
            source="dKV-Cache, arXiv 2505.15781, section 3 (dKV-Cache-Decode)",
            values={
                "score": "probability",
                "selection": "count",
                "block_size": 32,
                "cache": "delayed",
                "cache_delay": 1,
                "cache_refresh_interval": 8,
            },
        ),
        Preset(
            name="dparallel",
            summary="every token below an entropy, block by block",
            source="dParallel, arXiv 2509.26488, section 3",
            values={"score": "entropy", "selection": "threshold", "threshold": 0.5, "block_size": 32},
        ),
        Preset(
            name="d2f",
            summary="block-causal attention, several blocks in a pipeline, exact cache; for models trained so",
            source="D2F, arXiv 2508.09192, section 3.4 (pipelined parallel decoding)",
            values=D2F,
        ),
        Preset(
            name="d3llm",
            summary="several blocks at once by entropy, early stop, optional block cache with delay and refresh",
            source="d3LLM, arXiv 2601.07568, entropy-based multi-block decoding",
            values={**D3LLM, "cache_delay": 2, "cache_refresh_interval": 3},
        ),
        Preset(
            name="self_speculative",
            summary="llada's text, token by token, with guessed states verified in each forward",
            source="FreeDave, arXiv 2510.00294; docs/decoding.md says how it is done here",
            values={
                "score": "probability",
                "selection": "count",
                "block_size": 32,
                "draft_states": 8,
            },
        ),
        Preset(
            name="self_speculative_left_to_right",
            summary="one token after another from left to right, with guessed states verified in each forward",
            source="FreeDave, arXiv 2510.00294; docs/decoding.md says how it is done here",
            values={"score": "position", "selection": "count", "block_size": 32, "draft_states": 8},
        ),
        Preset(
            name="lopa",
            summary="d2f with branches: of several ways to fill the canvas the surest is kept",
            source="LoPA, arXiv 2512.16229 (branches of D2F)",
            values=D2F | {"branches": 3},
        ),
        Preset(
            name="sdar",
            summary="block-causal: every token above a probability, at least one a forward, with an exact cache",
            source="SDAR, arXiv 2510.06303, low-confidence dynamic decoding (threshold 0.85)",
            values=BLOCK_DIFFUSION | {"selection": "threshold_or_count", "threshold": 0.85},
        ),
        Preset(
            name="sdar_static",
            summary="block-causal: the surest tokens of the block, as many as scheduled, with an exact cache",
            source="SDAR, arXiv 2510.06303, low-confidence static decoding",
            values=BLOCK_DIFFUSION | {"selection": "count"},
        ),
        Preset(
            name="sdar_sequential",
            summary="block-causal: from left to right, as many tokens as scheduled, with an exact cache",
            source="SDAR, arXiv 2510.06303, sequential decoding",
            values=BLOCK_DIFFUSION | {"selection": "count", "score": "position"},
        ),
        Preset(
            name="trado",
            summary="sdar with TraDo's threshold",
            source="TraceRL, arXiv 2509.06949 (dynamic sampling, threshold 0.9)",
            values=BLOCK_DIFFUSION | {"selection": "threshold_or_count", "threshold": 0.9},
        ),
        Preset(
            name="fast_dllm_v2",
            summary="block-causal: every token above a probability, in blocks inside those of the attention",
            source="Fast-dLLM v2, arXiv 2509.26328, section 3.3",
            values=BLOCK_DIFFUSION
            | {"selection": "threshold", "threshold": 0.9, "block_size": 8, "early_stop_rule": "no_gap"},
        ),
        Preset(
            name="llada2",
            summary="block-causal: every token above a probability, at least one a forward, with an exact cache",
            source="LLaDA2.0, arXiv 2512.15745 (threshold 0.95)",
            values=BLOCK_DIFFUSION
            | {"selection": "threshold_or_count", "threshold": 0.95, "early_stop_rule": "new_eos"},
        ),
        Preset(
            name="multi_bd",
            summary="block-causal: several blocks at once, but never more than a few, with an exact cache",
            source="Multi-Block Diffusion, arXiv 2606.29215 (thresholds 0.1, 0.9 and 0.95)",
            values=BLOCK_DIFFUSION
            | {
                "selection": "threshold",
                "threshold": 0.95,
                "forced_progress": "every_block",
                "block_add_threshold": 0.1,
                "block_activate_threshold": 0.9,
                "max_active_blocks": 4,
            },
        ),
        Preset(
            name="llada21_quality",
            summary="llada2 that also revises decoded tokens of the block that it is surer of",
            source="LLaDA2.1, arXiv 2602.08676 (quality mode: thresholds 0.95 and 0.9)",
            values=BLOCK_DIFFUSION | {"selection": "threshold_or_count", "threshold": 0.95, "edit_threshold": 0.9},
        ),
        Preset(
            name="llada21_speed",
            summary="llada2 that drafts at a low threshold and revises what it proposes otherwise",
            source="LLaDA2.1, arXiv 2602.08676 (speed mode: thresholds 0.5 and 0)",
            values=BLOCK_DIFFUSION | {"selection": "threshold_or_count", "threshold": 0.5, "edit_threshold": 0.0},
        ),
        Preset(
            name="dmax",
            summary="from left to right up to the first doubt; the block is revised, and its tokens are soft inputs",
            source="DMax, arXiv 2604.08302 (soft parallel decoding; thresholds 0.5 and 0.9)",
            values={
                "score": "probability",
                "selection": "prefix",
                "threshold": 0.5,
                "block_size": 32,
                "edit_threshold": 0.0,
                "edit_forwards": 32,
                "edit_until": 0.9,
                "soft_inputs": True,
                "early_stop_rule": "block",
            },
        ),
        Preset(
            name="dinfer_threshold",
            summary="every token above a probability, block by block, with a cache rebuilt at each block",
            source="dInfer, arXiv 2510.08666 (threshold decoder)",
            values=DINFER,
        ),
        Preset(
            name="dinfer_hierarchical",
            summary="also the surest token of each run of masks, so that what is left falls apart into short runs",
            source="dInfer, arXiv 2510.08666 (hierarchical decoder: thresholds 0.9 and 0.4)",
            values=DINFER | {"selection": "runs", "run_threshold": 0.4},
        ),
        Preset(
            name="dinfer_credit",
            summary="every token above a probability to which earlier forwards have added, block by block",
            source="CreditDecoding, arXiv 2510.06133, and dInfer, arXiv 2510.08666 (credit decoder)",
            values=DINFER | {"credit_weight": 0.7, "credit_power": 0.2, "credit_decay": 0.8},
        ),
        Preset(
            name="dinfer_vicinity",
            summary="every token above a probability; what is near the block is recomputed with it",
            source="dInfer, arXiv 2510.08666 (vicinity cache: 16 positions on either side, 4 forwards of warm-up)",
            values=DINFER | {"cache": "vicinity", "cache_margin": 16, "cache_delay": 4},
        ),
        Preset(
            name="refusion",
            summary="causal: slots in any order, each drafted at once and verified from left to right, exact cache",
            source="ReFusion, arXiv 2512.13586, table 6 (the values for MBPP)",
            values={
                "score": "probability",
                "selection": "slots",
                "attention": "causal",
                "block_size": 128,
                "slot_size": 32,
                "slot_threshold": 0.9,
                "token_threshold": 0.3,
                "cache": "block",
                "early_stop": True,
            },
        ),
        Preset(
            name="d3llm_opened",
            summary="d3llm with a cache whose window is the opened blocks, however long the canvas",
            source="d3LLM, arXiv 2601.07568; the cache is this package's (docs/decoding.md)",
            values={**D3LLM, "cache": "opened", "cache_delay": 1},
        ),
    )
}
