"""What a model decoded where it was recorded, to find a machine on which it decodes something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from transformers import PreTrainedModel
from typing_extensions import NotRequired, TypedDict

from ..common.files import write_atomically
from ..common.fingerprints import fingerprint, fingerprint_checkpoint, fingerprint_files
from ..common.schema import check


RECORD = "recorded_decoding.json"


class Case(TypedDict):
    """A prompt and what was decoded, see [`decode_cases`]."""

    prompt: Annotated[list[int], Field(min_length=1)]
    tokens: list[int]
    commit_steps: list[int]


class Record(TypedDict):
    """What the file says."""

    torch: NotRequired[str]
    decoding: NotRequired[str]
    options: dict[str, Any]
    cases: list[Case]


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
    head = {"torch": torch.__version__, "decoding": decoding_digest(folder), "options": options}
    text = "".join(f' "{name}": {json.dumps(value)},\n' for name, value in head.items())
    text = f'{{\n{text} "cases": [\n{lines}\n ]\n}}\n'
    write_atomically(folder / RECORD, text.encode())
    return folder / RECORD


def decoding_digest(folder: Path) -> str:
    """
    What a record is of: a digest of the weights and of how they decode by default.

    Args:
        folder (`Path`): A checkpoint folder.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    defaults = folder / "generation_config.json"
    return fingerprint([fingerprint_checkpoint(folder), fingerprint_files([defaults] if defaults.is_file() else [])])


def is_of_another_decoding(folder: Path) -> bool:
    """
    Whether the folder has changed since its record was made, as by `d3llm tune` or a training. Then the record says
    nothing about the machine. Records of earlier versions do not tell.

    Args:
        folder (`Path`): A folder with a record.

    Raises:
        `ValueError`: For a record that is damaged.
    """
    digest = decoding_digest(folder)
    return _read_record(folder).get("decoding", digest) != digest


def recorded_fault(model: PreTrainedModel, folder: Path) -> str | None:
    """
    Whether a model decodes what was recorded in its folder, tokens and commit steps.

    Args:
        model (`PreTrainedModel`): The model.
        folder (`Path`): Its folder, with a record.

    Returns:
        `str`, *optional*: What differs.

    Raises:
        `ValueError`: For a record that is damaged.
    """
    record = _read_record(folder)
    prompts = [torch.tensor([case["prompt"]], device=model.device) for case in record["cases"]]
    found = zip(decode_cases(model, prompts, record["options"]), record["cases"], strict=True)
    differing = sum(now != then for now, then in found)
    if not differing:
        return None
    fault = f"{differing} of {len(prompts)} recorded answers are others here (torch {record.get('torch')} then)"
    if "decoding" in record:
        return fault
    return f"{fault}; if the folder was tuned or trained since, renew the record with --record"


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        return check(Record, json.loads((folder / RECORD).read_bytes()), RECORD)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / RECORD} is damaged: renew it with --record, or remove it") from error
