"""The tokenizer of a model in a GGUF file: byte-level BPE, as llama.cpp reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase


if TYPE_CHECKING:
    from gguf import GGUFWriter

# llama.cpp's names of the ways to split a text into words, by the pattern in tokenizer.json. Without a pattern it is
# GPT-2's own.
SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    None: "gpt-2",
}


def add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, *, rows: int
) -> list[str]:
    """
    Adds a tokenizer with its special tokens and chat template to a GGUF file.

    Args:
        writer (`GGUFWriter`): The file.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        config (`PretrainedConfig`): The model's, with the ids of mask, EOS and padding.
        rows (`int`): Rows of the embedding: llama.cpp wants a token for each.

    Returns:
        `list[str]`: What llama.cpp will lack, a sentence each.
    """
    writer.add_mask_token_id(config.mask_token_id)
    end = config.eos_token_id
    special = {
        "bos": tokenizer.bos_token_id,
        "eos": end[0] if isinstance(end, list) else end,
        "pad": config.pad_token_id,
        "unk": tokenizer.unk_token_id,
    }
    for name, token in special.items():
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    parts = _parts(tokenizer)
    if parts.get("model", {}).get("type") != "BPE" or not _is_byte_level(parts):
        writer.add_tokenizer_model("none")
        return ["The tokenizer is not byte-level BPE, so it is not in the file: llama.cpp takes token ids alone."]
    tokens, types = token_list(tokenizer, rows)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in parts["model"]["merges"]]
    writer.add_token_merges(merges)
    first = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id])
    pattern = _pattern(parts)
    writer.add_tokenizer_pre(SPLITS.get(pattern, "default"))
    if pattern in SPLITS:
        return []
    return [
        "llama.cpp's name of how the tokenizer splits words is not known: give it with --override-kv "
        "tokenizer.ggml.pre=str:NAME."
    ]


def token_list(tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[list[str], list[int]]:
    """
    The tokens by id, and llama.cpp's types of them.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        rows (`int`): How many there must be; ids without a token become unused ones.
    """
    from gguf import TokenType

    by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens = [by_id.get(token_id, f"[PAD{token_id}]") for token_id in range(rows)]
    types = [TokenType.NORMAL if token_id in by_id else TokenType.UNUSED for token_id in range(rows)]
    for token_id, token in added.items():
        if token_id < rows:
            types[token_id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    return tokens, [int(kind) for kind in types]


def _parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The parts of a fast tokenizer, as in tokenizer.json; of any other none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else json.loads(backend.to_str())


def _steps(parts: dict[str, Any]) -> list[dict[str, Any]]:
    step = parts.get("pre_tokenizer") or {}
    return step.get("pretokenizers", [step])


def _is_byte_level(parts: dict[str, Any]) -> bool:
    return any(step.get("type") == "ByteLevel" for step in _steps(parts))


def _pattern(parts: dict[str, Any]) -> str | None:
    """The pattern that splits a text into words; `None` if it is that of GPT-2."""
    splits = [step["pattern"].get("Regex", "") for step in _steps(parts) if step.get("type") == "Split"]
    if splits:
        return "\n".join(splits)
    byte_level = next(step for step in _steps(parts) if step["type"] == "ByteLevel")
    return None if byte_level.get("use_regex", True) else ""
