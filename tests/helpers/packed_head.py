"""A head whose weights are packed, as quantization leaves a layer: two numbers in a byte, and a shape of its own."""

import torch
from torch import nn
from transformers import PreTrainedModel


class PackedLinear(nn.Linear):
    """What `full` computes, with a `weight` (n, 1) of bytes, as bitsandbytes has it."""

    def __init__(self, full: nn.Linear):
        super().__init__(full.in_features, full.out_features, bias=False)
        self.full = (full,)  # of no module: its weights are none of the model's
        packed = torch.zeros(full.weight.numel() // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.rows: list[int] = []

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.rows.append(states[..., 0].numel())
        return self.full[0](states)


def pack_head(model: PreTrainedModel) -> PackedLinear:
    """Puts a packed head in the place of the model's, and returns it."""
    head = PackedLinear(model.get_output_embeddings())
    model.set_output_embeddings(head)
    return head
