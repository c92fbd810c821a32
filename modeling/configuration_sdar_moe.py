"""Configuration of SDAR's mixture of experts (SDAR, arXiv 2510.06303)."""

from typing import Any

from transformers import PretrainedConfig

from .config_rotary import PlainRotaryMixin


class SDARMoeConfig(PlainRotaryMixin, PretrainedConfig):
    r"""
    Configuration of a [`SDARMoeForCausalLM`]. Field names and defaults are those of config.json in
    JetLM/SDAR-30B-A3B-Chat, which are Qwen3-MoE's.

    Args:
        > The shape of the model

        vocab_size (`int`, *optional*, defaults to 151936): Number of token ids.
        hidden_size (`int`, *optional*, defaults to 2048): Size of the hidden states.
        intermediate_size (`int`, *optional*, defaults to 6144): Size of the MLP of layers without experts.
        num_hidden_layers (`int`, *optional*, defaults to 48): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 32): Number of attention heads.
        num_key_value_heads (`int`, *optional*, defaults to 4): Number of key/value heads; `num_attention_heads` when
            `None`.
        head_dim (`int`, *optional*, defaults to 128): Size of one head; `hidden_size / num_attention_heads` when
            `None`.
        attention_bias (`bool`, *optional*, defaults to `False`): Whether the projections of attention have a bias.
        max_position_embeddings (`int`, *optional*, defaults to 32768): Longest canvas, in tokens.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`): Whether the head shares the embedding's weights.
        block_size (`int`, *optional*, defaults to 4): Positions per block of the block-causal attention.

        > Experts

        num_experts (`int`, *optional*, defaults to 128): Number of experts of a layer.
        num_experts_per_tok (`int`, *optional*, defaults to 8): Number of experts that a token runs.
        moe_intermediate_size (`int`, *optional*, defaults to 768): Size of an expert.
        decoder_sparse_step (`int`, *optional*, defaults to 1): Every so many layers have experts.
        mlp_only_layers (`list[int]`, *optional*): Further layers without experts.
        norm_topk_prob (`bool`, *optional*, defaults to `True`): Whether the weights of the chosen experts are scaled
            to a sum of 1.
        output_router_logits (`bool`, *optional*, defaults to `False`): Whether a forward returns the routers' logits
            and loss.
        router_aux_loss_coef (`float`, *optional*, defaults to 0.001): Weight of the routers' loss.

        > Numerics

        hidden_act (`str`, *optional*, defaults to `"silu"`): Activation of the experts.
        rms_norm_eps (`float`, *optional*, defaults to 1e-06): Epsilon of the RMS norms.
        rope_theta (`float`, *optional*, defaults to 1000000.0): Base of the rotary frequencies.
        attention_dropout (`float`, *optional*, defaults to 0.0): Dropout rate of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

        > Special tokens

        mask_token_id (`int`, *optional*, defaults to 151669): The [MASK] token.
        bos_token_id, pad_token_id (`int`, *optional*, defaults to 151643): End of text, which also pads.
        eos_token_id (`int` or `list[int]`, *optional*, defaults to 151645): End of a turn.
    """

    model_type = "sdar_moe"
    attribute_map = {"attention_block_size": "block_size"}
    keys_to_ignore_at_inference = ["cache", "past_key_values"]

    def __init__(
        self,
        vocab_size: int = 151936,
        hidden_size: int = 2048,
        intermediate_size: int = 6144,
        num_hidden_layers: int = 48,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = 4,
        head_dim: int | None = 128,
        attention_bias: bool = False,
        max_position_embeddings: int = 32768,
        tie_word_embeddings: bool = False,
        block_size: int = 4,
        num_experts: int = 128,
        num_experts_per_tok: int = 8,
        moe_intermediate_size: int = 768,
        decoder_sparse_step: int = 1,
        mlp_only_layers: list[int] | None = None,
        norm_topk_prob: bool = True,
        output_router_logits: bool = False,
        router_aux_loss_coef: float = 0.001,
        hidden_act: str = "silu",
        rms_norm_eps: float = 1e-06,
        rope_theta: float = 1000000.0,
        rope_scaling: dict[str, Any] | None = None,
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        use_sliding_window: bool = False,
        mask_token_id: int = 151669,
        bos_token_id: int | None = 151643,
        eos_token_id: int | list[int] | None = 151645,
        pad_token_id: int | None = 151643,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.head_dim = head_dim
        self.attention_bias = attention_bias
        self.max_position_embeddings = max_position_embeddings
        self.tie_word_embeddings = tie_word_embeddings
        self.block_size = block_size
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.decoder_sparse_step = decoder_sparse_step
        self.mlp_only_layers = mlp_only_layers or []
        self.norm_topk_prob = norm_topk_prob
        self.output_router_logits = output_router_logits
        self.router_aux_loss_coef = router_aux_loss_coef
        self.hidden_act = hidden_act
        self.rms_norm_eps = rms_norm_eps
        self.set_rotary_base(rope_theta, rope_scaling, kwargs.pop("rope_parameters", None))
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.use_sliding_window = use_sliding_window
        self.mask_token_id = mask_token_id
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
