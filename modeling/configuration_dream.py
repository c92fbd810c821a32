"""Configuration of Dream (Dream 7B: Diffusion Large Language Models, arXiv 2508.15487)."""

from typing import Any

from .configuration_qwen import QwenTransformerConfig


class DreamConfig(QwenTransformerConfig):
    r"""
    Configuration of a [`DreamModel`]. Field names and defaults are those of config.json in
    Dream-org/Dream-v0-Instruct-7B.

    Args:
        vocab_size (`int`, *optional*, defaults to 152064): Number of token ids.
        hidden_size (`int`, *optional*, defaults to 3584): Size of the hidden states.
        intermediate_size (`int`, *optional*, defaults to 18944): Size of the feed-forward layer.
        num_hidden_layers (`int`, *optional*, defaults to 28): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 28): Number of attention heads.
        num_key_value_heads (`int`, *optional*, defaults to 4): Number of key/value heads; `num_attention_heads` when
            `None`.
        max_position_embeddings (`int`, *optional*, defaults to 131072): Longest canvas, in tokens.
        mask_token_id (`int`, *optional*, defaults to 151666): The [MASK] token.
        bos_token_id, eos_token_id, pad_token_id (`int`, *optional*, defaults to 151643): End of text, which also pads.
        kwargs (`Any`): The other fields of [`QwenTransformerConfig`].
    """

    model_type = "Dream"

    def __init__(
        self,
        vocab_size: int = 152064,
        hidden_size: int = 3584,
        intermediate_size: int = 18944,
        num_hidden_layers: int = 28,
        num_attention_heads: int = 28,
        num_key_value_heads: int | None = 4,
        max_position_embeddings: int = 131072,
        mask_token_id: int = 151666,
        bos_token_id: int | None = 151643,
        eos_token_id: int | list[int] | None = 151643,
        pad_token_id: int | None = 151643,
        **kwargs: Any,
    ) -> None:
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
            pad_token_id=pad_token_id,
            **kwargs,
        )
