"""Configuration of SDAR (SDAR: A Synergistic Diffusion-AutoRegression Paradigm, arXiv 2510.06303)."""

from typing import Any

from .configuration_qwen import QwenTransformerConfig


class SDARConfig(QwenTransformerConfig):
    r"""
    Configuration of an [`SDARForCausalLM`]. Field names are those of config.json in JetLM/SDAR-8B-Chat, whose shape is
    the default.

    Args:
        vocab_size (`int`, *optional*, defaults to 151936): Number of token ids.
        hidden_size (`int`, *optional*, defaults to 4096): Size of the hidden states.
        intermediate_size (`int`, *optional*, defaults to 12288): Size of the feed-forward layer.
        num_hidden_layers (`int`, *optional*, defaults to 36): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 32): Number of attention heads.
        num_key_value_heads (`int`, *optional*, defaults to 8): Number of key/value heads; `num_attention_heads` when
            `None`.
        head_dim (`int`, *optional*, defaults to 128): Size of an attention head; `hidden_size / num_attention_heads`
            when `None`.
        attention_bias (`bool`, *optional*, defaults to `False`): Whether the projections of the attention have biases.
        max_position_embeddings (`int`, *optional*, defaults to 32768): Longest canvas, in tokens.
        block_size (`int`, *optional*): Positions per block of the block-causal attention; 4 when neither this nor
            `block_length` is given.
        block_length (`int`, *optional*): Another name of `block_size`.
        mask_token_id (`int`, *optional*, defaults to 151669): The [MASK] token.
        bos_token_id, eos_token_id (`int`, *optional*, defaults to 151643): End of text.
        pad_token_id (`int`, *optional*): Padding; the published checkpoints name it in generation_config.json.
        kwargs (`Any`): The other fields of [`QwenTransformerConfig`].

    Raises:
        ValueError: If `block_size` and `block_length` differ.
    """

    model_type = "sdar"
    attribute_map = {"attention_block_size": "block_size"}

    def __init__(
        self,
        vocab_size: int = 151936,
        hidden_size: int = 4096,
        intermediate_size: int = 12288,
        num_hidden_layers: int = 36,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = 8,
        head_dim: int | None = 128,
        attention_bias: bool = False,
        max_position_embeddings: int = 32768,
        block_size: int | None = None,
        block_length: int | None = None,
        mask_token_id: int = 151669,
        bos_token_id: int | None = 151643,
        eos_token_id: int | list[int] | None = 151643,
        pad_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        if None not in (block_size, block_length) and block_size != block_length:
            raise ValueError(
                f"SDARConfig.block_size={block_size} and block_length={block_length} are two names of one field: "
                "leave one out"
            )
        given = block_length if block_size is None else block_size
        self.block_size = 4 if given is None else given
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
            pad_token_id=pad_token_id,
            **kwargs,
        )
