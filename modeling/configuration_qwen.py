"""The fields of config.json that all families with Qwen's transformer share."""

from typing import Any

from transformers import PretrainedConfig

from .config_rotary import PlainRotaryMixin


class QwenTransformerConfig(PlainRotaryMixin, PretrainedConfig):
    r"""
    Parent of the configurations of models with Qwen's transformer. Field names are those of Qwen2 and Qwen3; each
    family states its defaults.

    Args:
        > The shape of the model

        vocab_size (`int`): Number of token ids.
        hidden_size (`int`): Size of the hidden states.
        intermediate_size (`int`): Size of the feed-forward layer.
        num_hidden_layers (`int`): Number of transformer layers.
        num_attention_heads (`int`): Number of attention heads.
        num_key_value_heads (`int`, *optional*): Number of key/value heads; `num_attention_heads` when `None`.
        max_position_embeddings (`int`): Longest canvas, in tokens.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`): Whether the head shares the embedding's weights.

        > Numerics

        hidden_act (`str`, *optional*, defaults to `"silu"`): Activation of the feed-forward layer.
        rms_norm_eps (`float`, *optional*, defaults to 1e-06): Epsilon of the RMS norms.
        rope_theta (`float`, *optional*, defaults to 1000000.0): Base of the rotary frequencies.
        attention_dropout (`float`, *optional*, defaults to 0.0): Dropout rate of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

        > Special tokens

        mask_token_id (`int`): The [MASK] token.
        bos_token_id, eos_token_id, pad_token_id (`int`, *optional*): Start, end of text, and padding.
    """

    keys_to_ignore_at_inference = ["cache", "past_key_values"]

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        intermediate_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        num_key_value_heads: int | None,
        max_position_embeddings: int,
        mask_token_id: int,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        hidden_act: str = "silu",
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1e-06,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        rope_theta: float = 1000000.0,
        rope_scaling: dict[str, Any] | None = None,
        use_sliding_window: bool = False,
        sliding_window: int | None = None,
        max_window_layers: int = 28,
        attention_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        self.tie_word_embeddings = tie_word_embeddings
        self.set_rotary_base(rope_theta, rope_scaling, kwargs.pop("rope_parameters", None))
        self.use_sliding_window = use_sliding_window
        self.sliding_window = sliding_window
        self.max_window_layers = max_window_layers
        self.attention_dropout = attention_dropout
        self.mask_token_id = mask_token_id
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
