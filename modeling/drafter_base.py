"""What a drafter asks of its base: a causal model of transformers whose forward takes any mask and any positions."""

import hashlib
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..generation.row_cache import attention_mask, check_attention, run_body


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Their frequencies depend on the largest position of a forward, and mask rows are ahead of the text.
MOVING_ROTARY = ("dynamic", "longrope")
FINGERPRINT_ROWS = 64  # of the embedding


def projections(base: PreTrainedModel) -> dict[str, nn.Module]:
    """
    The layers that an adapter acts on, by their names in the base.

    Args:
        base (`PreTrainedModel`): The base.

    Returns:
        `dict[str, nn.Module]`: `PROJECTIONS` of every decoder layer, in the order of a forward.

    Raises:
        `ValueError`: If a layer has no projection of such a name.
    """
    prefix, layers = base.base_model_prefix, getattr(base.config, "num_hidden_layers", 0)
    found = {}
    for number in range(layers):
        for name in PROJECTIONS:
            part = "self_attn" if name in PROJECTIONS[:4] else "mlp"
            path = f"{prefix}.layers.{number}.{part}.{name}"
            try:
                found[path] = base.get_submodule(path)
            except AttributeError:
                raise ValueError(
                    f"{type(base).__name__} has no {path}: a drafter needs the layers of Llama, Qwen2 or Qwen3"
                ) from None
    return found


def fingerprint(base: PreTrainedModel) -> str:
    """
    Digest of the final norm and of the first 64 rows of the embedding, by which an adapter knows its base. They are
    rounded to bfloat16 first, so that a base has the same fingerprint when it is loaded in that dtype.

    Args:
        base (`PreTrainedModel`): The base.

    Returns:
        `str`: The first 16 hexadecimal digits of a SHA-256.
    """
    digest = hashlib.sha256()
    for weight in (base.base_model.norm.weight, base.get_input_embeddings().weight[:FINGERPRINT_ROWS]):
        rounded = weight.detach().to("cpu", torch.bfloat16).float().contiguous()
        digest.update(rounded.numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def describe_base(base: PreTrainedModel) -> dict[str, Any]:
    """What the config of a drafter says about its base: type, sizes and fingerprint."""
    sizes = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    return {name: getattr(base.config, name) for name in sizes} | {"fingerprint": fingerprint(base)}


def check_base(base: PreTrainedModel) -> None:
    """
    Checks that a model can draft for itself.

    Args:
        base (`PreTrainedModel`): The base.

    Raises:
        `ValueError`: If it is not causal, lacks a projection, has an attention without masks, a cache that cannot drop
            rejected drafts, positions that depend on each other, or logits that are not those of its head.
    """
    kind = type(base).__name__
    if not isinstance(base, PreTrainedModel) or base.get_output_embeddings() is None:
        raise ValueError(f"{kind} is not a causal language model of transformers: load one by AutoModelForCausalLM")
    projections(base)
    check_attention(base)
    for layer in DynamicCache(config=base.config).layers:
        if type(layer) is not DynamicLayer:
            raise ValueError(
                f"{kind} has a cache of {type(layer).__name__}, which cannot drop rejected drafts: a drafter needs "
                "full attention in every layer"
            )
    rotary = (getattr(base.config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary in MOVING_ROTARY:
        raise ValueError(f"`rope_type`={rotary!r} turns all positions by the largest one, and drafts would change it")
    _check_forward(base)


@torch.no_grad()
def _check_forward(base: PreTrainedModel) -> None:
    """Two texts of two tokens that differ in the last: both predict the same after the first, by the head alone."""
    device = base.get_input_embeddings().weight.device
    texts = torch.tensor([[0, 1], [0, 2]], device=device)
    logits = base(input_ids=texts, use_cache=False).logits
    if not torch.allclose(logits[0, 0], logits[1, 0], rtol=1e-3, atol=1e-3):
        raise ValueError(f"{type(base).__name__} is not causal: its logits depend on later tokens")
    hidden = run_body(
        base,
        inputs_embeds=base.get_input_embeddings()(texts),
        attention_mask=attention_mask(base, torch.ones(2, 1, 2, 2, dtype=torch.bool, device=device).tril()),
        position_ids=torch.arange(2, device=device).expand(2, 2),
    )
    own = base.get_output_embeddings()(hidden).to(logits.device)
    if not torch.allclose(own, logits, rtol=1e-2, atol=1e-2):
        raise ValueError(f"{type(base).__name__} does more to its logits than its head, which drafts do not know of")
