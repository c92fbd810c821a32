"""A family that the package does not know: Qwen's transformer with a causal model's alignment, in one file of a user.

It says all there is to know of itself, and is built of the package's own layers.
"""

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple

from d3llm.generation.canvas_cache import takes_past_key_values
from d3llm.generation.decoding_diffusion import DiffusionGenerationMixin
from d3llm.modeling.layers import CanvasRotaryEmbedding, MaskedDiffusionPreTrainedModel, attend, run_layers
from d3llm.modeling.outputs import CanvasLMOutput, CanvasModelOutput


class TinyQwenConfig(PretrainedConfig):
    model_type = "tiny_qwen"

    def __init__(
        self,
        vocab_size: int = 16,
        hidden_size: int = 32,
        intermediate_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        max_position_embeddings: int = 128,
        initializer_range: float = 0.3,
        rms_norm_eps: float = 1e-6,
        mask_token_id: int = 1,
        eos_token_id: int = 0,
        pad_token_id: int = 0,
        tie_word_embeddings: bool = False,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.mask_token_id = mask_token_id
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)


class TinyQwenLayer(GradientCheckpointingLayer):
    num_key_value_groups = 1
    attention_dropout = 0.0
    is_causal = False

    def __init__(self, config: TinyQwenConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.norm_in = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm_mid = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.query, self.key, self.value, self.out = (
            nn.Linear(config.hidden_size, config.hidden_size, bias=False) for _ in range(4)
        )
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor, **attention_kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        normed = self.norm_in(hidden_states)
        attended, weights = attend(self, self.query(normed), self.key(normed), self.value(normed), **attention_kwargs)
        hidden_states = hidden_states + self.out(attended)
        return hidden_states + self.down(nn.functional.silu(self.up(self.norm_mid(hidden_states)))), weights


class TinyQwenPreTrainedModel(MaskedDiffusionPreTrainedModel):
    config_class = TinyQwenConfig
    config: TinyQwenConfig
    _no_split_modules = ["TinyQwenLayer"]
    logits_shift = 1
    display_name = "TinyQwen"
    preset_values = {"d3llm": {"threshold": 0.7}}
    teacher_decoding = {"preset": "dream", "selection": "count", "block_size": 8}
    adapter_targets = {
        "projections": ["query", "key", "value", "out", "up", "down"],
        "keys_values": ["key", "value"],
        "feedforward": ["down"],
        "norms": ["norm_in", "norm_mid", "norm"],
    }


class TinyQwenBackbone(TinyQwenPreTrainedModel):
    def __init__(self, config: TinyQwenConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(TinyQwenLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = CanvasRotaryEmbedding(config.hidden_size // config.num_attention_heads, 10000.0)
        self.post_init()

    @can_return_tuple
    @takes_past_key_values
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache_positions: torch.LongTensor | slice | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> CanvasModelOutput:
        return run_layers(
            self,
            self.layers,
            self.norm,
            self.rotary_emb,
            self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            cache_positions=cache_positions,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            **kwargs,
        )


class TinyQwenModel(TinyQwenPreTrainedModel, DiffusionGenerationMixin):
    def __init__(self, config: TinyQwenConfig):
        super().__init__(config)
        self.model = TinyQwenBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    @can_return_tuple
    @takes_past_key_values
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache_positions: torch.LongTensor | slice | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        run_head: bool = True,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> CanvasLMOutput:
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            cache_positions=cache_positions,
            return_dict=True,
            **kwargs,
        )
        return self.head_output(outputs, logits_to_keep, run_head, labels, num_items_in_batch)
