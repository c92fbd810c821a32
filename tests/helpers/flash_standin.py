"""A stand-in for the flash attention kernels, which no CPU can run.

Two functions with the kernels' signatures, put where transformers looks for the `kernels` package: what unpads,
calls and pads again is transformers' own flash path, of the release that is installed.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import modeling_flash_attention_utils, modeling_utils
from transformers.integrations import hub_kernels


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0):
    """Attention of `q` (batch, queries, heads, head dim) to `k` and `v` (batch, keys, kv heads, head dim)."""
    assert tuple(window_size) == (-1, -1) and not softcap
    q, k, v = (states.transpose(1, 2) for states in (q, k, v))
    attended = scaled_dot_product_attention(
        q, k, v, dropout_p=dropout_p, scale=softmax_scale, is_causal=causal, enable_gqa=True
    )
    return attended.transpose(1, 2)


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **kwargs):
    """The same for sequences of all lengths, one after another: `q` (queries, heads, head dim)."""
    assert cu_seqlens_q.diff().max() <= max_seqlen_q and cu_seqlens_k.diff().max() <= max_seqlen_k
    assert len(q) == cu_seqlens_q[-1] and len(k) == cu_seqlens_k[-1]
    lengths = [ends.diff().tolist() for ends in (cu_seqlens_q, cu_seqlens_k)]
    rows = zip(q.split(lengths[0]), k.split(lengths[1]), v.split(lengths[1]), strict=True)
    return torch.cat([flash_attn_func(*(part[None] for part in row), **kwargs)[0] for row in rows])


@pytest.fixture
def flash_attention(monkeypatch):
    """Lets `attn_implementation="flash_attention_2"` and every `kernels-community/...flash...` name work on a CPU.

    Yields the list of the names that were asked for.
    """
    loaded = []

    def get_kernel(name, *args, **kwargs):
        loaded.append(name)
        return SimpleNamespace(flash_attn_func=flash_attn_func, flash_attn_varlen_func=flash_attn_varlen_func)

    monkeypatch.setattr(hub_kernels, "get_kernel", get_kernel)
    for module in (hub_kernels, modeling_utils):
        monkeypatch.setattr(module, "is_kernels_available", lambda *args, **kwargs: True, raising=False)
    monkeypatch.setattr(hub_kernels, "_kernels_available", True, raising=False)  # before transformers 5.14
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    return loaded
