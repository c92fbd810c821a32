"""Configuration of Fast-dLLM v2 (Fast-dLLM v2: Efficient Block-Diffusion LLM, arXiv 2509.26328)."""

from typing import Any

from .configuration_qwen import QwenTransformerConfig


class Fast_dLLM_QwenConfig(QwenTransformerConfig):  # noqa: N801  the name on the Hub
    r"""
    Configuration of a [`Fast_dLLM_QwenForCausalLM`]. Field names are those of config.json in
    Efficient-Large-Model/Fast_dLLM_v2_7B, whose shape is the default.

    Args:
        vocab_size (`int`, *optional*, defaults to 152064): Number of token ids.
        hidden_size (`int`, *optional*, defaults to 3584): Size of the hidden states.
        intermediate_size (`int`, *optional*, defaults to 18944): Size of the feed-forward layer.
        num_hidden_layers (`int`, *optional*, defaults to 28): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 28): Number of attention heads.
        num_key_value_heads (`int`, *optional*, defaults to 4): Number of key/value heads; `num_attention_heads` when
            `None`.
        max_position_embeddings (`int`, *optional*, defaults to 32768): Longest canvas, in tokens.
        bd_size (`int`, *optional*, defaults to 32): Positions per block of the block-causal attention.
        layer_types (`list[str]`, *optional*): Attention of each layer; only `"full_attention"` is supported.
        mask_token_id (`int`, *optional*, defaults to 151665): The [MASK] token, which config.json on the Hub lacks.
        bos_token_id (`int`, *optional*, defaults to 151643): End of text.
        eos_token_id (`int`, *optional*, defaults to 151645): End of a turn.
        pad_token_id (`int`, *optional*): Padding; the published checkpoints name it in generation_config.json.
        kwargs (`Any`): The other fields of [`QwenTransformerConfig`].
    """

    model_type = "Fast_dLLM_Qwen"
    attribute_map = {"attention_block_size": "bd_size"}

    def __init__(
        self,
        vocab_size: int = 152064,
        hidden_size: int = 3584,
        intermediate_size: int = 18944,
        num_hidden_layers: int = 28,
        num_attention_heads: int = 28,
        num_key_value_heads: int | None = 4,
        max_position_embeddings: int = 32768,
        bd_size: int = 32,
        layer_types: list[str] | None = None,
        mask_token_id: int = 151665,
        bos_token_id: int | None = 151643,
        eos_token_id: int | list[int] | None = 151645,
        pad_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.bd_size = bd_size
        self.layer_types = layer_types
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
