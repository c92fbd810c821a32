"""The mean of two models' weights: a student that keeps what training it took away from the model before."""

from pathlib import Path

import torch

from ..common.files import whole_folder
from ..modeling.loading import load_model, load_tokenizer


def average_weights(one: Path, other: Path, output: Path) -> None:
    """
    Saves the mean of two checkpoints of the same shape, with the tokenizer and the decoder of the first. Of a model
    and what was trained from it, it may be better than either (WiSE-FT, arXiv 2109.01903, which recommends equal
    parts).

    Args:
        one (`Path`), other (`Path`): The checkpoints.
        output (`Path`): Folder for the mean. It is there as a whole or not at all.

    Raises:
        `ValueError`: For checkpoints of other shapes.
        `OSError`: If one is not there, or the mean cannot be written.
    """
    model, weights = load_model(one), load_model(other).state_dict()
    own = model.state_dict()
    differs = [name for name in own if name not in weights or own[name].shape != weights[name].shape]
    if differs or len(own) != len(weights):
        raise ValueError(f"{one} and {other} have no mean: their weights differ in shape ({', '.join(differs[:3])}).")
    with torch.no_grad():
        for name, value in own.items():
            value.lerp_(weights[name].to(value), 0.5)
    with whole_folder(output) as unfinished:
        model.save_pretrained(unfinished, with_code=False)  # it is loaded by this package
        load_tokenizer(one).save_pretrained(unfinished)
