"""A result as `d3llm eval` writes it, of samples that are all alike."""

import json
from pathlib import Path
from typing import Any

from d3llm.common.fingerprints import fingerprint_files
from d3llm.evaluation.result import SCHEMA, Result, summarize


FORWARDS = 10  # of each sample


def whole_result(
    correct: int = 80, tokens_per_forward: float = 3.0, num_samples: int = 100, **changes: Any
) -> dict[str, Any]:
    """A result with so many correct samples, 0.1 seconds each; `changes` are made to it last."""
    samples = [
        {
            "id": str(index),
            "correct": index < correct,
            "tokens": round(FORWARDS * tokens_per_forward),
            "forwards": FORWARDS,
            "seconds": 0.1,
        }
        for index in range(num_samples)
    ]
    return {
        "schema": SCHEMA,
        "task": "gsm8k_cot",
        "title": "GSM8K-CoT",
        "checker": "exact value or text",
        "data": "0123456789abcdef",
        "num_samples": num_samples,
        "batch_size": 2,
        "method": "ours",
        "model": "model",
        "weights": "0123456789abcdef",
        "dtype": "float32",
        "assistant_model": None,
        "source": "openai/gsm8k",
        "split": "test",
        "chat": False,
        "point": {"threshold": 0.4},
        "decoding": {"preset": "d3llm", "threshold": 0.4, "block_size": 32, "max_new_tokens": 96},
        **summarize(samples),
        "hardware": {"device": "Example CPU", "threads": 2, "processes": 1},
        "versions": {"python": "3.11.7", "d3llm": "0.1.0"},
        **changes,
    }


def measured(correct: int = 80, tokens_per_forward: float = 3.0, **changes: Any) -> Result:
    """The same as what `read_result` gives."""
    return Result.from_dict(whole_result(correct, tokens_per_forward, **changes))


def settings(**changes: Any) -> dict[str, Any]:
    """What `measure` is told besides the task: the fields of a result from `method` to `decoding`."""
    result = whole_result()
    names = list(result)
    return {name: result[name] for name in names[names.index("method") : names.index("decoding") + 1]} | changes


def write_result(path: Path, folder: Path, **changes: Any) -> Path:
    """A result of the weights in a folder: 3 of 4 samples are correct, at 4 tokens per forward."""
    weights = fingerprint_files([folder / "config.json", *sorted(folder.glob("*.safetensors"))])
    result = whole_result(**{"correct": 3, "tokens_per_forward": 4.0, "num_samples": 4, "weights": weights, **changes})
    path.write_text(json.dumps(result))
    return path


def results_in(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if ".samples." not in path.name]
