"""What a decoder will decide at states that were not forwarded yet, and how likely.

The last forward showed a few states of each row and what the model proposes there. A state that comes next is near one
of them: what was proposed there stands in for what the model will propose here. The decoder's own rule says what it
would commit, and the scores how close it was to something else.
"""

from dataclasses import dataclass

import numpy as np

from .canvas import Booleans, Canvas, Floats, Integers, PerRow, Proposal, gather
from .configuration_diffusion import DiffusionGenerationConfig
from .noise import mix


# How fast the chance of another decision falls with its distance in doubt. For the next one of an order that is
# Plackett and Luce's model, with the odds of a score to this power; for sets that are sure enough, a logistic one.
# Chosen on validation problems of the quickstart teacher, where forwards depend little on them.
SHARPNESS_OF_ORDER = np.float32(2)
SHARPNESS_OF_SETS = np.float32(6)
LEAST_DOUBT = np.float32(1e-7)  # scores of float32 are no finer
# What a stand-in that lacks a token counts, where one that has another too counts 1: what is committed makes the rest
# surer, so that the scores of the state are between them, and more tokens are of it.
PRICE_OF_LACKING = np.float32(0.5)
# What follows from a wrong token is wrong too: a stand-in that has one is the last resort, whatever others lack.
PRICE_OF_WRONG = np.float32(1e4)

# Selections that commit a number of candidates, and those that compare scores with `threshold`. Of any other one it is
# taken that it commits those above some limit.
BY_NUMBER = ("count", "fraction")
BY_THRESHOLD = ("threshold", "scheduled_threshold", "threshold_or_count", "runs")


@dataclass
class Seen(PerRow):
    """States of each row that a forward has shown: B rows, N states, L positions.

    Attributes:
        kept (`Integers` of shape `(B,)`): The one that was kept.
        exists (`Booleans` of shape `(B, N)`): Rows may have fewer.
        committed (`Booleans` of shape `(B, N, L)`), tokens (`Integers` of shape `(B, N, L)`): The states.
        shown (`Booleans` of shape `(B, N, L)`): Positions for which tokens were proposed.
        proposed (`Integers` of shape `(B, N, L)`), score, forced_score (`Floats` of shape `(B, N, L)`): The proposals.
    """

    kept: Integers
    exists: Booleans
    committed: Booleans
    tokens: Integers
    shown: Booleans
    proposed: Integers
    score: Floats
    forced_score: Floats

    def proposal_at(self, number: Integers) -> tuple[Proposal, Booleans]:
        """What was proposed at a state of each row (B,), for all positions (B, L), and which of them were."""
        at = np.arange(len(number)), number
        return Proposal(self.proposed[at], self.score[at], self.forced_score[at]), self.shown[at]

    def nearest(self, canvas: Canvas) -> Integers:
        """The state (B,) that is nearest to this one; of equals the one that was kept, then the first."""
        committed, tokens = canvas.committed[:, None], canvas.tokens[:, None]
        lacks, more = committed & ~self.committed, self.committed & ~committed
        wrong = committed & self.committed & (tokens != self.tokens)
        distance = more.sum(axis=2, dtype=np.float32)
        for price, counted in ((PRICE_OF_LACKING, lacks), (PRICE_OF_WRONG, wrong)):
            distance += price * counted.sum(axis=2, dtype=np.float32)
        distance -= np.where(np.arange(distance.shape[1]) == self.kept[:, None], np.float32(0.25), 0)
        return np.where(self.exists, distance, np.inf).argmin(axis=1)


def doubt(score: Floats, config: DiffusionGenerationConfig) -> Floats:
    """The logarithm of how unsure a score is: of 1 - p for probabilities and margins, of the nats of an entropy. In it
    near-certain scores lie as far apart as others. A position is as unsure as it is far to the right."""
    if config.score == "position":
        return -score
    unsure = -score if config.score == "entropy" else 1 - score
    return np.log(np.maximum(unsure, LEAST_DOUBT))


def moved(score: Floats, before: Floats, now: Floats, config: DiffusionGenerationConfig) -> Floats:
    """A score, after its doubt has changed as that of another model has, from `before` to `now`."""
    if config.score == "position":
        return score
    factor = np.exp(doubt(now, config) - doubt(before, config))
    return score * factor if config.score == "entropy" else 1 - (1 - score) * factor


def chances(
    score: Floats,
    accepted: Booleans,
    eligible: Booleans,
    config: DiffusionGenerationConfig,
    is_certain: bool = False,
) -> tuple[Floats, Booleans]:
    """How likely the decision is, and each other one that differs from it in one candidate.

    Args:
        score (`Floats` of shape `(B, L)`): What stands in for the scores.
        accepted, eligible (`Booleans` of shape `(B, L)`): The decision at these scores, and what it chose from.
        is_certain (`bool`, *optional*, defaults to `False`): Whether the scores are known, so that no other decision
            can follow.

    Returns:
        `Floats` of shape `(B, L + 1)`: The chances, which sum to 1 or, without a decision, are 0: of the decision with
        each candidate in place of the least sure one that is accepted, or, in rows that commit all that are sure
        enough, with each candidate accepted or not; last of the decision itself.
        `Booleans` of shape `(B,)`: Rows of the first kind.
    """
    unsure = doubt(score, config)
    weakest = np.where(accepted, unsure, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    limit = weakest
    swaps = np.ones(len(score), dtype=np.bool_)
    if config.selection not in BY_NUMBER:
        next_one = np.where(eligible & ~accepted, unsure, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        if config.selection in BY_THRESHOLD:
            enough = -config.threshold if config.score == "entropy" else config.threshold
            limit = doubt(np.full_like(weakest, enough), config)
        else:
            limit = (weakest + np.where(np.isfinite(next_one), next_one, weakest)) / 2
        swaps = (weakest > limit)[:, 0]  # progress was forced
        limit = np.where(swaps[:, None], weakest, limit)
    flips = eligible & np.where(swaps[:, None], ~accepted, True) & (not is_certain)
    gap = np.where(flips, np.abs(unsure - np.where(np.isfinite(limit), limit, 0)), np.inf)
    sharpness = np.where(swaps, SHARPNESS_OF_ORDER, SHARPNESS_OF_SETS)[:, None]
    odds = np.append(np.exp(-sharpness * gap), np.ones_like(weakest), axis=1).astype(np.float32)
    odds = np.where(accepted.any(axis=1, keepdims=True), odds, 0)
    return odds / odds.sum(axis=1, keepdims=True).clip(min=1), swaps


class Outlook:
    """The states that may come next, as a graph that grows by its likeliest state: N of them so far, and of each the
    decisions that may follow. Different orders of the same commits lead to the same state, and their chances add up.

    Args:
        batch (`int`), length (`int`): Shape of the canvas.
        is_certain (`bool`, *optional*, defaults to `False`): As for [`chances`].
    """

    def __init__(self, batch: int, length: int, is_certain: bool = False):
        self.is_certain = is_certain
        self.names = np.zeros((batch, 0), dtype=np.int64)  # of the states: a hash of what is committed
        self.chance = np.zeros((batch, 0, length + 1), dtype=np.float32)
        self.leads_to = np.zeros((batch, 0, length + 1), dtype=np.int64)
        self.accepted = np.zeros((batch, 0, length), dtype=np.bool_)
        self.swaps = np.zeros((batch, 0), dtype=np.bool_)
        self.score = np.zeros((batch, 0, length), dtype=np.float32)
        self.proposed = np.zeros((batch, 0, length), dtype=np.int64)

    def add(
        self,
        canvas: Canvas,
        name: Integers,
        chance: Floats,
        proposal: Proposal,
        accepted: Booleans,
        eligible: Booleans,
        config: DiffusionGenerationConfig,
    ) -> None:
        """Adds a state of each row, which is reached with this `chance` (B,), and what may follow."""
        odds, swaps = chances(proposal.score, accepted, eligible, config, self.is_certain)
        keys = names_of(proposal.tokens)
        base = names_of_states(canvas) ^ np.bitwise_xor.reduce(np.where(accepted, keys, 0), axis=1)
        least = np.where(accepted, proposal.score, np.inf).argmin(axis=1)
        swapped = np.where(swaps, gather(keys, least[:, None])[:, 0], 0)
        leads_to = np.append(base[:, None] ^ swapped[:, None] ^ keys, base[:, None], axis=1)
        self.names = np.append(self.names, name[:, None], axis=1)
        known = (leads_to[:, :, None] == self.names[:, None]).any(axis=2)
        odds = np.where(known, 0, odds * chance[:, None])
        for kept, new in (
            ("chance", odds),
            ("leads_to", leads_to),
            ("accepted", accepted),
            ("swaps", swaps),
            ("score", proposal.score),
            ("proposed", proposal.tokens),
        ):
            setattr(self, kept, np.append(getattr(self, kept), new[:, None], axis=1))

    def likeliest(self) -> tuple[Integers, Booleans, Proposal, Integers, Floats]:
        """The likeliest state that is not one of the graph yet: its parent (B,), the candidates (B, L) to commit there
        and what is proposed for them, its name and its chance (B,)."""
        batch, options = len(self.chance), self.chance.shape[2]
        best = self.chance.reshape(batch, -1).argmax(axis=1)
        rows, parent, option = np.arange(batch), best // options, best % options
        name = self.leads_to[rows, parent, option]
        same = self.leads_to == name[:, None, None]
        chance = np.where(same, self.chance, 0).sum(axis=(1, 2))
        self.chance[same] = 0
        accepted, score = self.accepted[rows, parent].copy(), self.score[rows, parent]
        differs = option < options - 1
        swapped = differs & self.swaps[rows, parent]
        least = np.where(accepted, score, np.inf).argmin(axis=1)
        accepted[rows[swapped], least[swapped]] = False
        accepted[rows[differs], option[differs]] ^= True
        # in place of log-probabilities, which the run corrects, anything that is a number
        return parent, accepted, Proposal(self.proposed[rows, parent], score, score, score), name, chance


def names_of(tokens: Integers) -> Integers:
    """A hash (B, L) of each token (B, L) at its position."""
    return mix(mix(np.arange(tokens.shape[1]) + 1) ^ tokens)


def names_of_states(canvas: Canvas) -> Integers:
    """A hash (B,) of all that is committed."""
    return np.bitwise_xor.reduce(np.where(canvas.committed, names_of(canvas.tokens), 0), axis=1)
