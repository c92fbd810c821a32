"""Rollouts: what a policy decoded, and the states of those runs in which it committed tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation import DecodedRow, generate_in_batches
from ..evaluation.batches import left_pad
from ..generation.noise import GOLDEN_GAMMA, mix
from .corruption import draw, ranks


LARGEST_SEED = 2**62 - 1
NEVER = 2**31 - 1  # a forward that is not made
SEEDS = 1  # beside the numbers of `draw`, which choose the states


class RolloutSampler(Sampler[int]):
    """
    The order of the rollouts: in each step some prompts, of each prompt all of its copies, and each step as many times
    as its rollouts are trained on. A rollout is prompt * copies + copy.

    The prompts of an epoch are in a random order, which depends on the seed and the epoch alone.

    Args:
        prompts (`int`): Number of prompts.
        copies (`int`): Rollouts of a prompt.
        prompts_per_step (`int`): Prompts of a step, on all processes.
        repeats (`int`): Steps with the same prompts.
        seed (`int`): Seed of the order.
        step (`Callable[[], int]`): The current optimizer step. The epoch follows from it, also in a resumed run.
    """

    def __init__(self, prompts: int, copies: int, prompts_per_step: int, repeats: int, seed: int, step: Any):
        self.prompts, self.copies, self.seed, self.step = prompts, copies, seed, step
        self.rounds, self.prompts_per_step, self.repeats = prompts // prompts_per_step, prompts_per_step, repeats

    def __len__(self) -> int:
        return self.rounds * self.repeats * self.prompts_per_step * self.copies

    def __iter__(self) -> Iterator[int]:
        epoch = self.step() // (self.rounds * self.repeats)
        numbers = draw(self.seed, epoch, torch.zeros(1, dtype=torch.long), self.prompts).positions[0]
        order = numbers.argsort(stable=True)[: self.rounds * self.prompts_per_step]
        rollouts = order.reshape(self.rounds, 1, -1, 1) * self.copies + torch.arange(self.copies)
        return iter(rollouts.expand(-1, self.repeats, -1, -1).flatten().tolist())


def seeds_of(seed: int, number: int, index: Tensor) -> list[int]:
    """
    The seeds of rollouts, which depend on the run's seed, the round and the rollout alone.

    Args:
        seed (`int`): Seed of the run.
        number (`int`): The round, from 0.
        index (`torch.LongTensor` of shape `(n,)`): The rollouts.

    Returns:
        `list[int]`: Of 62 bits.
    """
    state = mix(torch.full_like(index, seed) + SEEDS * GOLDEN_GAMMA)
    return (mix(mix(state + number) + index) & LARGEST_SEED).tolist()


@dataclass(frozen=True)
class DecodedRollout:
    """
    A rollout, and what its positions held during the run.

    Attributes:
        row ([`~d3llm.evaluation.DecodedRow`]): Without its history.
        committed_ids (`Tensor` of shape `(N,)`): The token that each position was committed with.
        replaced (`Tensor` of shape `(N,)`): The forward after which the end of the row replaced it; `NEVER` otherwise.
    """

    row: DecodedRow
    committed_ids: Tensor
    replaced: Tensor


def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    **options: Any,
) -> list[DecodedRollout]:
    """
    Decodes rollouts.

    Args:
        model (`PreTrainedModel`): The policy, without adapters around it, in evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        prompts (`Sequence[Sequence[int]]`): Token ids, of each rollout.
        seeds (`Sequence[int]`): From [`seeds_of`].
        options (`Any`): `batch_size`, and fields of `DiffusionGenerationConfig`.

    Returns:
        `list[DecodedRollout]`: In the order of the prompts.
    """
    batches = generate_in_batches(model, tokenizer, prompts, seeds=seeds, output_history=True, **options)
    rollouts = [_without_history(row) for batch in batches for row in batch.rows]
    return sorted(rollouts, key=lambda rollout: rollout.row.index)


def _without_history(row: DecodedRow) -> DecodedRollout:
    """What is needed of the history, which is as long as there are forwards."""
    history = row.history.cpu()  # type: ignore[union-attr]
    forward = torch.tensor(row.commit_steps + row.tail_steps) - 1
    committed = history.gather(0, forward[None])[0]
    changed = (history != committed) & (torch.arange(len(history))[:, None] > forward)
    replaced = torch.where(changed.any(dim=0), changed.long().argmax(dim=0) + 1, NEVER)
    return DecodedRollout(replace(row, history=None), committed, replaced)


@dataclass
class Rollouts:
    """
    n rollouts of a process as tensors, with regions of N positions that begin in one column.

    Attributes:
        index (`Tensor` of shape `(n,)`): Which they are, see [`RolloutSampler`].
        input_ids, attention_mask (`Tensor` of shape `(n, L)`): The canvases after the last forward.
        commit_steps (`Tensor` of shape `(n, N)`): The forward, counted from 1, that committed each position.
        committed_ids, replaced (`Tensor` of shape `(n, N)`): See [`DecodedRollout`]: a decoder of several blocks
            commits tokens that an earlier EOS then replaces.
        in_response (`torch.BoolTensor` of shape `(n, N)`): Up to and including the first EOS.
        advantages (`Tensor` of shape `(n,)`): From [`~d3llm.trainers.rewards.advantages_of`].
        kept, right (`torch.BoolTensor` of shape `(n,)`): Whether it is trained on, and whether its answer is right.
        old_log_p (`Tensor` of shape `(n, N)`): The log-probability of each token in the state that committed it, under
            the policy that decoded the rollouts; written by the first step of a round.
    """

    index: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    commit_steps: Tensor
    committed_ids: Tensor
    replaced: Tensor
    in_response: Tensor
    advantages: Tensor
    kept: Tensor
    right: Tensor
    old_log_p: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The attributes by their names, for a file."""
        return {field.name: getattr(self, field.name).contiguous() for field in fields(self)}


def rollouts_of(
    index: Tensor,
    prompts: list[list[int]],
    decoded: Sequence[DecodedRollout],
    *,
    fill_token_id: int,
    pad_token_id: int,
) -> Rollouts:
    """
    Puts decoded rollouts into tensors.

    Args:
        index (`Tensor` of shape `(n,)`): Which rollouts they are.
        prompts (`list[list[int]]`): Their prompts.
        decoded (`Sequence[DecodedRollout]`): From [`decode`].
        fill_token_id (`int`): What the decoder puts after the end.
        pad_token_id (`int`): Padding, on the left.

    Returns:
        [`Rollouts`]: Without advantages; all are kept, and none is right.
    """
    rows = [rollout.row for rollout in decoded]
    prompt_ids, prompt_mask = left_pad(prompts, pad_token_id)
    regions = torch.tensor([row.token_ids + [fill_token_id] * len(row.tail_steps) for row in rows])
    steps = torch.tensor([row.commit_steps + row.tail_steps for row in rows])
    lengths = torch.tensor([len(row.token_ids) for row in rows])
    return Rollouts(
        index=index,
        input_ids=torch.cat([prompt_ids, regions], dim=1),
        attention_mask=torch.cat([prompt_mask, torch.ones_like(regions)], dim=1),
        commit_steps=steps,
        committed_ids=torch.stack([rollout.committed_ids for rollout in decoded]),
        replaced=torch.stack([rollout.replaced for rollout in decoded]),
        in_response=torch.arange(steps.shape[1]) < lengths[:, None],
        advantages=torch.zeros(len(rows)),
        kept=torch.ones(len(rows), dtype=torch.bool),
        right=torch.zeros(len(rows), dtype=torch.bool),
        old_log_p=torch.zeros(steps.shape),
    )


@dataclass(frozen=True)
class States:
    """
    R states of rollouts: what was committed before a forward, and what that forward committed.

    Attributes:
        rollout (`Tensor` of shape `(R,)`): The row in [`Rollouts`].
        forward (`Tensor` of shape `(R,)`): The forward, counted from 1.
        weight (`Tensor` of shape `(R,)`): What a state stands for: the number of states of its rollout over that of
            those chosen.
    """

    rollout: Tensor
    forward: Tensor
    weight: Tensor

    def parts(self, count: int) -> list["States"]:
        """`count` parts whose lengths differ by at most 1."""
        split = (value.tensor_split(count) for value in (self.rollout, self.forward, self.weight))
        return [States(*part) for part in zip(*split, strict=True)]


def choose_states(rollouts: Rollouts, limit: int | None, *, seed: int, number: int, at_least: int = 1) -> States:
    """
    The states in which tokens of the response were committed: all of them, or of each rollout `limit` that are drawn
    by (seed, round, rollout). The expectation of a sum over the chosen, by their weights, is the sum over all.

    Args:
        rollouts ([`Rollouts`]): The rollouts.
        limit (`int`, *optional*): States of a rollout; all by default.
        seed (`int`), number (`int`): Seed of the run, and the round.
        at_least (`int`, *optional*, defaults to 1): States to return at least; those of rollouts that are not kept
            make up for missing ones.

    Returns:
        [`States`]: Those of rollouts that are kept, in the order of the rollouts.
    """
    steps = rollouts.commit_steps.masked_fill(~rollouts.in_response, 0)
    table = torch.zeros(len(steps), int(steps.max()) + 1, dtype=torch.bool).scatter_(1, steps, True)
    table[:, 0] = False
    chosen = table
    if limit is not None:
        key = (draw(seed, number, rollouts.index, table.shape[1]).positions * 2**24).long()
        chosen = table & (ranks(key, table) < limit)
    rollout, forward = chosen.nonzero(as_tuple=True)
    weight = (table.sum(dim=1) / chosen.sum(dim=1).clamp(min=1))[rollout]
    kept = rollouts.kept[rollout]
    place = (~kept).long().argsort(stable=True)[: max(int(kept.sum()), at_least)]
    return States(rollout[place], forward[place], weight[place])


def batch_of_states(rollouts: Rollouts, states: States, mask_token_id: int) -> dict[str, Tensor]:
    """
    The inputs of the loss for R states, in which M tokens were committed.

    Args:
        rollouts ([`Rollouts`]): The rollouts.
        states ([`States`]): Some of their states.
        mask_token_id (`int`): The mask token.

    Returns:
        `dict[str, Tensor]`: `input_ids`, `attention_mask` (R, L): the states; `picked` (2, M): rows and columns of the
        tokens; `labels`, `rollout`, `position`, `advantages`, `old_log_p` (M,); and their weights in the means:
        `in_policy`, of which those of a rollout sum to 1 (in expectation), `in_tokens`, and `in_right`, 0 for wrong
        answers. All are 0 for rollouts that are not kept.
    """
    steps, inside = rollouts.commit_steps[states.rollout], rollouts.in_response[states.rollout]
    input_ids, forward = rollouts.input_ids[states.rollout], states.forward[:, None]
    start = input_ids.shape[1] - steps.shape[1]
    row, position = ((steps == forward) & inside).nonzero(as_tuple=True)
    rollout = states.rollout[row]
    picked = torch.stack([row, start + position])
    labels = input_ids[tuple(picked)]
    shown = torch.where(
        rollouts.replaced[states.rollout] < forward, input_ids[:, start:], rollouts.committed_ids[states.rollout]
    )
    input_ids[:, start:] = shown.masked_fill(steps >= forward, mask_token_id)
    weight = states.weight[row] * rollouts.kept[rollout]
    return {
        "input_ids": input_ids,
        "attention_mask": rollouts.attention_mask[states.rollout],
        "picked": picked,
        "labels": labels,
        "rollout": rollout,
        "position": position,
        "advantages": rollouts.advantages[rollout],
        "old_log_p": rollouts.old_log_p[rollout, position],
        "in_policy": weight / rollouts.in_response.sum(dim=1)[rollout],
        "in_tokens": weight,
        "in_right": weight * rollouts.right[rollout],
    }
