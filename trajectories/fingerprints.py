"""Digests of tokenizers and of trajectories."""

import hashlib
import json
from contextlib import suppress

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..common.fingerprints import fingerprint
from .row import PER_POSITION


CHAT = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """
    A short digest of the vocabulary and of what the chat template makes of a chat: token ids of two tokenizers with
    the same one mean the same. Marks in a template that are not in its text, such as `{% generation %}`, do not count.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    rendered = tokenizer.chat_template
    if rendered is not None:
        with suppress(Exception):  # a template may raise anything; then its source counts
            rendered = [tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)]
    return fingerprint([sorted(tokenizer.get_vocab().items()), rendered])


def is_tokenizer_of(recorded: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """
    Whether a recorded fingerprint is that of a tokenizer.

    Args:
        recorded (`str`): The fingerprint of [`tokenizer_fingerprint`], or, as it once was, of the template's source.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
    """
    of_source = fingerprint([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])
    return recorded in (tokenizer_fingerprint(tokenizer), of_source)


def rows_fingerprint(dataset: Dataset) -> str:
    """
    A short digest of what the student sees of trajectories; wherever they are stored.

    Args:
        dataset (`Dataset`): With the columns of [`~d3llm.trajectories.row.STORED_FEATURES`].

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(sorted(dataset.unique("decode_config"))).encode())
    for batch in dataset.with_format("arrow").iter(batch_size=10_000):
        for column in PER_POSITION:
            rows = batch[column].combine_chunks()
            for numbers in map(np.asarray, (rows.value_lengths(), rows.flatten())):
                digest.update(numbers.astype(np.int64 if numbers.dtype.kind in "iu" else np.float64).tobytes())
    return digest.hexdigest()[:16]
