"""What the weights of a model in memory consist of."""

from collections.abc import Iterator
from typing import Any


def plain_tensors(value: Any) -> Iterator[Any]:
    """
    The tensors that hold a value of a state dict: a tensor itself, or the parts of a quantized weight.

    Libraries have their own forms of quantized weights: torchao a tensor that wraps integers and scales, torch.ao a
    tuple of a packed weight and a bias, bitsandbytes bytes. Few of PyTorch's functions work on the first two.

    Args:
        value (`Any`): The value. One that holds no tensor, such as a dtype, has no parts.

    Yields:
        `torch.Tensor`: Tensors without a wrapper.
    """
    if isinstance(value, tuple):
        for part in value:
            yield from plain_tensors(part)
    elif hasattr(value, "__tensor_flatten__"):  # PyTorch's protocol for tensors that wrap others
        for name in value.__tensor_flatten__()[0]:
            yield from plain_tensors(getattr(value, name))
    elif hasattr(value, "numel"):
        yield value.dequantize() if value.is_quantized else value
