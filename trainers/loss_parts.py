"""The parts of the loss of pseudo-trajectory distillation, as they are summed and logged."""

import torch
from torch import Tensor

from .pseudo_trajectory_config import PseudoTrajectoryConfig


# The means in the log, and the sum that each is divided by.
MEANS = {
    "cross_entropy": "masked",
    "complementary_cross_entropy": "complementary_masked",
    "certainty": "correct",
    "complementary_certainty": "complementary_correct",
    "divergence": "far",
    "discriminative": "rows",
    "order": "next",
    "own_cross_entropy": "own_masked",
    "aux_loss": "routed",
    "masked_entropy": "all",
    "share_correct": "all",
}
SUMS = [*MEANS, *dict.fromkeys(MEANS.values())]
DIVISORS = 4  # of the loss: the numbers n, n', n_far and rows of `total_loss`


def empty_totals(device: torch.device) -> dict[str, Tensor]:
    """The totals of training and of evaluation, `"train"` and `"eval"`, before the first batch."""
    return {mode: torch.zeros(len(SUMS) + DIVISORS, device=device) for mode in ("train", "eval")}


def totals_of(sums: dict[str, Tensor], counts: Tensor) -> Tensor:
    """
    What a batch adds to the totals.

    Args:
        sums (`dict[str, Tensor]`): Those in `SUMS` that a recipe has.
        counts (`Tensor` of shape `(4,)`): The divisors of the loss.

    Returns:
        `Tensor` of shape `(len(SUMS) + 4,)`: In float32.
    """
    zero = counts.new_zeros((), dtype=torch.float32)
    return torch.cat([torch.stack([sums.get(name, zero) for name in SUMS]), counts.float()])


def split_totals(totals: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Undoes [`totals_of`]: the sums by their names, and the divisors of the loss."""
    sums, counts = totals.split([len(SUMS), DIVISORS])
    return dict(zip(SUMS, sums.unbind(), strict=True)), counts


def means_of(sums: dict[str, Tensor]) -> dict[str, float]:
    """The means in `MEANS` that have anything to be taken over."""
    values = dict(zip(sums, torch.stack([*sums.values()]).tolist(), strict=True))
    return {name: values[name] / values[count] for name, count in MEANS.items() if values[count]}


def names_of_parts(args: PseudoTrajectoryConfig, *, has_routers: bool) -> list[str]:
    """
    The means that the log of a recipe has.

    Args:
        args ([`PseudoTrajectoryConfig`]): The recipe.
        has_routers (`bool`): Whether the model's routers have a loss.

    Returns:
        `list[str]`: Names in [`MEANS`].
    """
    given = {"complementary": args.layout == "complementary", "divergence": bool(args.kl_weight)}
    given |= {"discriminative": bool(args.ddo_weight), "order": bool(args.order_weight)}
    given |= {"own": bool(args.own_prediction_weight), "aux": has_routers}
    return [name for name in MEANS if given.get(name.partition("_")[0], True)]
