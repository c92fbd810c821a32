"""Configuration of LLaDA (Large Language Diffusion Models, arXiv 2502.09992)."""

from typing import Any

from transformers import PretrainedConfig

from .shared_model_type import SharedModelTypeMixin


class LLaDAConfig(SharedModelTypeMixin, PretrainedConfig):
    r"""
    Configuration of a [`LLaDAModelLM`]. Field names and defaults are those of config.json in
    GSAI-ML/LLaDA-8B-Instruct; the names that Hugging Face libraries look for (`hidden_size`, `num_attention_heads`,
    ...) are mapped to them.

    Args:
        > The shape of the model

        d_model (`int`, *optional*, defaults to 4096): Size of the hidden states.
        n_heads (`int`, *optional*, defaults to 32): Number of attention heads.
        n_kv_heads (`int`, *optional*): Number of key/value heads; `n_heads` when `None`, 1 with
            `multi_query_attention`.
        n_layers (`int`, *optional*, defaults to 32): Number of transformer blocks.
        mlp_ratio (`int`, *optional*, defaults to 4): Ratio of the feed-forward layer's size to `d_model`, used when
            `mlp_hidden_size` is `None`.
        mlp_hidden_size (`int`, *optional*, defaults to 12288): Size of the feed-forward layer.
        vocab_size (`int`, *optional*, defaults to 126464): Number of token ids.
        embedding_size (`int`, *optional*, defaults to 126464): Rows of the embedding and of the head; `vocab_size`
            when `None`.
        max_sequence_length (`int`, *optional*, defaults to 4096): Longest canvas, in tokens.
        weight_tying (`bool`, *optional*, defaults to `False`): Whether the head shares the embedding's weights.
        include_bias (`bool`, *optional*, defaults to `False`): Whether linear layers have a bias.
        include_qkv_bias (`bool`, *optional*, defaults to `False`): Whether the query, key and value projections have
            a bias.
        multi_query_attention (`bool`, *optional*): Whether all heads share one key/value head.

        > Numerics

        rms_norm_eps (`float`, *optional*, defaults to 1e-05): Epsilon of the RMS norms.
        rope_theta (`float`, *optional*, defaults to 500000.0): Base of the rotary frequencies.
        rope_full_precision (`bool`, *optional*, defaults to `True`): Whether queries and keys are rotated in float32.
        attention_dropout, residual_dropout, embedding_dropout (`float`, *optional*, defaults to 0.0): Dropout rates.
        init_std (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

        > Special tokens

        mask_token_id (`int`, *optional*, defaults to 126336): The [MASK] token.
        eos_token_id, pad_token_id (`int`, *optional*, defaults to 126081): End of text, which also pads.
    """

    model_type = "llada"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "num_key_value_heads": "n_kv_heads",
        "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "tie_word_embeddings": "weight_tying",
        "initializer_range": "init_std",
    }

    def __init__(
        self,
        d_model: int = 4096,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        n_layers: int = 32,
        mlp_ratio: int = 4,
        mlp_hidden_size: int | None = 12288,
        vocab_size: int = 126464,
        embedding_size: int | None = 126464,
        max_sequence_length: int = 4096,
        weight_tying: bool = False,
        include_bias: bool = False,
        include_qkv_bias: bool = False,
        multi_query_attention: bool | None = None,
        activation_type: str = "silu",
        block_type: str = "llama",
        block_group_size: int = 1,
        layer_norm_type: str = "rms",
        layer_norm_with_affine: bool = True,
        bias_for_layer_norm: bool = False,
        attention_layer_norm: bool = False,
        attention_layer_norm_with_affine: bool = True,
        input_emb_norm: bool = False,
        scale_logits: bool = False,
        alibi: bool = False,
        alibi_bias_max: float = 8.0,
        rope: bool = True,
        rope_theta: float = 500000.0,
        rope_full_precision: bool = True,
        rms_norm_eps: float = 1e-05,
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        flash_attention: bool = False,
        init_device: str | None = "meta",
        init_fn: str = "mitchell",
        init_std: float = 0.02,
        init_cutoff_factor: float | None = None,
        precision: str | None = "amp_bf16",
        use_cache: bool = False,
        mask_token_id: int = 126336,
        eos_token_id: int | list[int] | None = 126081,
        pad_token_id: int | None = 126081,
        **kwargs: Any,
    ) -> None:
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads
        self.n_layers = n_layers
        self.mlp_ratio = mlp_ratio
        self.mlp_hidden_size = mlp_hidden_size
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.max_sequence_length = max_sequence_length
        self.weight_tying = weight_tying
        self.include_bias = include_bias
        self.include_qkv_bias = include_qkv_bias
        self.multi_query_attention = multi_query_attention
        self.activation_type = activation_type
        self.block_type = block_type
        self.block_group_size = block_group_size
        self.layer_norm_type = layer_norm_type
        self.layer_norm_with_affine = layer_norm_with_affine
        self.bias_for_layer_norm = bias_for_layer_norm
        self.attention_layer_norm = attention_layer_norm
        self.attention_layer_norm_with_affine = attention_layer_norm_with_affine
        self.input_emb_norm = input_emb_norm
        self.scale_logits = scale_logits
        self.alibi = alibi
        self.alibi_bias_max = alibi_bias_max
        self.rope = rope
        self.rope_theta = rope_theta
        self.rope_full_precision = rope_full_precision
        self.rms_norm_eps = rms_norm_eps
        self.attention_dropout = attention_dropout
        self.residual_dropout = residual_dropout
        self.embedding_dropout = embedding_dropout
        self.flash_attention = flash_attention
        self.init_device = init_device
        self.init_fn = init_fn
        self.init_std = init_std
        self.init_cutoff_factor = init_cutoff_factor
        self.precision = precision
        self.use_cache = use_cache
        self.mask_token_id = mask_token_id
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)
