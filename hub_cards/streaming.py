"""Checks whether a tokenizer's text can be streamed: the text of a prefix must not change as more tokens follow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Text that tokenizers treat specially: equations, punctuation, contractions, code with indents, lists, other scripts.
SAMPLES = (
    "Tom has 3 * 4 = 12 pens, doesn't he? He'll give <<12 - 5 = 7>>7 away. #### 7",
    'Let $x = \\frac{1}{2}$ ; then ( x + 1 ) / 2 = 0.75 !\n\n1. First : "yes" .\n2. Second - no',
    "def f(x):\n    return [i ** 2 for i in range(x) if i != 3]  # squares\n",
    "Naïve café, 東京は日本の首都です。 Привет 🙂👩‍👩‍👧 !",
)
# Number of tokens that a streamer gets at once: single tokens, a few accepted drafts, blocks of the usual lengths.
LENGTHS = (1, 2, 3, 4, 8, 16, 32)


def streamed(tokenizer: PreTrainedTokenizerBase, token_ids: list[int], length: int, **decode_kwargs: bool) -> str:
    """
    What a `TextStreamer` of transformers prints for tokens that arrive a few at a time, without the last newline.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        token_ids (`list[int]`): The tokens.
        length (`int`): Number of tokens that arrive at once.
        decode_kwargs: Arguments of `tokenizer.decode`, such as `skip_special_tokens`.
    """
    import torch
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(tokenizer, **decode_kwargs)
    for chunk in torch.tensor(token_ids, dtype=torch.long).split(length):
        streamer.put(chunk)
    streamer.end()
    return "".join(streamer)


def line_by_line(tokenizer: PreTrainedTokenizerBase, token_ids: list[int], **decode_kwargs: bool) -> str:
    """
    The text of tokens when each line is decoded separately, as `TextStreamer` did before transformers 5.24. Whoever
    downloads the tokenizer may still have such a release.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        token_ids (`list[int]`): The tokens.
        decode_kwargs: Arguments of `tokenizer.decode`, such as `skip_special_tokens`.
    """
    lines, start = "", 0
    for end in range(1, len(token_ids) + 1):
        line = tokenizer.decode(token_ids[start:end], **decode_kwargs)
        if line.endswith("\n") or end == len(token_ids):
            lines, start = lines + line, end
    return lines


def streaming_faults(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """
    Warns if streamed text differs from the text decoded as a whole, with an example.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.

    Returns:
        `list[str]`: At most one warning.
    """
    for token_ids in _sequences(tokenizer):
        for skip in (True, False):
            whole = tokenizer.decode(token_ids, skip_special_tokens=skip)
            for seen in (
                *(streamed(tokenizer, token_ids, length, skip_special_tokens=skip) for length in LENGTHS),
                line_by_line(tokenizer, token_ids, skip_special_tokens=skip),
            ):
                if seen != whole:
                    return [_warning(seen, whole)]
    return []


def _sequences(tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """The tokens of each sample, and of all samples with special tokens in between."""
    encoded = [tokenizer.encode(sample, add_special_tokens=False) for sample in SAMPLES]
    yield from encoded
    special = tokenizer.all_special_ids
    if special:
        ends = [special[i % len(special)] for i in range(len(encoded))]
        yield [token for ids, end in zip(encoded, ends, strict=True) for token in (end, *ids[:20], end, end)]


def _warning(seen: str, whole: str) -> str:
    at = next((i for i, (one, other) in enumerate(zip(whole, seen, strict=False)) if one != other), len(seen))
    part = slice(max(0, at - 10), at + 15)
    return (
        f"streamed text will differ from the decoded text, such as {seen[part]!r} for {whole[part]!r}: the text of a "
        "token depends on the tokens before or after it"
    )


def folder_streaming_faults(folder: Path) -> list[str]:
    """
    As [`streaming_faults`], for the tokenizer in a folder. A tokenizer that needs code from the folder is not checked.

    Args:
        folder (`Path`): A model's folder.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return streaming_faults(tokenizer)
    except Exception:  # faults of the tokenizer itself are reported elsewhere, and not every tokenizer loads here
        return []
