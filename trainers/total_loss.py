"""The loss of a step, from the sums over its positions."""

from torch import Tensor

from .pseudo_trajectory_config import PseudoTrajectoryConfig


def total_loss(
    sums: dict[str, Tensor], counts: Tensor, args: PseudoTrajectoryConfig, router_weight: float = 0.0
) -> Tensor:
    """
    With n the number of positions of each kind, the loss is

        (sum CE / n  +  sum CE' / n'  +  w_H (sum H / n [+ sum H' / n'])  +  w_KL sum KL / n_far
         +  w_DDO sum DDO / rows  +  w_O sum O / (n + n_far)  +  w_own sum CE_own / (n + n')
         +  w_router sum U / rows) * loss_scale

    where ' marks the complementary view, and H is summed over correctly predicted positions. DDO is a number for
    each row of a view that has positions in the loss. H and the loss O of the order are of the next commits alone,
    and those of O may be far. CE_own is the cross entropy where the masks of both views show the student's own
    predictions. U is how unevenly a micro-batch uses the experts, for each of its rows.

    Args:
        sums (`dict[str, Tensor]`): The sums, from `PseudoTrajectoryTrainer.sum_up` and the losses of rows.
        counts (`Tensor` of shape `(4,)`): n, n', n_far and rows.
        args ([`PseudoTrajectoryConfig`]): The recipe.
        router_weight (`float`, *optional*, defaults to 0.0): The model's `router_aux_loss_coef`, if its routers have
            a loss.

    Returns:
        `Tensor`: A scalar.
    """
    masked, complementary_masked, far, in_loss = counts.clamp(min=1e-9)
    correct, complementary_correct = masked, complementary_masked
    if args.normalization == "microbatch":
        correct, complementary_correct = sums["correct"].clamp(min=1), sums["complementary_correct"].clamp(min=1)
    loss = sums["cross_entropy"] / masked + sums["complementary_cross_entropy"] / complementary_masked
    loss = loss + args.entropy_weight * sums["certainty"] / correct
    if args.complementary_entropy:
        loss = loss + args.entropy_weight * sums["complementary_certainty"] / complementary_correct
    if args.order_weight:
        loss = loss + args.order_weight * sums["order"] / (masked + far)
    if args.ddo_weight:
        loss = loss + args.ddo_weight * sums["discriminative"] / in_loss
    if args.own_prediction_weight:
        loss = loss + args.own_prediction_weight * sums["own_cross_entropy"] / (masked + complementary_masked)
    if "aux_loss" in sums:
        loss = loss + router_weight * sums["aux_loss"] / in_loss
    return (loss + args.kl_weight * sums["divergence"] / far) * args.loss_scale
