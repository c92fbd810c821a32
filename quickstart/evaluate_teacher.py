"""Measures a teacher on word problems it has not seen."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from ..common.files import write_atomically
from ..evaluation import evaluate_decoding
from ..modeling.modeling_llada import LLaDAModelLM
from .problems import extract_answer, generate_problems


def evaluate_teacher(
    checkpoint: str | os.PathLike,
    num_problems: int = 500,
    seed: int = 0,
    split: str = "test",
    preset: str = "llada",
    batch_size: int = 50,
    output_file: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """
    Decodes unseen problems and counts exact answers.

    Args:
        checkpoint (`str` or `PathLike`): Folder of the model and its tokenizer.
        num_problems (`int`, *optional*, defaults to 500): Number of problems.
        seed (`int`, *optional*, defaults to 0): Seed with which they are drawn.
        split (`str`, *optional*, defaults to `"test"`):
            Split of the problems. Use `"validation"` to choose between checkpoints, and `"test"` only for the final
            figure.
        preset (`str`, *optional*, defaults to `"llada"`): Decoding preset; `llada` commits one token per forward.
        batch_size (`int`, *optional*, defaults to 50): Rows decoded at once, left-padded.
        output_file (`str` or `PathLike`, *optional*): JSON file to write the result to.

    Returns:
        `dict`: Settings, `accuracy` with its 95 % Wilson interval, tokens per forward, and counts by number of steps.
    """
    model = LLaDAModelLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    problems = generate_problems(split, num_problems, seed)
    options: dict[str, Any] = {"max_new_tokens": 96, "block_size": 32, "early_stop": True}
    decoded = evaluate_decoding(
        model,
        tokenizer,
        [problem.question for problem in problems],
        lambda index, text: extract_answer(text) == problems[index].answer,
        preset=preset,
        batch_size=batch_size,
        **options,
    )
    by_steps: dict[str, dict[str, int]] = {}
    for problem, record in zip(problems, decoded.records, strict=True):
        counts = by_steps.setdefault(str(problem.signature.count(",") + 1), {"correct": 0, "problems": 0})
        counts["correct"] += record.correct
        counts["problems"] += 1
    result = {
        "split": split,
        "problems": num_problems,
        "seed": seed,
        "preset": preset,
        "batch_size": batch_size,
        **options,
        "correct": sum(record.correct for record in decoded.records),
        "accuracy": decoded.accuracy,
        "accuracy_interval": list(decoded.accuracy_interval),
        "interval": "95 % Wilson",
        "tokens_per_forward": decoded.tokens_per_forward,
        "by_steps": dict(sorted(by_steps.items())),
        "dtype": str(next(model.parameters()).dtype),
        "device": "cpu",
        "torch": torch.__version__,
    }
    if output_file is not None:
        write_atomically(Path(output_file), json.dumps(result, indent=2).encode() + b"\n")
    return result
