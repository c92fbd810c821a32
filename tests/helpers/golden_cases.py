"""Recorded decoding runs of the published implementations, and how their parameters are said here."""

import json
from typing import Any

import torch

from tests.helpers.golden import GOLDEN


TRACES = (
    "llada_vanilla",
    "vanilla_dream",
    "dparallel_llada",
    "dparallel_dream",
    "fastdllm_llada",
    "fastdllm_dream",
    "fastdllm_factor_llada",
    "fastdllm_whole_dream",
    "dkv_llada",
    "d2f_llada",
    "d3llm_llada",
    "d3llm_dream",
    "sdar",
    "llada2",
    "lladamoe_vanilla",
)

# Recorded runs that are not to be matched: the reference is wrong in them.
LEFT_OUT = {
    "reference_bug:kv_cache_holds_duplicate_positions": (
        "d3LLM's cache for Dream: after a refresh it holds more positions than its recorded length says, so later "
        "forwards attend to some keys twice. Here the cache is one buffer over the canvas; a position has one slot."
    ),
    "reference_bug:tokens_written_after_eos": (
        "d3LLM's early stop: in the last forward, positions after the first EOS are decoded over the EOS fill. Here "
        "what follows the first EOS is always filled."
    ),
}


def load_cases() -> list[tuple[str, dict[str, Any]]]:
    """(trace file, case) of every recorded run that counts."""
    cases = []
    for trace in TRACES:
        recorded = json.loads((GOLDEN / "traces" / f"{trace}.json").read_text())["cases"]
        cases += [(trace, case) for case in recorded if not case.get("notes")]
    return cases


def d3llm_arguments(function: str, params: dict[str, Any]) -> dict[str, Any]:
    arguments = {
        "preset": "d3llm",
        "threshold": params.get("threshold"),
        "block_add_threshold": params["block_add_threshold"],
        "block_activate_threshold": params["decoded_token_threshold"],
    }
    # d3LLM's Dream code takes its function without a cache from a delay of 10,000 on
    if "kv" in function or ("refresh_interval" in params and params["cache_delay_iter"] < 10000):
        arguments |= {
            "cache": "block",
            "cache_delay": params["cache_delay_iter"],
            "cache_refresh_interval": params["refresh_interval"],
        }
    if params.get("eos_token_id") is not None:
        arguments["eos_token_id"] = params["eos_token_id"]
    return arguments


def generation_arguments(trace: str, case: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` that say what the recorded call said."""
    return (block_diffusion_arguments if trace in BLOCK_DIFFUSION else bidirectional_arguments)(trace, case)


def bidirectional_arguments(trace: str, case: dict[str, Any]) -> dict[str, Any]:
    params, function = case["params"], case["function"]
    arguments = {
        "max_new_tokens": params.get("gen_length", params.get("max_new_tokens")),
        "early_stop": params.get("early_stop", False),
        "window_edge": "published",
        "cfg_scale": params.get("cfg_scale", 0.0),
    }
    block_size = params.get("block_size", params.get("block_length"))
    if block_size is not None:
        arguments["block_size"] = block_size
    threshold = params.get("threshold")
    if trace == "d2f_llada":
        scores = {"default": None, "neg_entropy": "entropy", "margin_confidence": "margin"}
        arguments |= {
            "preset": "d2f",
            # D2F opens no more blocks after an EOS, so its canvas may end early: no block sees a later one
            "max_new_tokens": len(case["output_ids"]) - len(case["prompt_ids"]),
            "threshold": params["skip_threshold"],
            "block_add_threshold": params["block_add_threshold"],
            "block_activate_threshold": params["decoded_token_threshold"],
            "forced_score": scores[params["sampling_strategy"]],
        }
    elif "decoded_token_threshold" in params:
        arguments |= d3llm_arguments(function, params)
    elif trace == "vanilla_dream":
        scores = {"entropy": "entropy", "maskgit_plus": "probability", "topk_margin": "margin"}
        arguments |= {
            "preset": "dream",
            "steps": params["steps"],
            "eps": params["eps"],
            "score": scores[params["alg"]],
        }
    elif "factor" in params:
        cache = params["use_cache"] or "none"
        arguments |= {"preset": "fast_dllm_factor", "factor": params["factor"], "cache": cache}
    elif trace == "dkv_llada":
        refresh = params["cache_reloading_step"] if params["enable_cache"] else 1
        arguments |= {"preset": "dkv_cache", "cache_refresh_interval": refresh, "steps": params["steps"]}
    elif trace == "fastdllm_whole_dream":
        arguments |= {"preset": "fast_dllm", "cache": "none", "block_size": params["max_new_tokens"]}
        arguments |= {"selection": "scheduled_threshold", "threshold": threshold, "steps": params["steps"]}
    elif trace.startswith("fastdllm"):
        dual, prefix = "dual_cache" in function or params.get("dual_cache"), "dual_cache" in params
        prefix = prefix or "prefix" in function
        arguments |= {"preset": "fast_dllm", "cache": "dual" if dual else "prefix" if prefix else "none"}
        if threshold is not None:
            arguments["threshold"] = threshold
        elif params.get("alg") == "entropy":
            arguments |= {"selection": "fraction", "score": "entropy", "steps": params["steps"]}
        else:
            arguments |= {"selection": "count", "steps": params["steps"]}
    elif threshold is not None:
        cache = "prefix" if "prefix" in function else "dual" if "dual" in function else "none"
        arguments |= {"preset": "dparallel", "threshold": threshold, "cache": cache}
    else:
        arguments |= {"preset": "llada", "steps": params["steps"]}
    return arguments


# The published decoders of block-causal models, and the presets of SDAR's strategies.
BLOCK_DIFFUSION = {"sdar", "llada2"}
STRATEGIES = {
    "low_confidence_static": "sdar_static",
    "low_confidence_dynamic": "sdar",
    "sequential": "sdar_sequential",
}


def recorded_canvas(case: dict[str, Any]) -> list[int]:
    """The whole canvas after the last forward, some of which the call may not have returned."""
    return case.get("final_x") or case["output_ids"]


def block_diffusion_arguments(trace: str, case: dict[str, Any]) -> dict[str, Any]:
    """The published canvas is rounded up to whole blocks, and `steps` are those of a block."""
    params, length = case["params"], len(recorded_canvas(case))
    size = params["block_length"]
    blocks = -(-length // size) - len(case["prompt_ids"]) // size
    arguments = {"max_new_tokens": length - len(case["prompt_ids"]), "block_size": size, "attention_block_size": size}
    if trace == "llada2":
        arguments |= {"preset": "llada2", "threshold": params["threshold"], "eos_token_id": params["eos_id"]}
        steps = params["steps"]
        # without its early stop, the published code still ends after a block with an EOS
        arguments["early_stop_rule"] = "new_eos" if params["eos_early_stop"] else "block"
    else:
        arguments |= {"preset": STRATEGIES[params["remasking_strategy"]], "early_stop": False}
        steps = params["denoising_steps"]
        if arguments["preset"] == "sdar":
            arguments["threshold"] = params["confidence_threshold"]
        if stops := params.get("stopping_criteria_idx"):
            arguments |= {"early_stop": True, "eos_token_id": stops}
    return arguments | {"steps": steps * blocks}


def recorded_end(case: dict[str, Any], eos_token_id: int | list[int] | None, steps: torch.Tensor) -> int:
    """How many generated tokens to compare: a run that an EOS ended leaves masks, and here what follows is filled."""
    generated = recorded_canvas(case)[len(case["prompt_ids"]) :]
    ids = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id or []
    return next((n for n, token in enumerate(generated, 1) if token in ids and steps[0, n - 1] > 0), len(generated))


def recorded_commit_steps(case: dict[str, Any]) -> torch.Tensor:
    """The forward that committed each generated position (rows, N), counted from 1; -1 = not recorded."""
    if "first_commit_step" in case:
        return torch.tensor(case["first_commit_step"]).reshape(1, -1)
    outputs, prompts = torch.tensor(recorded_canvas(case)), torch.tensor(case["prompt_ids"])
    prompt_length = prompts.shape[-1]
    if "x_before_each_forward" in case:
        states = torch.tensor(case["x_before_each_forward"])[:, :, prompt_length:]
        return (states == case["params"]["mask_token_id"]).sum(dim=0)
    steps = torch.full_like(outputs.reshape(-1, outputs.shape[-1])[:, prompt_length:], -1)
    for forward, changes in enumerate(case["steps"], start=1):
        for row, row_changes in enumerate(changes if outputs.ndim == 2 else [changes]):
            for position, _ in row_changes:
                steps[row, position - prompt_length] = forward
    return steps
