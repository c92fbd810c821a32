"""Accuracy under parallelism: tasks, results, AUP, the leaderboard."""

if __name__ != "d3llm.evaluation":  # a second copy of every class
    raise ImportError("evaluation is a part of d3llm: import d3llm.evaluation.")

from .batches import (
    DecodedBatch,
    DecodedRow,
    decoding_fields,
    generate_as_rows_finish,
    generate_in_batches,
    resolve_generation_config,
)
from .decoding import DecodedPrompt, DecodingResult, evaluate_decoding, wilson_interval
from .differences import Difference, method_differences
from .factors import Factors, curve_factors
from .measurer import Measurer, Point, measure
from .prompts import PromptLine, encode_prompt, read_prompts
from .resampling import Estimate, Resampling
from .result import Result, read_result, read_results
from .results_file import ResultsFile
from .tasks import TASKS, Sample, Task, load_task


__all__ = [
    "TASKS",
    "DecodedBatch",
    "DecodedPrompt",
    "DecodedRow",
    "DecodingResult",
    "Difference",
    "Estimate",
    "Factors",
    "Measurer",
    "Point",
    "PromptLine",
    "Resampling",
    "Result",
    "ResultsFile",
    "Sample",
    "Task",
    "curve_factors",
    "decoding_fields",
    "encode_prompt",
    "evaluate_decoding",
    "generate_as_rows_finish",
    "generate_in_batches",
    "load_task",
    "measure",
    "method_differences",
    "read_prompts",
    "read_result",
    "read_results",
    "resolve_generation_config",
    "wilson_interval",
]
