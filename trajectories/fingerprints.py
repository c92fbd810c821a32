"""Digests of what trajectories depend on: weights, tokenizers, and the rows themselves."""

import hashlib
import json

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..common.fingerprints import fingerprint
from .row import PER_POSITION


def weights_fingerprint(model: PreTrainedModel) -> str:
    """
    A short digest of a model: name, shape, type and up to 1024 values of every parameter.

    Args:
        model (`PreTrainedModel`): The model; of one on the meta device, names and shapes alone count.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, parameter in model.state_dict().items():
        digest.update(f"{name}\0{tuple(parameter.shape)}\0{parameter.dtype}\0".encode())
        if not parameter.is_meta:
            values = parameter.flatten()[:: max(1, parameter.numel() // 1024)][:1024]
            digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


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
            for numbers in (rows.value_lengths(), rows.flatten()):
                digest.update(np.asarray(numbers).astype(np.int64).tobytes())
    return digest.hexdigest()[:16]
