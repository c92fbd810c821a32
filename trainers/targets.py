"""What the loss of a batch needs: its noisy canvases, and the positions that it covers."""

from typing import Any

import torch

from .corruption import Corruption, mask_probability, ranks
from .pseudo_trajectory_config import PseudoTrajectoryConfig


def add_targets(
    batch: dict[str, Any], corruption: Corruption, args: PseudoTrajectoryConfig, mask_token_id: int
) -> None:
    """
    Adds to a batch of B rows the inputs of the loss: `noisy_ids` `(views * B, L)`; `supervised`, `far`, `rank` and
    `is_next`, each `(views, B, N)`; `weights` `(B, N)`; and `counts` `(4,)`, the denominators of the means: positions
    of each view that get the cross entropy, those that get the divergence, and rows of the views with positions in the
    loss. For block-causal attention also `blocks` `(B, L)`.

    `rank` is the place of a position in the loss among those of its row and view, in the order of the trajectory, from
    0. Among those with the same commit step, those further left are first: where an early stop filled the tail, the
    leftmost EOS is the one that was committed. `is_next` are the first `next_commits`, or all.

    Args:
        batch (`dict[str, Any]`): From [`~d3llm.trainers.collator.TrajectoryCollator`].
        corruption ([`~d3llm.trainers.corruption.Corruption`]): One view of it or two.
        args ([`PseudoTrajectoryConfig`]): The recipe.
        mask_token_id (`int`): The mask token.
    """
    views, _, length = corruption.masked.shape
    noisy = batch["input_ids"].repeat(views, 1, 1)
    noisy[..., -length:].masked_fill_(corruption.masked, mask_token_id)
    far = torch.zeros_like(corruption.supervised)
    if args.kl_weight:
        steps = batch["commit_steps"].expand_as(far)
        latest = steps.masked_fill(~corruption.supervised, torch.iinfo(steps.dtype).max)
        far = corruption.supervised & (steps >= latest.amin(dim=-1, keepdim=True) + args.near_forwards)
    counts = (corruption.supervised & ~far).sum(dim=(1, 2))
    weights = torch.ones(batch["commit_steps"].shape, device=corruption.ratio.device)
    if args.loss_weighting == "inverse_ratio":
        ratio = corruption.ratio if corruption.ratio.ndim == 2 else corruption.ratio[:, None]
        weights = (1 / mask_probability(ratio)).expand_as(weights)
        counts = (corruption.end - corruption.start).sum().expand(views)
    rows = corruption.supervised.any(dim=2).sum()
    key = batch["commit_steps"].long() * length + torch.arange(length, device=far.device)
    batch["rank"] = ranks(key.expand_as(far), corruption.supervised)
    batch["is_next"] = corruption.supervised & (batch["rank"] < (args.next_commits or length))
    batch["noisy_ids"] = noisy.flatten(0, 1)
    batch["supervised"], batch["far"], batch["weights"] = corruption.supervised, far, weights
    batch["counts"] = torch.cat([counts, counts.new_zeros(2 - views), torch.stack([far.sum(), rows])])
    if corruption.blocks is not None:
        batch["blocks"] = corruption.blocks
