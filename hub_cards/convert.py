"""Converts adapters, sharded checkpoints, and published folders with old code to clean model folders."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..common.files import remove_leftovers, whole_folder, write_atomically
from ..modeling.checkpoint import load_errors
from ..modeling.loading import load_model, read_config
from .cards import is_hub_id
from .facts import MODEL_FACTS, ModelFacts, read_facts
from .from_results import model_facts, read_json
from .merging import merge_adapters, restore_attention
from .push_checks import card_metadata
from .training_card import write_card


TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.jinja",
    "tokenization_*.py",
)


def convert(
    source: Path,
    output: Path,
    *,
    base_model: Path | None = None,
    license: str | None = None,
    base_model_id: str | None = None,
) -> ModelFacts:
    """
    Writes a model as a folder of this package: safetensors, config, code, tokenizer, card. It appears once it is
    complete.

    Args:
        source (`Path`): A LoRA adapter; a checkpoint of DeepSpeed (`global_step*`) or of FSDP
            (`pytorch_model_fsdp_0`); or a model's folder with the same keys, such as those published by d3LLM and
            dParallel.
        output (`Path`): The output folder.
        base_model (`Path`, *optional*): Folder of the adapter's base model, or of the model whose config and tokenizer
            a sharded checkpoint shares; by default the base model named by the adapter, or the checkpoint's own files.
        license (`str`, *optional*): SPDX id for the card, that of the base model; by default the one in `source`.
        base_model_id (`str`, *optional*): Hub id of the base model, for the card.

    Returns:
        [`ModelFacts`]: The facts on its card.

    Raises:
        `ValueError`: For a key that is missing, unexpected or of another shape, and for a card without a licence.
        `OSError`: For files that are missing or damaged, an output that exists, a full disk.
    """
    check_places(source, output)
    known, written_card = known_facts(source, license, base_model_id)
    if written_card is not None:
        _check_kept_card(written_card, source / "README.md", known)
    home = source  # the folder of config and tokenizer
    if (source / "adapter_config.json").is_file():
        named = read_json(source / "adapter_config.json").get("base_model_name_or_path") or ""
        if base_model is None and not isinstance(named, str):
            raise ValueError(f"{source} names {named!r:.60} as its base model: give the folder with --base-model.")
        home = base_model or Path(named)
        model = _merge(_load(home), source)
    elif any(source.glob("*.safetensors")):
        model = _load(source)
    else:
        home = base_model or source
        model = _fill(home, _sharded_state(source), source)
    with whole_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer = next((place for place in (source, home) if (place / "tokenizer_config.json").is_file()), None)
        if tokenizer is None:
            raise OSError(f"{home} has no tokenizer: name a folder that has one with --base-model.")
        for file in (file for pattern in TOKENIZER_FILES for file in tokenizer.glob(pattern)):
            shutil.copy(file, folder)
        facts = model_facts(folder, **{**known, "name": output.resolve().name})
        if written_card is not None:
            write_atomically(folder / "README.md", written_card.encode())
        else:
            write_card(folder, facts)
    return facts


def _check_kept_card(card: str, path: Path, known: dict[str, Any]) -> None:
    """Refuses facts that a card contradicts which is kept as it is."""
    stated = card_metadata(card)
    for name, flag in (("license", "--license"), ("base_model", "--base-model-id")):
        if name in known and stated.get(name, known[name]) != known[name]:
            raise ValueError(f"{path} is a hand-written card with another {name}, and stays: edit it, or omit {flag}.")


def check_places(source: Path, output: Path) -> None:
    """Raises an `OSError` if there is no source, or something in the place of the output."""
    if not source.is_dir():
        raise OSError(f"There is no folder {source}.")
    remove_leftovers(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OSError(f"{output} exists: name another folder, since nothing is overwritten.")


def known_facts(source: Path, license: str | None, base_model_id: str | None) -> tuple[dict[str, Any], str | None]:
    """What is known about a model before it is loaded, and its hand-written card for this package, which is kept."""
    known: dict[str, Any] = {}
    written_card = None
    if (source / MODEL_FACTS).is_file():
        before = read_facts(ModelFacts, source / MODEL_FACTS)
        provenance = ("license", "base_model", "teacher", "trajectories", "dataset", "recipe", "hyperparameters")
        kept = (*provenance, "conversion", "training_tasks", "tags")
        known = {name: getattr(before, name) for name in kept}
    elif (source / "README.md").is_file():
        text = (source / "README.md").read_text(encoding="utf-8")
        card = card_metadata(text)
        written_card = text if "d3llm" in (card.get("tags") or []) else None
        known = {name: card[name] for name in ("license", "base_model") if isinstance(card.get(name), str)}
    given = {"license": license, "base_model": base_model_id}
    known |= {name: value for name, value in given.items() if value is not None}
    if "license" not in known:
        raise ValueError(f"{source} names no licence: give that of its base model, --license apache-2.0.")
    if base_model_id is not None and not is_hub_id(base_model_id):
        raise ValueError(f"--base-model-id {base_model_id}: write the Hub's owner/name.")
    return known, written_card


def _load(folder: Path) -> PreTrainedModel:
    _check_config(folder)
    model = load_model(folder, local_files_only=True)
    if getattr(model, "is_quantized", False):
        raise ValueError(
            f"{folder} is quantized, so nothing is merged into its weights and they are not saved again: give the "
            "model before its quantization, for adapters with --base-model."
        )
    return model


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise OSError(f"{folder} has no config.json: name the base model's folder with --base-model.")


def _merge(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """A model with an adapter merged into its weights."""
    from peft import PeftModel, get_peft_model_state_dict

    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise OSError(f"{adapter} has no adapter_model.safetensors; pickled adapters are not read.")
    try:
        stored = load_file(file)
        adapted = PeftModel.from_pretrained(model, str(adapter))
    except SafetensorError as error:
        raise OSError(f"{file} is damaged: {error}") from error
    except RuntimeError as error:  # sizes that do not fit
        raise ValueError(f"{adapter} does not fit its base model: {str(error).splitlines()[-1].strip()}") from error
    wanted = get_peft_model_state_dict(adapted)
    _refuse(adapter, wanted.keys() - stored.keys(), stored.keys() - wanted.keys(), [])
    try:
        merged = merge_adapters(adapted)
    except (NotImplementedError, ValueError) as error:  # not every adapter can be merged
        kind = adapted.active_peft_config.peft_type.value
        raise ValueError(
            f"{adapter} holds adapters ({kind}) that cannot be merged into the weights: {error}"
        ) from error
    restore_attention(merged, adapter)
    return merged


def _sharded_state(source: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint to which every process saved its part."""
    shards = source / "pytorch_model_fsdp_0"
    if shards.is_dir():
        from accelerate.utils import merge_fsdp_weights

        with tempfile.TemporaryDirectory() as folder:
            merge_fsdp_weights(str(shards), folder)
            return load_file(Path(folder, "model.safetensors"))
    if any(source.glob("global_step*")):
        try:
            from deepspeed.utils.zero_to_fp32 import (  # type: ignore[import-not-found]
                get_fp32_state_dict_from_zero_checkpoint,
            )
        except ImportError as error:
            raise ValueError(f"Only DeepSpeed reads its checkpoint {source}: pip install deepspeed.") from error
        return get_fp32_state_dict_from_zero_checkpoint(str(source))
    raise OSError(
        f"{source} has no weights: neither *.safetensors nor a checkpoint of FSDP (pytorch_model_fsdp_0) or DeepSpeed "
        "(global_step*). Pickled weights are not read."
    )


def _fill(home: Path, state: dict[str, torch.Tensor], source: Path) -> PreTrainedModel:
    """A model with the config of a folder and exactly these weights, in their dtype."""
    _check_config(home)
    config = read_config(home, local_files_only=True)
    model = AutoModelForCausalLM.from_config(config, dtype=next(iter(state.values())).dtype)
    wanted = model.state_dict()
    stored = {wanted[name].data_ptr() for name in wanted.keys() & state.keys()}
    tied = {name for name in wanted if wanted[name].data_ptr() in stored}
    wrong_shape = [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
    _refuse(source, wanted.keys() - state.keys() - tied, state.keys() - wanted.keys(), wrong_shape)
    model.load_state_dict(state, strict=False)
    restore_attention(model, source)
    if (home / "generation_config.json").is_file():
        with load_errors(home, "generation_config.json"):
            model.generation_config = model.generation_config_class.from_pretrained(home)
    return model


def _refuse(source: Path, missing: Iterable[str], unexpected: Iterable[str], wrong_shape: Iterable[str]) -> None:
    """Raises a `ValueError` that names the first key that does not fit the model."""
    faults = (
        ("lacks", missing),
        ("contains an unexpected key,", unexpected),
        ("has another shape for", wrong_shape),
    )
    for what, found in faults:
        keys = sorted(found)
        if keys:
            raise ValueError(f"{source} {what} {keys[0]} ({len(keys)} in total). Nothing was converted.")
