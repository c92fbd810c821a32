"""Muon in float32, which batches all matrices of the same shape, for CPUs without bfloat16 arithmetic."""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial

import torch
from torch import Tensor


CHUNK = 4  # matrices of a shape that one worker takes at a time


@torch.no_grad()
def orthogonalize(update: Tensor, iterations: int) -> Tensor:
    """
    Newton-Schulz iteration towards the nearest semi-orthogonal matrices, by the quintic of Muon (Jordan et al. 2024).

    Args:
        update (`Tensor` of shape `(N, rows, columns)`): Matrices.
        iterations (`int`): Number of iterations.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = update.shape[-2] > update.shape[-1]
    x = update.mT if is_tall else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class BatchedMuon(torch.optim.Optimizer):
    """
    Muon with Nesterov momentum and decoupled weight decay, its updates scaled to the RMS of AdamW's (Liu et al. 2025,
    arXiv 2502.16982).

    `torch.optim.Muon` processes one matrix at a time, and computes in bfloat16, which is slow on CPUs that lack it.

    Args:
        params (`Iterable[Tensor]`): Matrices.
        lr (`float`): Learning rate.
        momentum (`float`), weight_decay (`float`): As in `torch.optim.Muon`.
        iterations (`int`): Number of Newton-Schulz iterations.
        workers (`Executor`, *optional*): Threads that share the matrices of a shape, with the same result.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iterations: int = 5,
        workers: Executor | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "iterations": iterations}
        super().__init__(params, defaults)
        self.map = map if workers is None else workers.map

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    by_shape[param.shape].append(param)
            for shape, params in by_shape.items():
                updates = []
                for param in params:
                    state = self.state[param]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(param)
                    state["momentum"].lerp_(param.grad, 1 - group["momentum"])
                    updates.append(param.grad.lerp(state["momentum"], group["momentum"]))
                scale = 0.2 * max(shape) ** 0.5 * group["lr"]
                chunks = torch.stack(updates).split(CHUNK)
                steps = torch.cat(list(self.map(partial(orthogonalize, iterations=group["iterations"]), chunks)))
                for param, update in zip(params, steps, strict=True):
                    param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)
