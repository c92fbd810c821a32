"""Tiny causal models, and drafters that have learnt their greedy texts by heart within a second."""

import torch
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from d3llm import Drafter


CAUSAL = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
WINDOW = 3


def tiny_causal(family: str, *, vocab_size: int = 48, seed: int = 0, std: float = 0.3, **fields) -> PreTrainedModel:
    """A random model for evaluation; token 0 is EOS and padding."""
    config_class, model_class = CAUSAL[family]
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": std}
    special = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": 1}
    torch.manual_seed(seed)
    return model_class(config_class(vocab_size=vocab_size, **shape | special | fields)).eval()


def ragged_prompts(count: int = 5, length: int = 7, vocab_size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts (count, length) padded on the left, each by another number, and their attention mask."""
    random = torch.Generator().manual_seed(1)
    prompts = torch.randint(2, vocab_size, (count, length), generator=random)
    padding = torch.arange(count)[:, None] * (length - 1) // max(count - 1, 1)
    mask = (torch.arange(length) >= padding).long()
    return prompts * mask, mask


def random_drafter(base: PreTrainedModel, seed: int = 0, **options) -> Drafter:
    """A drafter that drafts nonsense, and whose LoRA is far from zero."""
    drafter = Drafter.for_base(base, **{"window": WINDOW, "rank": 4} | options)
    random = torch.Generator().manual_seed(seed)
    for parameter in drafter.parameters():
        parameter.data.normal_(0, 0.3, generator=random)
    return drafter


def learnt_drafter(base: PreTrainedModel, texts: torch.Tensor, steps: int = 60, **options) -> Drafter:
    """A drafter that has learnt texts (B, L), without padding: groups of mask rows after every token."""
    base.requires_grad_(False)
    drafter = Drafter.for_base(base, **{"window": WINDOW, "rank": 16} | options)
    window, (batch, length) = drafter.config.window, texts.shape
    anchors = torch.arange(length - window - 1)
    offsets = torch.arange(window)
    positions = torch.cat([torch.arange(length), (anchors[:, None] + 1 + offsets).flatten()])
    last = torch.cat([torch.arange(length), anchors.repeat_interleave(window)])
    group = torch.cat([torch.full((length,), -1), torch.arange(len(anchors)).repeat_interleave(window)])
    rows = torch.arange(len(positions))
    own = (group[:, None] == group) & (rows <= rows[:, None]) & (group[:, None] >= 0)
    visible = (((rows < length) & (positions <= last[:, None])) | own)[None, None]
    targets = texts[:, anchors[:, None] + 2 + offsets]
    before = base.get_input_embeddings()(texts[:, anchors[:, None] + 1 + offsets])
    optimizer = torch.optim.Adam(drafter.parameters(), lr=1e-2)
    with drafter.attached():
        drafter.first_mask_row = length
        for _ in range(steps):
            masks = drafter.mask_rows(window).repeat(len(anchors), 1).expand(batch, -1, -1)
            hidden = base.model(
                inputs_embeds=torch.cat([base.get_input_embeddings()(texts), masks], dim=1),
                attention_mask=visible.expand(batch, -1, -1, -1),
                position_ids=positions.expand(batch, -1),
                use_cache=False,
            ).last_hidden_state[:, length:]
            refined = drafter.refine(hidden.unflatten(1, (len(anchors), window)), before)
            loss = F.cross_entropy(base.lm_head(refined).flatten(0, 2), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return drafter
