"""Whether a tokenizer's text can be streamed: what a prefix decodes to must stay as more tokens follow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Text of every kind that tidying rules touch: equations, marks, contractions, code, lists, other scripts.
SAMPLES = (
    "Tom has 3 * 4 = 12 pens, doesn't he? He'll give <<12 - 5 = 7>>7 away. #### 7",
    'Let $x = \\frac{1}{2}$ ; then ( x + 1 ) / 2 = 0.75 !\n\n1. First : "yes" .\n2. Second - no',
    "def f(x):\n    return [i ** 2 for i in range(x) if i != 3]  # squares\n",
    "Naïve café, 東京は日本の首都です。 Привет 🙂👩‍👩‍👧 !",
)


def streamed(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    """
    What `TextStreamer` of transformers prints of tokens that come one at a time: words, as soon as they are whole.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        token_ids (`list[int]`): The tokens.
    """
    printed = ""
    for end in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:end], skip_special_tokens=True)
        whole = text if end == len(token_ids) or text.endswith("\n") else text[: text.rfind(" ") + 1]
        printed += whole[len(printed) :]
    return printed


def streaming_faults(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """
    A warning when text that is streamed differs from the text as a whole, with an example; else nothing.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.

    Returns:
        `list[str]`: One warning at most.
    """
    for sample in SAMPLES:
        token_ids = tokenizer.encode(sample, add_special_tokens=False)
        whole, seen = tokenizer.decode(token_ids, skip_special_tokens=True), streamed(tokenizer, token_ids)
        if whole != seen:
            at = next((i for i, (one, other) in enumerate(zip(whole, seen, strict=False)) if one != other), len(seen))
            part = slice(max(0, at - 10), at + 15)
            return [
                f"streamed text will differ from the decoded one, such as {seen[part]!r} for {whole[part]!r}: the "
                "tokenizer's decoder changes earlier text when more follows"
            ]
    return []


def folder_streaming_faults(folder: Path) -> list[str]:
    """
    As [`streaming_faults`], for the tokenizer in a folder; nothing for one that only loads with code of the folder.

    Args:
        folder (`Path`): A model's folder.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return streaming_faults(tokenizer)
    except Exception:  # what is wrong with the tokenizer itself is said elsewhere, and not all of them load here
        return []
