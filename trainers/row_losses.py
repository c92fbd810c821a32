"""Losses besides those of single masked positions: of the order, of discrimination, of own predictions, of routers."""

import torch
from torch import Tensor

from ..generation.foresight import SHARPNESS_OF_ORDER
from .losses import TokenLosses, discriminative_losses
from .own_predictions import sum_up_own
from .pseudo_trajectory_config import PseudoTrajectoryConfig


# Below it, the gradient of 1 - p in float32 is noise.
LEAST_DOUBT = 1e-6
NOWHERE = -1e4  # the score of a place in the order that a row does not have: e to its power is 0


def sum_up_rows(
    losses: TokenLosses, inputs: dict[str, Tensor], picked: tuple[Tensor, ...], args: PseudoTrajectoryConfig
) -> dict[str, Tensor]:
    """
    The sums and counts of those losses that a recipe has.

    Args:
        losses ([`~d3llm.trainers.losses.TokenLosses`]): Losses of M positions.
        inputs (`dict[str, Tensor]`): A batch after [`~d3llm.trainers.targets.add_targets`].
        picked (`tuple[Tensor, ...]`): View, row and position of each.
        args ([`PseudoTrajectoryConfig`]): The recipe.

    Returns:
        `dict[str, Tensor]`: Scalars in float32.
    """
    views, rows, length = inputs["supervised"].shape
    row = picked[0] * rows + picked[1]
    sums: dict[str, Tensor] = {}
    if args.ddo_weight:
        of_rows = discriminative_losses(losses, row, views * rows, args.ddo_beta, args.ddo_fake_weight)
        sums |= {"discriminative": of_rows.sum(), "rows": inputs["counts"][3].float()}
    if args.order_weight:
        of_order = order_losses(losses.cross_entropy, row, inputs["rank"][picked], views * rows, length)
        is_next = inputs["is_next"][picked].float()
        sums |= {"order": (of_order * is_next).sum(), "next": is_next.sum()}
    if losses.own_cross_entropy is not None:
        sums |= sum_up_own(losses.own_cross_entropy, inputs, picked)
    if losses.aux_loss is not None:
        of_batch = inputs["counts"][3].float()
        sums |= {"aux_loss": losses.aux_loss.float() * of_batch, "routed": of_batch}
    return sums


def order_losses(cross_entropy: Tensor, row: Tensor, rank: Tensor, rows: int, length: int) -> Tensor:
    """
    How likely each position is the next commit once those before it in the order are committed, if the scores stay
    what they are in the state shown: ListMLE (Xia et al., ICML 2008), in the model of Plackett and Luce with which
    drafts guess the order, [`~d3llm.generation.foresight.chances`]. With u = 1 - p(label) and b the sharpness,

        -log( u_i^-b / sum of u_j^-b over the row's positions j that are not before i )

    Args:
        cross_entropy (`Tensor` of shape `(M,)`): -log p(label), nats.
        row (`torch.LongTensor` of shape `(M,)`): The row of each position.
        rank (`torch.LongTensor` of shape `(M,)`): Its place in the order of its row, from 0, below `length`.
        rows (`int`): Number of rows.
        length (`int`): Positions of a row.

    Returns:
        `Tensor` of shape `(M,)`: Nats; 0 for the last of each row.
    """
    unsure = -torch.expm1(-cross_entropy)
    score = -float(SHARPNESS_OF_ORDER) * unsure.clamp(min=LEAST_DOUBT).log()
    table = score.new_full((rows, length), NOWHERE).index_put((row, rank), score)
    left = table.flip(1).logcumsumexp(dim=1).flip(1)
    return left[row, rank] - score
