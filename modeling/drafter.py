"""A drafter: what lets an unchanged causal model draft several tokens in the forward that checks the last ones.

It is a gated LoRA, which acts on mask rows only and leaves every other row to the base (I-DLM, arXiv 2604.11035), an
embedding per mask row, and a sampler head that refines a mask row by the token drafted before it (arXiv 2507.11851).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from .drafter_base import check_base, describe_base, projections
from .drafter_config import DrafterConfig
from .drafter_files import read_drafter, write_drafter


class Adapter(nn.Module):
    """
    The low-rank addition to one projection.

    Args:
        inputs (`int`), outputs (`int`): Sizes of the projection.
        rank (`int`): Rank of the addition.
        scaling (`float`): What it is multiplied by.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scaling: float):
        super().__init__()
        self.scaling = scaling
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The addition (..., outputs) for rows (..., inputs)."""
        down, up = self.down.to(rows.dtype), self.up.to(rows.dtype)
        return F.linear(F.linear(rows, down), up) * self.scaling


class Drafter(nn.Module):
    """
    Drafts tokens with the forward of its base.

    Args:
        config ([`DrafterConfig`]): Window, sizes and base.
        base (`PreTrainedModel`): The causal model; it stays as it is and is not a part of this module.

    Attributes:
        first_mask_row (`int`, *optional*): While attached: the first mask row of a forward, whose later rows are mask
            rows too; `None` if it has none. The base's weights alone act on the rows before it.

    Example:

    ```python
    >>> drafter = Drafter.for_base(base, window=4, rank=16)
    >>> with drafter.attached():
    ...     drafter.first_mask_row = 0  # all rows of the forward are mask rows
    ...     hidden = base.model(inputs_embeds=drafter.mask_rows(4)[None]).last_hidden_state
    >>> drafts, confidences = drafter.propose(hidden, tokens)
    >>> drafter.save_pretrained("drafter")
    ```
    """

    def __init__(self, config: DrafterConfig, base: PreTrainedModel):
        super().__init__()
        self.config = config
        self.first_mask_row: int | None = None
        width, size = base.config.hidden_size, config.sampler_size
        self.mask_embeddings = nn.Parameter(torch.empty(config.window, width))
        self.sampler = nn.ModuleDict({"in": nn.Linear(2 * width, size, bias=False)})
        self.sampler["out"] = nn.Linear(size, width, bias=False)
        self._layers = projections(base)
        scaling = config.alpha / config.rank
        self.adapters = nn.ModuleDict(
            {
                path.replace(".", "/"): Adapter(layer.in_features, layer.out_features, config.rank, scaling)
                for path, layer in self._layers.items()
            }
        )
        self._base = (base,)  # in a tuple, since a module would become a part of this one
        self._head: torch.Tensor | None = None
        self._embedding_scale: float | None = None

    @property
    def base(self) -> PreTrainedModel:
        """The causal model."""
        return self._base[0]

    @property
    def embedding_scale(self) -> float:
        """One divided by the root mean square of the base's embedding matrix."""
        if self._embedding_scale is None:
            weight = self.base.get_input_embeddings().weight.detach()
            self._embedding_scale = float(weight.float().pow(2).mean().rsqrt())
        return self._embedding_scale

    @classmethod
    def for_base(
        cls,
        base: PreTrainedModel,
        *,
        window: int = 8,
        rank: int = 16,
        sampler_size: int | None = None,
        head_tokens: int | None = None,
        seed: int = 0,
    ) -> Drafter:
        """
        A new drafter, to be trained: the base's own mask rows, with a sampler that changes nothing yet.

        Args:
            base (`PreTrainedModel`): The causal model.
            window (`int`): Mask rows after a token, at most 8.
            rank (`int`): Rank of the LoRA.
            sampler_size (`int`, *optional*): Width of the sampler head, by default that of the base.
            head_tokens (`int`, *optional*): Drafts have ids below it; by default any id.
            seed (`int`): Seed of the initial values.

        Returns:
            [`Drafter`]: In float32 on the device of the base's embedding.

        Raises:
            `ValueError`: For a size out of its range, or a base that cannot draft.
        """
        check_base(base)
        config = DrafterConfig(
            window=window,
            sampler_size=sampler_size or base.config.hidden_size,
            head_tokens=head_tokens,
            rank=rank,
            alpha=rank,
            base=describe_base(base),
            base_name=base.name_or_path or None,
        )
        drafter = cls(config, base)
        random = torch.Generator().manual_seed(seed)
        embedding = base.get_input_embeddings().weight.detach()
        with torch.no_grad():
            noise = torch.randn(drafter.mask_embeddings.shape, generator=random) * 0.02
            drafter.mask_embeddings.copy_(embedding.float().mean(0).cpu() + noise)
            for weight in (drafter.sampler["in"].weight, *(adapter.down for adapter in drafter.adapters.values())):
                weight.copy_((torch.rand(weight.shape, generator=random) * 2 - 1) * (3 / weight.shape[1]) ** 0.5)
            drafter.sampler["out"].weight.zero_()
        return drafter.to(embedding.device)

    @classmethod
    def from_pretrained(cls, folder: str | Path, base: PreTrainedModel) -> Drafter:
        """
        Loads the drafter of a base.

        Args:
            folder (`str` or `Path`): As written by `save_pretrained`.
            base (`PreTrainedModel`): The causal model that it was trained for.

        Returns:
            [`Drafter`]: With its weights as stored, on the CPU.

        Raises:
            `OSError`: For a folder that lacks a file, or has a damaged one.
            `ValueError`: For a drafter of another base, or a base that cannot draft.
        """
        check_base(base)
        config, tensors = read_drafter(Path(folder))
        config.check_base(describe_base(base), folder)
        drafter = cls(config, base)
        drafter._load(tensors, folder)
        return drafter.eval().requires_grad_(False)

    def save_pretrained(self, folder: str | Path) -> None:
        """
        Writes the drafter: the LoRA as PEFT does, so that `PeftModel.from_pretrained(base, folder)` loads it, and the
        rest beside it, in bfloat16.

        Args:
            folder (`str` or `Path`): Made if it does not exist.
        """
        write_drafter(Path(folder), self.config, self._stored())

    def linear_layers(self) -> list[nn.Module]:
        """The layers of the base that its forward goes through here: the projections and the head."""
        return [*self._layers.values(), self.base.get_output_embeddings()]

    @contextmanager
    def attached(self) -> Iterator[Drafter]:
        """Lets the LoRA act on the mask rows of the base's forwards, see `first_mask_row`; the base is as before once
        the context ends."""
        hooks = [
            layer.register_forward_hook(self._hook(adapter))
            for layer, adapter in zip(self._layers.values(), self.adapters.values(), strict=True)
        ]
        try:
            yield self
        finally:
            self.first_mask_row = None
            for hook in hooks:
                hook.remove()

    def mask_rows(self, count: int) -> torch.Tensor:
        """
        Inputs of the mask rows after a token.

        Args:
            count (`int`): How many, at most the window.

        Returns:
            `torch.Tensor` of shape `(count, D)`: In the dtype of the base.
        """
        return self.mask_embeddings[:count].to(self.base.dtype)

    def refine(self, hidden: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """
        The sampler head: `h = g + W2 silu(W1 [g ; s e])`.

        Args:
            hidden (`torch.Tensor` of shape `(..., D)`): The normed hidden states g of mask rows.
            embedded (`torch.Tensor` of shape `(..., D)`): Embeddings e of the tokens before those predicted.

        Returns:
            `torch.Tensor` of shape `(..., D)`: The input of the base's head, in the dtype of `hidden`.
        """
        weights = [self.sampler[name].weight.to(hidden.dtype) for name in ("in", "out")]
        scaled = embedded.to(hidden.dtype) * self.embedding_scale
        return hidden + F.linear(F.silu(F.linear(torch.cat([hidden, scaled], dim=-1), weights[0])), weights[1])

    @torch.no_grad()
    def propose(
        self, hidden: torch.Tensor, tokens: torch.LongTensor, least_confidence: float = 0.0
    ) -> tuple[torch.LongTensor, torch.Tensor]:
        """
        Drafts greedily from a group of mask rows, each token given the one before.

        Args:
            hidden (`torch.Tensor` of shape `(B, K, D)`): Their normed hidden states.
            tokens (`torch.LongTensor` of shape `(B,)`): The tokens that the drafts follow.
            least_confidence (`float`): On the CPU, where it costs nothing to look, the chain ends once all rows are
                below it. Further drafts are token 0 with a confidence of 0.

        Returns:
            `(torch.LongTensor, torch.Tensor)` of shape `(B, K)`: The drafts, and for each the product of
            the probabilities up to it, in float32.
        """
        dtype, head = self.sampler["in"].weight.dtype, self._draft_head()
        drafts = tokens.new_zeros(hidden.shape[:2])
        confidences = torch.zeros(hidden.shape[:2], dtype=torch.float32, device=hidden.device)
        confidence = confidences.new_ones(hidden.shape[0])
        for number, rows in enumerate(hidden.to(dtype).unbind(1)):
            embedded = self.base.get_input_embeddings()(tokens).to(dtype)
            scores = F.linear(self.refine(rows, embedded), head).float()
            best, tokens = scores.max(dim=-1)
            confidence = confidence * (best - scores.logsumexp(dim=-1)).exp()
            drafts[:, number], confidences[:, number] = tokens, confidence
            if least_confidence and hidden.device.type == "cpu" and confidence.max() < least_confidence:
                break
        return drafts, confidences

    def for_decoding(self) -> Drafter:
        """Puts each part where and as it is used, the LoRA and the mask rows like the base; returns the drafter. The
        sampler keeps its dtype, in which drafts are made."""
        for layer, adapter in zip(self._layers.values(), self.adapters.values(), strict=True):
            for weight in adapter.parameters():
                # Column by column in memory, as products with few rows read it.
                weight.data = weight.data.to(layer.weight.device, self.base.dtype).t().contiguous().t()
        embedding = self.base.get_input_embeddings().weight
        self.mask_embeddings.data = self.mask_embeddings.data.to(embedding.device, self.base.dtype)
        self.sampler.to(self.base.get_output_embeddings().weight.device)
        self._head = None
        return self.eval().requires_grad_(False)

    def _draft_head(self) -> torch.Tensor:
        """The rows of the base's head that drafts choose from, in the dtype of the sampler."""
        dtype = self.sampler["in"].weight.dtype
        if self._head is None or self._head.dtype != dtype:
            self._head = self.base.get_output_embeddings().weight.detach()[: self.config.head_tokens].to(dtype)
        return self._head

    def _hook(self, adapter: Adapter) -> Any:
        """Called 7 times per layer: what does not change is looked up here."""
        down, up, scaling = adapter.down.detach().t(), adapter.up.detach().t(), adapter.scaling

        def add(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
            first = self.first_mask_row
            if first is None:
                return None
            rows = inputs[0]
            if torch.is_grad_enabled():
                return torch.cat([output[:, :first], output[:, first:] + adapter(rows[:, first:])], dim=1)
            if len(rows) == 1 and down.dtype == rows.dtype:
                output[0, first:].addmm_(rows[0, first:] @ down, up, alpha=scaling)
            else:
                output[:, first:] += adapter(rows[:, first:])
            return None

        return add

    def _stored(self) -> dict[str, torch.Tensor]:
        """Every weight by its name in the files."""
        stored = {"mask_embeddings": self.mask_embeddings}
        stored |= {f"sampler.{name}.weight": self.sampler[name].weight for name in ("in", "out")}
        for path, adapter in zip(self._layers, self.adapters.values(), strict=True):
            stored[f"base_model.model.{path}.lora_A.weight"] = adapter.down
            stored[f"base_model.model.{path}.lora_B.weight"] = adapter.up
        return stored

    def _load(self, tensors: dict[str, torch.Tensor], folder: str | Path) -> None:
        expected = self._stored()
        for name in {**expected, **tensors}:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            wanted = tuple(expected[name].shape) if name in expected else "no such weight"
            if found != wanted:
                raise ValueError(f"{name} in {folder} is {found}, and by its configs {wanted}: the files do not match")
        for name, parameter in expected.items():
            parameter.data = tensors[name]
