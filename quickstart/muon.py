"""Muon in float32, for CPUs without bfloat16 arithmetic, whose threads share the matrices."""

from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial

import torch
from torch import Tensor


@torch.no_grad()
def orthogonalize(update: Tensor, iterations: int) -> Tensor:
    """
    Newton-Schulz iteration towards the nearest semi-orthogonal matrix, by the quintic of Muon (Jordan et al. 2024).

    Args:
        update (`Tensor` of shape `(rows, columns)`): A matrix.
        iterations (`int`): Number of iterations.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = update.shape[0] > update.shape[1]
    x = update.T if is_tall else update
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


class Muon(torch.optim.Optimizer):
    """
    Muon with Nesterov momentum and decoupled weight decay, its updates scaled to the RMS of AdamW's (Liu et al. 2025,
    arXiv 2502.16982).

    `torch.optim.Muon` computes in bfloat16, which is slow on CPUs that lack it.

    Args:
        params (`Iterable[Tensor]`): Matrices.
        lr (`float`): Learning rate.
        momentum (`float`), weight_decay (`float`): As in `torch.optim.Muon`.
        iterations (`int`): Number of Newton-Schulz iterations.
        workers (`Executor`, *optional*): Threads that share the matrices, with the same result.
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
            params = [param for param in group["params"] if param.grad is not None]
            updates = []
            for param in params:
                state = self.state[param]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(param)
                state["momentum"].lerp_(param.grad, 1 - group["momentum"])
                updates.append(param.grad.lerp(state["momentum"], group["momentum"]))
            steps = self.map(partial(orthogonalize, iterations=group["iterations"]), updates)
            for param, update in zip(params, steps, strict=True):
                scale = 0.2 * max(param.shape) ** 0.5 * group["lr"]
                param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)
