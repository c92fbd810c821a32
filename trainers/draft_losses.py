"""The losses of a drafter: the mask rows of a batch through the base, whose clean rows are constants."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from ..generation.row_cache import attention_mask, run_body
from ..modeling.drafter import Drafter
from .losses import TokenLosses, token_losses
from .mask_groups import MaskGroups


class CleanKeys:
    """
    Keys and values of texts without mask rows. The base does not change, so they are constants: a text is computed
    without gradient, once for all of its groups, and once for all epochs while it is kept.

    Args:
        base (`PreTrainedModel`): The causal model.
        limit (`int`): Texts to keep, the last ones.
    """

    def __init__(self, base: PreTrainedModel, limit: int):
        self.base = base
        self.limit = limit
        self.kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, lengths: Tensor, texts: Sequence[Hashable]) -> Tensor:
        """
        Keys and values of a batch.

        Args:
            input_ids (`Tensor` of shape `(B, T)`): The texts, padded on the right.
            lengths (`Tensor` of shape `(B,)`): Their lengths.
            texts (`Sequence[Hashable]`): What each is kept under.

        Returns:
            `Tensor` of shape `(layers, 2, B, heads, T, head size)`: After the end of a text they have no meaning.
        """
        if not self.limit:
            return self._compute(input_ids)
        new = [place for place, text in enumerate(texts) if text not in self.kept]
        if new:
            sizes = lengths[new].tolist()
            found = self._compute(input_ids[new, : max(sizes)]).unbind(2)
            self.kept |= {texts[n]: kv[..., :size, :].clone() for n, kv, size in zip(new, found, sizes, strict=True)}
        width = input_ids.shape[1]
        result = torch.stack(
            [F.pad(kv, (0, 0, 0, width - kv.shape[-2])) for kv in (self.kept[text] for text in texts)], dim=2
        )
        while len(self.kept) > self.limit:
            self.kept.popitem(last=False)
        return result

    def _compute(self, input_ids: Tensor) -> Tensor:
        batch, width = input_ids.shape
        position = torch.arange(width, device=input_ids.device)
        cache = DynamicCache()
        run_body(
            self.base,
            cache,
            inputs_embeds=self.base.get_input_embeddings()(input_ids),
            attention_mask=attention_mask(self.base, (position <= position[:, None])[None, None]),
            position_ids=position.expand(batch, -1),
        )
        return torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])


class DraftLosses(nn.Module):
    """
    What is trained: the drafter, whose mask rows run through the base after the clean rows.

    Args:
        drafter ([`~d3llm.modeling.drafter.Drafter`]): The drafter; its base is not a part of the module.
        temperature (`float`): Temperature of the certainty loss.
    """

    def __init__(self, drafter: Drafter, temperature: float):
        super().__init__()
        self.drafter = drafter
        self.temperature = temperature

    def hidden(self, clean: Tensor, groups: MaskGroups) -> Tensor:
        """
        The normed hidden states of the mask rows.

        Args:
            clean (`Tensor` of shape `(layers, 2, B, heads, T, head size)`): From [`CleanKeys`].
            groups ([`MaskGroups`]): The groups.

        Returns:
            `Tensor` of shape `(B, A, K, D)`: In the dtype of the base.
        """
        base, (batch, count, window) = self.drafter.base, groups.targets.shape
        cache = DynamicCache()
        for number, (keys, values) in enumerate(clean):
            cache.update(keys, values, number)
        with self.drafter.attached():
            self.drafter.first_mask_row = 0
            hidden = run_body(
                base,
                cache,
                inputs_embeds=self.drafter.mask_rows(window).repeat(count, 1).expand(batch, -1, -1),
                attention_mask=attention_mask(base, groups.visible(clean.shape[-2])),
                position_ids=groups.positions,
            )
        return hidden.unflatten(1, (count, window))

    def forward(
        self, clean: Tensor, groups: MaskGroups, candidates: Tensor
    ) -> tuple[TokenLosses, TokenLosses, Tensor]:
        """
        Args:
            clean (`Tensor`), groups ([`MaskGroups`]): As for [`DraftLosses.hidden`].
            candidates (`Tensor` of shape `(C,)`): The ids that the losses are over, rising; the targets among them.

        Returns:
            `tuple`: [`~d3llm.trainers.losses.TokenLosses`] of the rows that the sampler head has refined, those of the
            rows as they are, and the hidden states of [`DraftLosses.hidden`].
        """
        base = self.drafter.base
        hidden = self.hidden(clean, groups)
        refined = self.drafter.refine(hidden, base.get_input_embeddings()(groups.before))
        labels = torch.searchsorted(candidates, groups.targets.flatten())
        whole = base.get_output_embeddings()
        bias = None if whole.bias is None else whole.bias.detach()[candidates]
        head: Any = SimpleNamespace(weight=whole.weight.detach()[candidates], bias=bias)
        losses = [token_losses(rows.flatten(0, 2), head, labels, self.temperature) for rows in (refined, hidden)]
        return losses[0], losses[1], hidden
