"""What a model decoded where it was recorded, to find a machine on which it decodes something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..common.files import write_atomically


RECORD = "recorded_decoding.json"


def decode_cases(model: PreTrainedModel, prompts: list[torch.Tensor], options: dict[str, Any]) -> list[dict[str, Any]]:
    """
    Decodes prompts, each alone.

    Args:
        model (`PreTrainedModel`): The model.
        prompts (`list[torch.LongTensor]`): The prompts, each of shape `(1, P)`.
        options (`dict[str, Any]`): Fields of `DiffusionGenerationConfig`.

    Returns:
        `list[dict[str, Any]]`: `prompt`, `tokens` and `commit_steps` of each, lists of integers.
    """
    cases = []
    for prompt in prompts:
        output = model.generate(prompt, return_dict_in_generate=True, **options)
        tokens = output.sequences[0, prompt.shape[1] :].tolist()
        cases.append({"prompt": prompt[0].tolist(), "tokens": tokens, "commit_steps": output.commit_steps[0].tolist()})
    return cases


def write_record(folder: Path, cases: list[dict[str, Any]], options: dict[str, Any]) -> Path:
    """
    Writes what a model decoded into its folder.

    Args:
        folder (`Path`): The folder.
        cases (`list[dict[str, Any]]`): From [`decode_cases`].
        options (`dict[str, Any]`): The fields that they were decoded with.

    Returns:
        `Path`: The file.
    """
    lines = ",\n".join(f"  {json.dumps(case)}" for case in cases)
    text = f'{{\n "torch": "{torch.__version__}",\n "options": {json.dumps(options)},\n "cases": [\n{lines}\n ]\n}}\n'
    write_atomically(folder / RECORD, text.encode())
    return folder / RECORD


def recorded_fault(model: PreTrainedModel, folder: Path) -> str | None:
    """
    Whether a model decodes what was recorded in its folder, tokens and commit steps.

    Args:
        model (`PreTrainedModel`): The model.
        folder (`Path`): Its folder, which need not have a record.

    Returns:
        `str`, *optional*: What differs.

    Raises:
        `ValueError`: For a record that is damaged.
    """
    if not (folder / RECORD).is_file():
        return None
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        options, cases = dict(record["options"]), list(record["cases"])
        prompts = [torch.tensor([case["prompt"]], dtype=torch.long, device=model.device) for case in cases]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / RECORD} is damaged: remove it") from error
    differing = sum(now != then for now, then in zip(decode_cases(model, prompts, options), cases, strict=True))
    if differing:
        return f"{differing} of {len(cases)} recorded answers are others here (torch {record.get('torch')} then)"
    return None
