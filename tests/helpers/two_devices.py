"""Two devices on a machine that has none: tensors carry a label, and an operation on tensors of two labels fails.

What PyTorch would refuse between two GPUs is refused here, `.device` and `.to(device)` see the labels, and modules get
what accelerate's hooks give them: inputs on the device of their weights.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
CPU = torch.device("cpu")
GET_DEVICE = torch.Tensor.device.__get__  # type: ignore[attr-defined]
MOVES = {torch.Tensor.to, torch.Tensor.type_as}


class Labels(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.of: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def label(self, tensor: torch.Tensor) -> torch.device:
        return self.of.get(tensor, CPU)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == GET_DEVICE:
            return self.label(args[0])
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        # a number in a tensor of the CPU may meet any other, and be an index
        labels = {self.label(tensor) for tensor in tensors if tensor.ndim or self.label(tensor) != CPU}
        wanted = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.device)]
        if len(labels) > 1 and func not in MOVES and func.__name__ not in ("__set__", "copy_"):
            raise RuntimeError(f"{func.__name__} of tensors on {sorted(map(str, labels))}")
        args, kwargs = tree_map_only(torch.device, lambda device: CPU, (args, kwargs))
        result = func(*args, **kwargs)
        label = wanted[0] if wanted else next((self.label(t) for t in tensors if self.label(t) != CPU), CPU)
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, torch.Tensor):
                if wanted and any(leaf is tensor for tensor in tensors) and self.label(leaf) != label:
                    return self._relabelled(result, label)
                self.of[leaf] = label
        return result

    def _relabelled(self, tensor: torch.Tensor, label: torch.device) -> torch.Tensor:
        """A move between labels stays in the memory and gives the tensor itself: a copy has the new label."""
        with torch._C.DisableTorchFunction():
            copy = tensor.clone()
        self.of[copy] = label
        return copy


@contextlib.contextmanager
def split_over_two_devices(model: torch.nn.Module, layers: torch.nn.ModuleList) -> Iterator[Labels]:
    """Puts the embeddings and the first of the layers on the first device, the rest on the second."""
    labels, hooks = Labels(), []
    second = {id(module) for layer in list(layers)[1:] for module in layer.modules()}
    second.add(id(model.get_output_embeddings()))
    for module in model.modules():
        device = SECOND if id(module) in second else FIRST
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            labels.of[tensor] = device

    def send(device: torch.device, values: Any) -> Any:
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), values)

    def align(module, args, kwargs):
        device = SECOND if id(module) in second else FIRST
        kept = {name: kwargs[name] for name in ("cache", "past_key_values") if name in kwargs}
        return send(device, args), send(device, {n: v for n, v in kwargs.items() if n not in kept}) | kept

    for module in (*layers, model.get_output_embeddings(), *(m for m in model.modules() if is_leaf(m, layers))):
        hooks.append(module.register_forward_pre_hook(align, with_kwargs=True))
    try:
        with labels:
            yield labels
    finally:
        for hook in hooks:
            hook.remove()


def is_leaf(module: torch.nn.Module, layers: torch.nn.ModuleList) -> bool:
    inside = {id(part) for layer in layers for part in layer.modules()}
    return id(module) not in inside and not list(module.children())
