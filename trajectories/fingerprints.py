"""Digests of tokenizers and of trajectories."""

import hashlib
import json

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..common.fingerprints import fingerprint
from .row import PER_POSITION


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """
    A short digest of vocabulary and chat template: token ids of two tokenizers with the same one mean the same.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    return fingerprint([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])


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
