"""The forward pass of a small `LLaDAModelLM` as one function of its parameters, for training on a CPU."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .training_rows import Layout


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def fast_logits(
    params: Mapping[str, Tensor],
    input_ids: Tensor,
    valid: Tensor,
    picked: Tensor,
    num_layers: int,
    num_heads: int,
    rope_theta: float,
    layout: Layout | None = None,
) -> Tensor:
    """
    Logits of `LLaDAModelLM` for a left-padded batch, equal to those of the model class up to rounding.

    On short sequences, a hand-written softmax and fused projections train faster than `sdpa`, whose backward pass is
    slow on a CPU. A plain function can also be run by several workers in parallel.

    Args:
        params (`Mapping[str, Tensor]`): The model's parameters by their state-dict names.
        input_ids (`Tensor` of shape `(B, L)`): Tokens.
        valid (`Tensor` of shape `(B, L)`): False on padding.
        picked (`Tensor` of shape `(B, L)`): True where logits are asked for.
        num_layers (`int`), num_heads (`int`), rope_theta (`float`): As in the configuration.
        layout (`Layout`, *optional*): Order and visibility of the positions; by default each sees the whole row.

    Returns:
        `Tensor` of shape `(N, vocab_size)`: Logits at the positions picked, row after row, not shifted.
    """
    batch, length = input_ids.shape
    hidden = F.embedding(input_ids, params["model.transformer.wte.weight"])
    head_dim = hidden.shape[-1] // num_heads
    inv_freq = rope_theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    positions = torch.arange(length)[None] if layout is None else layout.positions
    angles = positions[:, None, :, None] * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos(), angles.sin()
    visible = valid[:, None, :] if layout is None else layout.visible() & valid[:, None, :]
    bias = torch.where(visible, 0.0, -1e9)[:, None]
    for layer in range(num_layers):
        block = f"model.transformer.blocks.{layer}."
        x = _rms_norm(hidden, params[block + "attn_norm.weight"])
        qkv = F.linear(x, torch.cat([params[f"{block}{name}_proj.weight"] for name in "qkv"]))
        query, key, value = qkv.view(batch, length, 3, num_heads, head_dim).permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, cos, sin) * head_dim**-0.5, _rotate(key, cos, sin)
        probabilities = torch.softmax(query @ key.transpose(-1, -2) + bias, dim=-1)
        mixed = (probabilities @ value).transpose(1, 2).reshape(batch, length, -1)
        hidden = hidden + F.linear(mixed, params[block + "attn_out.weight"])
        if layer == num_layers - 1:
            hidden = hidden[picked]
        x = _rms_norm(hidden, params[block + "ff_norm.weight"])
        gate_up = F.linear(x, torch.cat((params[block + "ff_proj.weight"], params[block + "up_proj.weight"])))
        gate, up = gate_up.chunk(2, dim=-1)
        hidden = hidden + F.linear(F.silu(gate) * up, params[block + "ff_out.weight"])
    hidden = _rms_norm(hidden, params["model.transformer.ln_f.weight"])
    return F.linear(hidden, params["model.transformer.ff_out.weight"])
