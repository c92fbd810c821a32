"""The clipped objective of a policy, and its divergence from a reference, for each token."""

import torch
from torch import Tensor


def policy_losses(
    log_p: Tensor, old_log_p: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> tuple[Tensor, Tensor]:
    """
    The clipped surrogate of PPO (arXiv 1707.06347, equation 7) as GRPO takes it (arXiv 2402.03300, equation 3). With
    the ratio r = p / p_old and the advantage A of the token's rollout,

        -min( r A,  clip(r, 1 - epsilon, 1 + epsilon_high) A )

    Args:
        log_p (`Tensor` of shape `(M,)`): log p of each token in the state that committed it.
        old_log_p (`Tensor` of shape `(M,)`): The same of the policy that decoded it.
        advantages (`Tensor` of shape `(M,)`): A.
        epsilon (`float`), epsilon_high (`float`): The range of ratios with a gradient.

    Returns:
        `tuple[Tensor, Tensor]`: The losses `(M,)`, and whether the clip holds `(M,)`.
    """
    ratio = (log_p - old_log_p).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    objective, bound = ratio * advantages, clipped * advantages
    return -torch.minimum(objective, bound), bound < objective


def divergences(log_p: Tensor, reference_log_p: Tensor) -> Tensor:
    """
    The estimator "k3" of KL(policy ‖ reference) (GRPO, arXiv 2402.03300, equation 4), never negative:

        q / p - log(q / p) - 1

    Args:
        log_p (`Tensor` of shape `(M,)`): log p of tokens that the policy sampled.
        reference_log_p (`Tensor` of shape `(M,)`): log q of the reference.

    Returns:
        `Tensor` of shape `(M,)`: Nats.
    """
    difference = reference_log_p - log_p
    return difference.exp() - difference - 1
