"""Classifier-free guidance: every row is forwarded with and without what was given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .canvas import Booleans, Canvas, Integers


class Unguided:
    """No guidance: every row is forwarded once, as it is."""

    def widen(self, inputs: dict[str, Any], given: Booleans) -> dict[str, Any]:
        """Turns the inputs of rows, some of whose tokens are `given`, into those of the forward."""
        return inputs

    def narrow(self, states: torch.Tensor) -> torch.Tensor:
        """Turns the hidden states of the forward into those of the rows, for the head of [`~Unguided.guide`]."""
        return states

    def guide(self, head: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        """The head for such hidden states."""
        return head

    def forwarded(self, rows: Integers) -> Integers:
        """Rows of the forward that belong to these rows (R,)."""
        return rows

    def widen_rows(self, values: torch.Tensor) -> torch.Tensor:
        """Turns values of the rows (B, ..) into those of the forward."""
        return values


class Guidance(Unguided):
    """Classifier-free guidance without a second model (LLaDA, arXiv 2502.09992, appendix A.2).

    Every row is forwarded twice, as it is and with the given tokens masked; the logits are
    `unconditional + (1 + scale) * (conditional - unconditional)`.
    """

    def __init__(self, canvas: Canvas, scale: float, mask_token_id: int):
        self.canvas = canvas
        self.scale = scale
        self.mask_token_id = mask_token_id

    def widen(self, inputs: dict[str, Any], given: Booleans) -> dict[str, Any]:
        """Turns the inputs of B rows into those of 2 B rows, the unconditional ones last."""
        conditional = inputs["input_ids"]
        given = torch.from_numpy(given).to(conditional.device)
        unconditional = conditional.masked_fill(given, self.mask_token_id)
        wide = {name: self.widen_rows(value) if torch.is_tensor(value) else value for name, value in inputs.items()}
        return wide | {"input_ids": torch.cat([conditional, unconditional])}

    def narrow(self, states: torch.Tensor) -> torch.Tensor:
        """Turns hidden states (2 B, K, D) into (B, K, 2 D), for the head of [`~Guidance.guide`]."""
        return torch.cat(states.chunk(2), dim=-1)

    def guide(self, head: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        def guided(states: torch.Tensor) -> torch.Tensor:
            conditional, unconditional = (head(half) for half in states.chunk(2, dim=-1))
            return unconditional + (1 + self.scale) * (conditional - unconditional)

        return guided

    def forwarded(self, rows: Integers) -> Integers:
        return np.concatenate([rows, rows + len(self.canvas.given)])

    def widen_rows(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values] * 2)
