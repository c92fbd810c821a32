"""Accuracy under parallelism: tasks, results, AUP, the leaderboard."""

if __name__ != "d3llm.evaluation":  # a second copy of every class
    raise ImportError("evaluation is a part of d3llm: import d3llm.evaluation.")

from .batches import (
    DecodedBatch,
    DecodedRow,
    decoding_fields,
    generate_in_batches,
    resolve_generation_config,
)
from .decoding import DecodedPrompt, DecodingResult, evaluate_decoding, wilson_interval
from .prompts import PromptLine, encode_prompt, read_prompts
from .results_file import ResultsFile


__all__ = [
    "DecodedBatch",
    "DecodedPrompt",
    "DecodedRow",
    "DecodingResult",
    "PromptLine",
    "ResultsFile",
    "decoding_fields",
    "encode_prompt",
    "evaluate_decoding",
    "generate_in_batches",
    "read_prompts",
    "resolve_generation_config",
    "wilson_interval",
]
