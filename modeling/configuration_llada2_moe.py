"""Configuration of LLaDA2.0 and 2.1 (LLaDA2.0: Scaling Up Diffusion Language Models to 100B, arXiv 2512.15745)."""

from typing import Any

from transformers import PretrainedConfig

from .config_rotary import PlainRotaryMixin


class LLaDA2MoeConfig(PlainRotaryMixin, PretrainedConfig):
    r"""
    Configuration of a [`LLaDA2MoeModelLM`]. Field names and defaults are those of config.json in
    inclusionAI/LLaDA2.0-mini.

    Args:
        > The shape of the model

        vocab_size (`int`, *optional*, defaults to 157184): Number of token ids.
        hidden_size (`int`, *optional*, defaults to 2048): Size of the hidden states.
        intermediate_size (`int`, *optional*, defaults to 5120): Size of the MLP of layers without experts.
        num_hidden_layers (`int`, *optional*, defaults to 20): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 16): Number of attention heads.
        num_key_value_heads (`int`, *optional*, defaults to 4): Number of key/value heads; `num_attention_heads` when
            `None`.
        head_dim (`int`, *optional*, defaults to 128): Size of one head; `hidden_size / num_attention_heads` when
            `None`.
        use_bias, use_qkv_bias (`bool`, *optional*, defaults to `False`): Whether the output projection of attention,
            and the one of queries, keys and values, have a bias.
        max_position_embeddings (`int`, *optional*, defaults to 32768): Longest canvas, in tokens.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`): Whether the head shares the embedding's weights.

        > Experts

        num_experts (`int`, *optional*, defaults to 256): Number of experts of a layer.
        num_experts_per_tok (`int`, *optional*, defaults to 8): Number of experts that a token runs.
        num_shared_experts (`int`, *optional*, defaults to 1): Size of the MLP that every token runs besides, in
            experts.
        moe_intermediate_size (`int`, *optional*, defaults to 512): Size of an expert.
        first_k_dense_replace (`int`, *optional*, defaults to 1): Number of first layers that have no experts.
        n_group, topk_group (`int`, *optional*, defaults to 8 and 4): Number of groups of experts, and of those from
            which a token takes its experts.
        routed_scaling_factor (`float`, *optional*, defaults to 2.5): Factor on the weights of the chosen experts.
        norm_topk_prob (`bool`, *optional*, defaults to `True`): Whether these weights are first scaled to a sum of 1.
        output_router_logits (`bool`, *optional*, defaults to `False`): Whether a forward returns the routers' logits
            and loss.
        router_aux_loss_coef (`float`, *optional*, defaults to 0.0): Weight of the routers' loss. The published
            models balance their experts by a bias instead.

        > Numerics

        hidden_act (`str`, *optional*, defaults to `"silu"`): Activation of the experts.
        rms_norm_eps (`float`, *optional*, defaults to 1e-06): Epsilon of the RMS norms.
        rope_theta (`float`, *optional*, defaults to 600000.0): Base of the rotary frequencies.
        partial_rotary_factor (`float`, *optional*, defaults to 0.5): Share of a head that is rotated.
        attention_dropout, embedding_dropout, output_dropout (`float`, *optional*, defaults to 0.0): Dropout rates;
            only that of the attention weights may be above 0.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

        > Special tokens

        mask_token_id (`int`, *optional*, defaults to 156895): The [MASK] token.
        eos_token_id, pad_token_id (`int`, *optional*, defaults to 156892): End of text, which also pads.
    """

    model_type = "llada2_moe"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    router_aux_loss_coef = 0.0

    def __init__(
        self,
        vocab_size: int = 157184,
        hidden_size: int = 2048,
        intermediate_size: int = 5120,
        num_hidden_layers: int = 20,
        num_attention_heads: int = 16,
        num_key_value_heads: int | None = 4,
        head_dim: int | None = 128,
        use_bias: bool = False,
        use_qkv_bias: bool = False,
        use_qk_norm: bool = True,
        use_rmsnorm: bool = True,
        norm_head: bool = False,
        max_position_embeddings: int = 32768,
        tie_word_embeddings: bool = False,
        num_experts: int = 256,
        num_experts_per_tok: int = 8,
        num_shared_experts: int | None = 1,
        moe_intermediate_size: int = 512,
        first_k_dense_replace: int = 1,
        n_group: int = 8,
        topk_group: int = 4,
        routed_scaling_factor: float = 2.5,
        norm_topk_prob: bool = True,
        score_function: str = "sigmoid",
        moe_router_enable_expert_bias: bool = True,
        router_dtype: str = "fp32",
        output_router_logits: bool = False,
        hidden_act: str = "silu",
        rms_norm_eps: float = 1e-06,
        rope_theta: float = 600000.0,
        rope_scaling: dict[str, Any] | None = None,
        partial_rotary_factor: float = 0.5,
        attention_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        output_dropout: float = 0.0,
        initializer_range: float = 0.02,
        use_cache: bool = False,
        use_sliding_window: bool = False,
        mask_token_id: int = 156895,
        eos_token_id: int | list[int] | None = 156892,
        pad_token_id: int | None = 156892,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.head_dim = head_dim
        self.use_bias = use_bias
        self.use_qkv_bias = use_qkv_bias
        self.use_qk_norm = use_qk_norm
        self.use_rmsnorm = use_rmsnorm
        self.norm_head = norm_head
        self.max_position_embeddings = max_position_embeddings
        self.tie_word_embeddings = tie_word_embeddings
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.num_shared_experts = num_shared_experts
        self.moe_intermediate_size = moe_intermediate_size
        self.first_k_dense_replace = first_k_dense_replace
        self.n_group = n_group
        self.topk_group = topk_group
        self.routed_scaling_factor = routed_scaling_factor
        self.norm_topk_prob = norm_topk_prob
        self.score_function = score_function
        self.moe_router_enable_expert_bias = moe_router_enable_expert_bias
        self.router_dtype = router_dtype
        self.output_router_logits = output_router_logits
        self.hidden_act = hidden_act
        self.rms_norm_eps = rms_norm_eps
        self.set_rotary_base(rope_theta, rope_scaling, kwargs.pop("rope_parameters", None))
        self.partial_rotary_factor = partial_rotary_factor
        self.attention_dropout = attention_dropout
        self.embedding_dropout = embedding_dropout
        self.output_dropout = output_dropout
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.use_sliding_window = use_sliding_window
        self.mask_token_id = mask_token_id
        super().__init__(
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
