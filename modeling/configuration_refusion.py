"""Configuration of ReFusion (ReFusion: A Diffusion Large Language Model with Parallel Autoregressive Decoding, arXiv
2512.13586)."""

from typing import Any

from .configuration_qwen import QwenTransformerConfig


class ReFusionConfig(QwenTransformerConfig):
    r"""
    Configuration of a [`ReFusionForCausalLM`]. Field names are those of config.json in GSAI-ML/ReFusion, whose shape
    is the default.

    Args:
        vocab_size (`int`, *optional*, defaults to 151671): Number of token ids.
        hidden_size (`int`, *optional*, defaults to 4096): Size of the hidden states.
        intermediate_size (`int`, *optional*, defaults to 12288): Size of the feed-forward layer.
        num_hidden_layers (`int`, *optional*, defaults to 36): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 32): Number of attention heads.
        num_key_value_heads (`int`, *optional*, defaults to 8): Number of key/value heads; `num_attention_heads` when
            `None`.
        head_dim (`int`, *optional*, defaults to 128): Size of an attention head; `hidden_size / num_attention_heads`
            when `None`.
        attention_bias (`bool`, *optional*, defaults to `False`): Whether the projections of the attention have biases.
        max_position_embeddings (`int`, *optional*, defaults to 40960): Longest canvas, in tokens.
        mask_token_id (`int`, *optional*, defaults to 151670): The [MASK] token.
        bos_token_id (`int`, *optional*, defaults to 151669): Start of text.
        eos_token_id (`int`, *optional*, defaults to 151645): End of text.
        kwargs (`Any`): The other fields of [`QwenTransformerConfig`].
    """

    model_type = "refusion"

    def __init__(
        self,
        vocab_size: int = 151671,
        hidden_size: int = 4096,
        intermediate_size: int = 12288,
        num_hidden_layers: int = 36,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = 8,
        head_dim: int | None = 128,
        attention_bias: bool = False,
        max_position_embeddings: int = 40960,
        mask_token_id: int = 151670,
        bos_token_id: int | None = 151669,
        eos_token_id: int | list[int] | None = 151645,
        **kwargs: Any,
    ) -> None:
        self.head_dim = head_dim
        self.attention_bias = attention_bias
        super().__init__(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads,
            max_position_embeddings=max_position_embeddings,
            mask_token_id=mask_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            **kwargs,
        )
