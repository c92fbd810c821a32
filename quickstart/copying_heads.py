"""Initial weights of attention heads that copy from the context, which a small model takes very long to find."""

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from ..modeling.configuration_llada import LLaDAConfig


NEIGHBOURS = (-1, -1, 1, 1)  # where the first heads of the first layer look
MATCHES = (0, 1, 0, 2, 3, 2)  # which of them the heads of the second layer compare
SHARP_PAIRS = 4  # the fastest of the rotary frequencies, which tell neighbours apart
CODE_SIZE = 2.0  # of a neighbour's code, over that of the embedding
AVOIDANCE = 60.0  # of masked positions: what it takes off their logits


@torch.no_grad()
def set_copying_heads(
    params: Mapping[str, Tensor],
    config: LLaDAConfig,
    generator: Generator,
    neighbour_sharpness: float,
    match_sharpness: float,
    output_gain: float,
) -> None:
    """
    Sets heads of the first two layers to induction heads (Olsson et al. 2022, [arXiv
    2209.11895](https://huggingface.co/papers/2209.11895)) for a model that sees both sides.

    Each position gets, from heads of the first layer, a code of the token before it and one of the token after it.
    Heads of the second layer attend to positions with the same code and write their token, which the LM head, equal to
    the embedding at the start, reads. So after "Zorb" the model finds "la" where the question has "Zorbla". Everything
    is an initial value: training changes it.

    Args:
        params (`Mapping[str, Tensor]`): The model's parameters by their state-dict names, already initialized.
        config ([`LLaDAConfig`]): Its shape: at least two layers and six heads.
        generator (`Generator`): Source of the random projections.
        neighbour_sharpness (`float`): Largest logit of a head that attends to neighbours.
        match_sharpness (`float`): Largest logit of a head that attends to matches.
        output_gain (`float`): Size of what is written for the LM head.

    Raises:
        `ValueError`: For a model with too few layers or heads.
    """
    if config.n_layers < 2 or config.n_heads < len(MATCHES):
        raise ValueError(
            f"Copying heads need two layers and {len(MATCHES)} heads, and the model has {config.n_layers} and "
            f"{config.n_heads}: omit `copying_heads`, or make the model larger."
        )
    embedding, head = params["model.transformer.wte.weight"], params["model.transformer.ff_out.weight"]
    head.copy_(embedding)
    # The same in every token: what queries and keys that only know positions are made of.
    embedding[:, 0], head[:, 0] = 1.0, 0.0
    constant = math.sqrt(config.d_model) / embedding.square().sum(1).mean().sqrt().item()
    codes = [
        _set_neighbour_head(params, config, generator, index, side, neighbour_sharpness, constant)
        for index, side in enumerate(NEIGHBOURS)
    ]
    for index, neighbour in enumerate(MATCHES):
        _set_match_head(params, config, generator, index, codes[neighbour], match_sharpness, output_gain, constant)


def _set_neighbour_head(
    params: Mapping[str, Tensor],
    config: LLaDAConfig,
    generator: Generator,
    index: int,
    side: int,
    sharpness: float,
    constant: float,
) -> Tensor:
    """A head that attends to the position at `side` and writes a code of its token; returns `(d_model, head_dim)`."""
    size = config.d_model // config.n_heads
    query, key, value, output, rows = _head(params, 0, index, size)
    frequencies = config.rope_theta ** (-torch.arange(0, size, 2) / size)
    sharp = (torch.arange(size // 2) < SHARP_PAIRS).float()
    amplitude = math.sqrt(sharpness * math.sqrt(size) / SHARP_PAIRS) / constant
    query[rows] *= 0.1
    key[rows] *= 0.1
    # A query turned by one position is largest with the key there.
    query[rows, 0] = amplitude * torch.cat(((side * frequencies).cos() * sharp, (side * frequencies).sin() * sharp))
    key[rows, 0] = amplitude * torch.cat((sharp, torch.zeros_like(sharp)))
    value[rows] = _token_reader(config.d_model, size, generator).T
    code = _projection(config.d_model, size, generator)
    output[:, rows] = CODE_SIZE * code / math.sqrt(size)
    return code


def _set_match_head(
    params: Mapping[str, Tensor],
    config: LLaDAConfig,
    generator: Generator,
    index: int,
    code: Tensor,
    sharpness: float,
    gain: float,
    constant: float,
) -> None:
    """A head that attends to positions with the same code, if they are not masked, and writes their token."""
    size = config.d_model // config.n_heads
    query, key, value, output, rows = _head(params, 1, index, size)
    slow = torch.arange(size // 4, size // 2)  # frequencies that hardly turn within a problem
    numbers = torch.cat((slow, slow + size // 2))[:-1]
    reader = code @ _projection(size, size, generator)[:, : len(numbers)]
    amplitude = math.sqrt(sharpness * math.sqrt(size) / len(numbers))
    for weight in (query, key):
        weight[rows] *= 0.1
        weight[rows.start + numbers] = amplitude * reader.T
    mask = params["model.transformer.wte.weight"][config.mask_token_id].clone()
    mask[0] = 0
    query[rows.stop - 1, 0] = math.sqrt(size) / constant
    key[rows.stop - 1] = -AVOIDANCE * mask / (mask.norm() ** 2 * constant)
    token = _token_reader(config.d_model, size, generator)
    value[rows] = token.T
    output[:, rows] = gain * token


def _head(
    params: Mapping[str, Tensor], layer: int, index: int, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, slice]:
    """
    Weights of queries, keys and values `(d_model, d_model)` and of the output, and the rows of a head in the first
    three, which are its columns in the last one.
    """
    names = ("q_proj", "k_proj", "v_proj", "attn_out")
    query, key, value, output = (params[f"model.transformer.blocks.{layer}.{name}.weight"] for name in names)
    return query, key, value, output, slice(index * size, (index + 1) * size)


def _projection(rows: int, columns: int, generator: Generator) -> Tensor:
    """A random matrix `(rows, columns)` with orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]


def _token_reader(rows: int, columns: int, generator: Generator) -> Tensor:
    """Such a matrix without the component that is the same in every token."""
    projection = _projection(rows, columns, generator)
    projection[0] = 0
    return projection
