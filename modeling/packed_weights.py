"""Weights laid out once for products with few rows, on a CPU.

`F.linear` lays a float32 weight out anew in each call that has more than one row, which takes about as long as the
product itself. Weights that are laid out beforehand are only read, as for a single row.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn


FEW_ROWS = 8  # that the layout is chosen for; it is right for any number


def can_pack(weight: torch.Tensor) -> bool:
    """Whether a weight is one that packing makes faster: float32 on a CPU, with oneDNN in this build of torch."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class PackedWeights:
    """
    Packed copies of the weights of linear layers. They take as much memory again, and the layers keep their own.

    Args:
        layers (`Iterable[nn.Module]`): The layers. Those that cannot be packed stay as they are.
    """

    def __init__(self, layers: Iterable[nn.Module]):
        self.packed = [
            (layer, torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), FEW_ROWS))
            for layer in layers
            if type(layer) is nn.Linear and can_pack(layer.weight)
        ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Lets the layers multiply by the copies, without gradient. Afterwards they are as before."""
        for layer, weight in self.packed:
            layer.forward = partial(_product, layer, weight)
        try:
            yield
        finally:
            for layer, _ in self.packed:
                del layer.forward


def _product(layer: nn.Linear, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, layer.bias, "none", [], "")
