"""Writes a model as a GGUF file for llama.cpp, with the keys and tensor names that its converter gives.

llama.cpp decodes LLaDA and Dream with `llama-diffusion-cli`; `llama-quantize` makes smaller files of this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import PretrainedConfig, PreTrainedModel

from ..common.files import whole_file
from ..generation.preparation import trained_attention
from ..modeling.loading import load_model, load_tokenizer
from .convert import known_facts
from .gguf_tokenizer import add_tokenizer


if TYPE_CHECKING:
    from gguf import GGUFWriter


class Architecture(NamedTuple):
    """
    How llama.cpp knows a family.

    Attributes:
        name (`str`): `general.architecture`.
        pairs_of_neighbours (`bool`): Whether its rotary embedding rotates neighbouring values rather than the two
            halves of a head, so that rows of the query and key projections change places.
        biases (`tuple[str, ...]`): Layers whose bias it adds.
    """

    name: str
    pairs_of_neighbours: bool
    biases: tuple[str, ...]


# By the dtype of most tensors.
FILE_TYPES = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}
# By the class in config.json.
ARCHITECTURES = {
    "LLaDAModelLM": Architecture("llada", True, ()),
    "DreamModel": Architecture("dream", False, ("q_proj", "k_proj", "v_proj")),
}


def convert_gguf(source: Path, output: Path, *, license: str | None = None) -> list[str]:
    """
    Writes a model as a GGUF file, its weights in their dtype. The file appears once it is complete.

    Args:
        source (`Path`): Folder of a LLaDA or Dream, with its tokenizer.
        output (`Path`): The file, `*.gguf`; it must not exist.
        license (`str`, *optional*): SPDX id, that of the base model; by default the one on the model's card.

    Returns:
        `list[str]`: What llama.cpp will lack, a sentence each.

    Raises:
        `ValueError`: For a model that llama.cpp would not compute as this package does.
        `OSError`: For files that are missing or damaged, an output that exists, a full disk.
        `ImportError`: Without the package `gguf`.
    """
    if output.suffix != ".gguf":
        raise ValueError(f"{output} is not named as a GGUF file: name a file that ends with .gguf.")
    if output.exists():
        raise OSError(f"{output} exists: name another file, since nothing is overwritten.")
    if not source.is_dir():
        raise OSError(f"There is no folder {source}.")
    try:
        import gguf
    except ImportError as error:
        raise ImportError("GGUF files are written by the package gguf: pip install d3llm[gguf]") from error
    known, _ = known_facts(source, license, None)
    model = load_model(source, local_files_only=True)
    architecture = _architecture_of(model, source)
    tokenizer = load_tokenizer(source, local_files_only=True)
    writer = gguf.GGUFWriter(None, architecture.name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(source.resolve().name)
    writer.add_license(known["license"])
    _add_shape(writer, model)
    warnings = add_tokenizer(writer, tokenizer, model.config, rows=model.get_input_embeddings().weight.shape[0])
    for name, tensor in _tensors(model, architecture):
        _add_tensor(writer, name, tensor)
    with whole_file(output) as file:
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return warnings


def _architecture_of(model: PreTrainedModel, source: Path) -> Architecture:
    name = type(model).__name__
    if name not in ARCHITECTURES:
        raise ValueError(f"{source} is a {name}: llama.cpp decodes {' and '.join(ARCHITECTURES)}.")
    if getattr(model, "is_quantized", False) or model.dtype not in FILE_TYPES:
        raise ValueError(f"{source} is quantized: give the model before its quantization.")
    if (trained_attention(model) or "bidirectional") != "bidirectional":
        raise ValueError(
            f"{source} was trained with {trained_attention(model)} attention: llama.cpp has no such mask."
        )
    architecture = ARCHITECTURES[name]
    for full_name, _ in model.named_parameters():
        layer, _, part = full_name.rpartition(".")
        if part == "bias" and not layer.endswith(architecture.biases):
            raise ValueError(f"{source} has {full_name}: llama.cpp computes {name} without it.")
    return architecture


def _add_shape(writer: GGUFWriter, model: PreTrainedModel) -> None:
    """The keys that describe the transformer, and those of its decoding."""
    import gguf

    config = model.config
    attention = next(module for module in model.modules() if hasattr(module, "num_key_value_groups"))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(_feed_forward(config))
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads // attention.num_key_value_groups)
    writer.add_rope_dimension_count(attention.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(model.get_input_embeddings().weight.shape[0])
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[model.dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_causal_attention(False)
    writer.add_diffusion_shift_logits(bool(model.logits_shift))


def _feed_forward(config: PretrainedConfig) -> int:
    return config.intermediate_size or config.mlp_ratio * config.hidden_size


def _tensors(model: PreTrainedModel, architecture: Architecture) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors under llama.cpp's names. A head that shares the embedding's weights is not stored again."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.name.upper()], model.config.num_hidden_layers)
    for name, tensor in model.named_parameters():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise ValueError(f"llama.cpp has no name for the tensor {name}.")
        if architecture.pairs_of_neighbours and name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
            tensor = _as_neighbours(tensor, model)
        yield stored, tensor.detach()


def _as_neighbours(rows: torch.Tensor, model: PreTrainedModel) -> torch.Tensor:
    """The rows (heads * head_dim, width) of a projection, those of the two halves of each head taken in turn."""
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def _add_tensor(writer: GGUFWriter, name: str, tensor: torch.Tensor) -> None:
    """A tensor in its dtype; vectors in float32, as llama.cpp needs them."""
    import gguf

    tensor = tensor.contiguous().cpu()
    if tensor.ndim == 1:
        tensor = tensor.float()
    if tensor.dtype == torch.bfloat16:
        raw = tensor.view(torch.uint8).numpy()
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.numpy())
