"""Random models of the one size that tests need, of each family and without diffusion."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from d3llm.modeling import LLaDAConfig


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "plus", "is"]
VOCABULARY = ["<eos>", "<mask>", "<unk>", "<user>", *WORDS]  # of the tiny checkpoint
OF_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
IN_GROUPS = {"n_group": 4, "topk_group": 2}
FIELDS_OF = {"lladamoe": OF_EXPERTS, "llada2_moe": OF_EXPERTS | IN_GROUPS, "sdar_moe": OF_EXPERTS}  # by model_type
# a model that fits the tokenizer of the tiny checkpoint
OF_WORDS = {"vocab_size": len(VOCABULARY), "mask_token_id": 1, "heads": 2, "feedforward": 64, "std": 0.3}


def tiny_config(
    family: type,
    *,
    vocab_size: int = 64,
    width: int = 32,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int | None = 2,
    feedforward: int = 48,
    positions: int = 256,
    std: float = 0.2,
    mask_token_id: int = 63,
    **fields: Any,
):
    """The configuration of a model with token 0 as EOS and padding; `fields` are in the family's words."""
    special = {"mask_token_id": mask_token_id, "eos_token_id": 0, "pad_token_id": 0}
    if issubclass(family.config_class, LLaDAConfig):
        shape = {"d_model": width, "n_layers": layers, "n_heads": heads, "n_kv_heads": kv_heads}
        shape |= {"mlp_hidden_size": feedforward, "max_sequence_length": positions, "embedding_size": vocab_size}
        return family.config_class(vocab_size=vocab_size, init_std=std, **shape, **special, **fields)
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    shape |= {"num_key_value_heads": kv_heads, "intermediate_size": feedforward, "max_position_embeddings": positions}
    special["bos_token_id"] = 0
    if hasattr(family.config_class(), "head_dim"):
        fields = {"head_dim": width // heads} | fields
    fields = FIELDS_OF.get(family.config_class.model_type, {}) | fields
    return family.config_class(vocab_size=vocab_size, initializer_range=std, **shape, **special, **fields)


def tiny_model(family: type, *, seed: int = 0, **options: Any):
    """A model for evaluation; `options` are those of `tiny_config`."""
    torch.manual_seed(seed)
    return family(tiny_config(family, **options)).eval()


def tiny_autoregressive(vocab_size: int = len(VOCABULARY)) -> LlamaForCausalLM:
    """A model without diffusion, for comparisons."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 0}
    config = LlamaConfig(vocab_size=vocab_size, initializer_range=0.5, **shape, **special)
    return LlamaForCausalLM(config).eval()
