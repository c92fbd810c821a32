"""The checks of `d3llm doctor --model`: the checkpoint, the memory it needs, and whether it decodes exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from ..generation.canvas_cache import CanvasCache
from ..generation.decoding_run import HEAD_ELEMENTS, MOST_ELEMENTS
from ..modeling.checkpoint import first_line
from ..modeling.loading import load_empty_model, load_model
from ..modeling.remote_code import flatten
from .doctor_check import Check
from .doctor_machine import choose_device, in_words, memory_of
from .doctor_recorded import RECORD, decode_cases, is_of_another_decoding, recorded_fault, write_record


PROMPTS = (3, 17, 9)  # tokens of the prompts of the self-test, which differ so that a batch has padding
NEW_TOKENS = 48
LENGTH = 1024
TOLERANCE = 1e-4  # of logits in float32, relative to the largest


class Memory(NamedTuple):
    """
    What decoding takes, in bytes.

    Attributes:
        weights (`int`): The weights.
        cache (`int`): Keys and values of the canvas.
        states (`int`): The largest states of a layer, and the logits of a chunk: an estimate.
    """

    weights: int
    cache: int
    states: int


def model_checks(
    name: str, *, device: str | None, batch_size: int, length: int | None, self_test: bool, compare: bool = True
) -> Iterator[Check]:
    """
    The checks of a model, one after another.

    Args:
        name (`str`): Folder or Hub id. Of a model on the Hub only config.json is read.
        device (`str`, *optional*): By default the GPU if there is one.
        batch_size (`int`): Rows of a batch.
        length (`int`, *optional*): Positions of the canvas; by default `LENGTH`, or all that the model has.
        self_test (`bool`): Whether to load the weights of a folder and decode.
        compare (`bool`, *optional*, defaults to `True`): Whether to compare with what was recorded in the folder.
    """
    try:
        model = load_empty_model(name)
    except (OSError, ValueError, ImportError) as error:
        yield Check("model", "error", " ".join(str(error).split()))
        return
    parameters = f"{sum(weight.numel() for weight in model.parameters()) / 1e6:,.1f} million parameters"
    found = f"{type(model).__name__}, {parameters}"
    longest = model.config.max_position_embeddings
    length = min(LENGTH, longest) if length is None else length
    if length > longest:
        yield Check("model", "error", f"{found}, canvas of at most {longest}", f"give --length {longest} or less")
        return
    yield Check("model", "ok", f"{found}, canvas of at most {longest}")
    try:
        chosen = choose_device(device)
        free = memory_of(chosen)[0]
    except (RuntimeError, AssertionError):  # said by the check of the device
        return
    memory = check_memory(model, name, chosen.type, batch_size=batch_size, length=length, free=free)
    yield memory
    if Path(name).is_dir():
        yield check_code(model, Path(name))
    if self_test and Path(name).is_dir() and memory.status != "error":
        yield check_decoding(name, chosen, compare=compare)


def needed_memory(model: PreTrainedModel, name: str, device: str, *, batch_size: int, length: int) -> Memory:
    """
    The memory that decoding takes.

    Args:
        model (`PreTrainedModel`): The model, which may be without weights.
        name (`str`): Its folder or Hub id.
        device (`str`): Type of the device.
        batch_size (`int`): Rows of a batch.
        length (`int`): Positions of the canvas.
    """
    config = model.config
    stated = getattr(config, "dtype", None) or torch.float32
    dtype = getattr(torch, stated) if isinstance(stated, str) else stated
    files = list(Path(name).glob("*.safetensors"))
    weights = sum(file.stat().st_size for file in files) or dtype.itemsize * sum(
        weight.numel() for weight in model.parameters()
    )
    attentions = [module for module in model.modules() if hasattr(module, "num_key_value_groups")]
    per_position = sum(
        2 * module.head_dim * (config.num_attention_heads // module.num_key_value_groups) for module in attentions
    )
    wide = config.intermediate_size or 4 * config.hidden_size
    states = batch_size * length * (6 * config.hidden_size + 3 * wide) * dtype.itemsize
    logits = 2 * 4 * min(HEAD_ELEMENTS.get(device, MOST_ELEMENTS), batch_size * length * config.vocab_size)
    return Memory(weights, batch_size * length * per_position * dtype.itemsize, states + logits)


def check_memory(model: PreTrainedModel, name: str, device: str, *, batch_size: int, length: int, free: int) -> Check:
    """
    Whether the model and a batch fit into memory.

    Args:
        model, name, device, batch_size, length: As in [`needed_memory`].
        free (`int`): Memory that is free, in bytes.
    """
    shape = {"batch_size": batch_size, "length": length}
    memory = needed_memory(model, name, device, **shape)
    rows = "row" if batch_size == 1 else "rows"
    found = (
        f"weights {in_words(memory.weights)}, cache {in_words(memory.cache)} and about {in_words(memory.states)} of "
        f"states for {batch_size} {rows} of {length} positions; {in_words(free)} free"
    )
    if sum(memory) <= free:
        return Check("memory", "ok", found)
    if memory.weights >= free:
        remedy = "quantize it (quantization_config), or split it over devices (device_map)"
        return Check("memory", "error", found, remedy)
    row = needed_memory(model, name, device, batch_size=1, length=length)
    fitting = (free - memory.weights) // (row.cache + row.states)
    remedy = f"--batch-size {fitting} fits" if fitting else "a shorter --length, or a quantized model"
    return Check("memory", "error", found, remedy)


def check_code(model: PreTrainedModel, folder: Path) -> Check:
    """
    Whether the code in a folder is that of this version.

    Args:
        model (`PreTrainedModel`): The model.
        folder (`Path`): Its folder.
    """
    present = {file.name for file in folder.glob("*.py")}
    if not present:
        return Check("code", "ok", "the folder has none: this package's is used")
    files = flatten(type(model).__module__, type(model.config).__module__)
    different = sorted(
        name
        for name, text in files.items()
        if name not in present or (folder / name).read_text(encoding="utf-8", errors="replace") != text
    )
    if different:
        found = f"{different[0]} and {len(different) - 1} more" if len(different) > 1 else different[0]
        remedy = f"only trust_remote_code runs it; to renew it: d3llm convert {folder} OUTPUT"
        return Check("code", "warning", f"{found} in the folder: not as this version writes it", remedy)
    return Check("code", "ok", "the code in the folder is that of this version")


def check_decoding(name: str, device: torch.device, compare: bool = True) -> Check:
    """
    Decodes a few random prompts: a batch must give what each prompt gives alone, and a window that reads the rest from
    the cache the logits of the whole canvas. What was recorded in the folder, if anything was, must come out again. In
    float32, since rounding differs between shapes.

    Args:
        name (`str`): The folder.
        device (`torch.device`): Where to decode.
        compare (`bool`, *optional*, defaults to `True`): Whether to compare with the record.
    """
    folder = Path(name)
    try:
        model = load_model(name, local_files_only=True, dtype=torch.float32).to(device)
        if not all(torch.isfinite(weight).all() for weight in model.parameters()):
            return Check("decoding", "error", "the weights hold values that are not numbers", "download them again")
        compare = compare and (folder / RECORD).is_file()
        outdated = compare and is_of_another_decoding(folder)
        recorded = recorded_fault(model, folder) if compare and not outdated else None
        faults = [fault for fault in (batch_fault(model), cache_fault(model), recorded) if fault]
    except Exception as error:  # whatever a model and its kernels raise
        return Check("decoding", "error", first_line(error), 'try --device cpu, or attn_implementation="eager"')
    if faults:
        return Check("decoding", "error", "; ".join(faults), "compare with --device cpu, and report it")
    found = "a batch decodes as its rows alone, a cached window as the whole canvas"
    if outdated:
        found = f"{found}; {RECORD} is of other weights or another decoding"
        return Check("decoding", "warning", found, f"renew it: d3llm doctor --model {name} --record")
    return Check("decoding", "ok", f"{found}, and the recorded answers come out again" if compare else found)


def record_decoding(folder: Path, device: torch.device) -> Path:
    """
    Records what a model decodes in float32 for the prompts of the self-test; see [`check_decoding`].

    Args:
        folder (`Path`): Its folder, where the record is written.
        device (`torch.device`): Where to decode.

    Returns:
        `Path`: The record.
    """
    model = load_model(folder, local_files_only=True, dtype=torch.float32).to(device)
    ids, options = _random_ids(model, len(PROMPTS), max(PROMPTS)), _options(model)
    prompts = [ids[row : row + 1, -length:] for row, length in enumerate(PROMPTS)]
    return write_record(folder, decode_cases(model, prompts, options), options)


def _options(model: PreTrainedModel) -> dict[str, Any]:
    """How the self-test decodes: by the model's own parameters, without an early stop."""
    room = model.config.max_position_embeddings - max(PROMPTS)
    return {"max_new_tokens": min(NEW_TOKENS, room), "early_stop": False}


def batch_fault(model: PreTrainedModel) -> str | None:
    """
    Whether a row of a batch is decoded as alone, tokens and commit steps.

    Args:
        model (`PreTrainedModel`): The model.

    Returns:
        `str`, *optional*: What differs.
    """
    prompts = _random_ids(model, len(PROMPTS), max(PROMPTS))
    padded, mask = prompts.clone(), torch.ones_like(prompts)
    for row, length in enumerate(PROMPTS):
        mask[row, : max(PROMPTS) - length] = 0
    options = {**_options(model), "return_dict_in_generate": True}
    batch = model.generate(padded, attention_mask=mask, **options)
    for row, length in enumerate(PROMPTS):
        alone = model.generate(prompts[row : row + 1, -length:], **options)
        new = alone.sequences.shape[1] - length
        if not torch.equal(batch.sequences[row, -new:], alone.sequences[0, -new:]):
            return f"row {row} of a batch is decoded otherwise than alone"
        if not torch.equal(batch.commit_steps[row], alone.commit_steps[0]):
            return f"row {row} of a batch commits in another order than alone"
    return None


@torch.no_grad()
def cache_fault(model: PreTrainedModel) -> str | None:
    """
    Whether the logits of a window that reads the rest from the cache are those of the whole canvas.

    Args:
        model (`PreTrainedModel`): The model.

    Returns:
        `str`, *optional*: What differs.
    """
    ids = _random_ids(model, 1, max(PROMPTS))
    length, start = ids.shape[1], ids.shape[1] // 2
    positions = torch.arange(length, device=ids.device)[None]
    whole = model(ids, position_ids=positions).logits
    cache = CanvasCache(model.config.num_hidden_layers, length)
    model(ids, position_ids=positions, cache=cache, cache_positions=slice(0, length))
    window = {"position_ids": positions[:, start:], "cache_positions": slice(start, length)}
    difference = (model(ids[:, start:], cache=cache, **window).logits - whole[:, start:]).abs().max()
    return None if difference <= TOLERANCE * whole.abs().max() else "a cached window has other logits than the canvas"


def _random_ids(model: PreTrainedModel, rows: int, length: int) -> torch.Tensor:
    """The same random tokens on every machine, (rows, length), without the mask token."""
    vocabulary = model.config.vocab_size
    ids = torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    return ids.where(ids != model.config.mask_token_id, (ids + 1) % vocabulary).to(model.device)
