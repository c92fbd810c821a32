"""The parts of the loss of pseudo-trajectory distillation, as they are summed and logged."""

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
