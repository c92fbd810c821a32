"""Configuration of LLaDA-MoE (LLaDA-MoE: A Sparse MoE Diffusion Language Model, arXiv 2509.24389)."""

from typing import Any

from transformers import PretrainedConfig

from .config_rotary import PlainRotaryMixin


class LLaDAMoEConfig(PlainRotaryMixin, PretrainedConfig):
    r"""
    Configuration of a [`LLaDAMoEModelLM`]. Field names and defaults are those of config.json in
    inclusionAI/LLaDA-MoE-7B-A1B-Instruct, which calls its `model_type` `"llada"`, as LLaDA does.

    Args:
        > The shape of the model

        vocab_size (`int`, *optional*, defaults to 157184): Number of token ids.
        hidden_size (`int`, *optional*, defaults to 2048): Size of the hidden states.
        dense_intermediate_size (`int`, *optional*, defaults to 8192): Size of the MLP of layers without experts.
        num_hidden_layers (`int`, *optional*, defaults to 16): Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 16): Number of attention heads.
        num_key_value_heads (`int`, *optional*, defaults to 16): Number of key/value heads; `num_attention_heads` when
            `None`.
        attention_bias (`bool`, *optional*, defaults to `False`): Whether the projections of attention have a bias.
        max_position_embeddings (`int`, *optional*, defaults to 8192): Longest canvas, in tokens.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`): Whether the head shares the embedding's weights.

        > Experts

        num_experts (`int`, *optional*, defaults to 64): Number of experts of a layer.
        num_experts_per_tok (`int`, *optional*, defaults to 8): Number of experts that a token runs.
        expert_intermediate_size (`int`, *optional*, defaults to 1024): Size of an expert.
        moe_layer_freq (`list[int]`, *optional*): For each layer, 1 with experts and 0 without; by default all have
            them.
        norm_topk_prob (`bool`, *optional*): Whether the weights of the chosen experts are scaled to a sum of 1.
        output_router_logits (`bool`, *optional*, defaults to `False`): Whether a forward returns the routers' logits
            and loss.
        router_aux_loss_coef (`float`, *optional*, defaults to 0.01): Weight of the routers' loss.

        > Numerics

        hidden_act (`str`, *optional*, defaults to `"silu"`): Activation of the experts.
        rms_norm_eps (`float`, *optional*, defaults to 1e-05): Epsilon of the RMS norms.
        rope_theta (`float`, *optional*, defaults to 50000.0): Base of the rotary frequencies.
        attention_dropout (`float`, *optional*, defaults to 0.0): Dropout rate of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

        > Special tokens

        mask_token_id (`int`, *optional*, defaults to 156895): The [MASK] token.
        eos_token_id, pad_token_id (`int`, *optional*, defaults to 156892): End of text, which also pads.
    """

    model_type = "lladamoe"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {
        "intermediate_size": "dense_intermediate_size",
        "moe_intermediate_size": "expert_intermediate_size",
    }

    def __init__(
        self,
        vocab_size: int = 157184,
        hidden_size: int = 2048,
        dense_intermediate_size: int = 8192,
        num_hidden_layers: int = 16,
        num_attention_heads: int = 16,
        num_key_value_heads: int | None = 16,
        attention_bias: bool = False,
        max_position_embeddings: int = 8192,
        tie_word_embeddings: bool = False,
        num_experts: int = 64,
        num_experts_per_tok: int = 8,
        expert_intermediate_size: int = 1024,
        shared_expert_intermediate_size: int | None = None,
        moe_layer_freq: list[int] | None = None,
        norm_topk_prob: bool | None = None,
        routed_scaling_factor: float = 1.0,
        output_router_logits: bool = False,
        router_aux_loss_coef: float = 0.01,
        moe_router_score_function: str = "softmax",
        moe_router_enable_expert_bias: bool = False,
        router_num_group: int | None = None,
        router_topk_group: int | None = None,
        qk_layernorm: bool = True,
        clip_qkv: float | None = None,
        hidden_act: str = "silu",
        rms_norm_eps: float = 1e-05,
        rope_theta: float = 50000.0,
        rope_scaling: dict[str, Any] | None = None,
        partial_rotary_factor: float = 1,
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        use_cache: bool = False,
        mask_token_id: int = 156895,
        eos_token_id: int | list[int] | None = 156892,
        pad_token_id: int | None = 156892,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.dense_intermediate_size = dense_intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.attention_bias = attention_bias
        self.max_position_embeddings = max_position_embeddings
        self.tie_word_embeddings = tie_word_embeddings
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.expert_intermediate_size = expert_intermediate_size
        self.shared_expert_intermediate_size = shared_expert_intermediate_size
        self.moe_layer_freq = moe_layer_freq
        self.norm_topk_prob = norm_topk_prob
        self.routed_scaling_factor = routed_scaling_factor
        self.output_router_logits = output_router_logits
        self.router_aux_loss_coef = router_aux_loss_coef
        self.moe_router_score_function = moe_router_score_function
        self.moe_router_enable_expert_bias = moe_router_enable_expert_bias
        self.router_num_group = router_num_group
        self.router_topk_group = router_topk_group
        self.qk_layernorm = qk_layernorm
        self.clip_qkv = clip_qkv
        self.hidden_act = hidden_act
        self.rms_norm_eps = rms_norm_eps
        self.set_rotary_base(rope_theta, rope_scaling, kwargs.pop("rope_parameters", None))
        self.partial_rotary_factor = partial_rotary_factor
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.mask_token_id = mask_token_id
        kwargs.pop("model_type", None)  # "llada" on the Hub
        super().__init__(
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
