"""Rewards, their normalisation in groups, filtering, the clipped objective: against numbers worked out by hand."""

import math

import pytest
import torch

from d3llm.evaluation.answer_checks import check_number
from d3llm.trainers.policy_loss import divergences, policy_losses
from d3llm.trainers.rewards import ConstantRewards, Correctness, Speed, advantages_of, informative, rewards_of


ROLLOUTS = {
    "prompts": ["p"] * 4,
    "completions": ["so 7", "so 8", "7", "7 apples"],
    "completion_ids": [[3] * 12, [3] * 6, [3], [3] * 8],
    "forwards": [4, 2, 1, 2],
    "ended": [True, True, False, True],
    "solution": ["#### 7"] * 4,
}
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
RIGHT = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
SPEED = [2.0, 4.0, 2.0, 4.0, 10.0, 30.0, 30.0, 10.0]


def test_an_answer_is_right_if_it_ends_and_the_check_says_so():
    correctness = Correctness(check_number, "solution")
    speed, of_right = Speed(), Speed(of=correctness)
    rewards = rewards_of([correctness, speed, of_right], ROLLOUTS, 4)
    assert rewards.T.tolist() == [[1, 0, 0, 1], [3, 3, 1, 4], [3, 0, 0, 4]]
    with pytest.raises(ValueError, match=r"no column 'answer' to compare answers with, only .*solution"):
        rewards_of([Correctness(check_number)], ROLLOUTS, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 0.0], "`odd` returned 2 numbers for 4"),
        ([1.0, math.nan, None, math.inf], "3 of them not finite"),
        (1.0, "`odd` returned a float that is not of numbers"),
        (["right"] * 4, "`odd` returned a list that is not of numbers .*'right'"),
    ],
)
def test_a_reward_of_no_use_is_refused(values, message):
    def odd(**rollouts):
        return values

    with pytest.raises(ValueError, match=message):
        rewards_of([odd], ROLLOUTS, 4)


def test_each_reward_is_standardised_in_its_group_before_they_are_added():
    rewards = torch.tensor([RIGHT, SPEED]).T
    kept = torch.ones(8, dtype=torch.bool)
    weights = torch.tensor([1.0, 0.5])
    # Right answers: 1, -1, 1, -1 and four zeros. Speed: -1, 1, -1, 1 and -1, 1, 1, -1, half as heavy.
    expected = torch.tensor([0.5, -0.5, 0.5, -0.5, -0.5, 0.5, 0.5, -0.5])
    sums = advantages_of(rewards, GROUPS, weights, kept, over_step=False)
    torch.testing.assert_close(sums, expected)
    scaled = advantages_of(rewards * torch.tensor([1.0, 1000.0]), GROUPS, weights, kept, over_step=False)
    torch.testing.assert_close(scaled, expected)
    mixed = torch.tensor([5, 0, 7, 2, 4, 1, 6, 3])  # groups need not be next to each other
    torch.testing.assert_close(
        advantages_of(rewards[mixed], GROUPS[mixed], weights, kept, over_step=False), expected[mixed]
    )

    kept = GROUPS == 0
    over_step = advantages_of(rewards, GROUPS, torch.tensor([2.0, 0.5]), kept)
    # Sums of the first group: 1.5, -1.5, 1.5, -1.5, with a standard deviation of sqrt(4 * 1.5^2 / 3).
    torch.testing.assert_close(over_step[:4], torch.tensor([1.0, -1.0, 1.0, -1.0]) * 1.5 / math.sqrt(3))
    assert over_step[4:].tolist() == [0, 0, 0, 0]


def test_a_group_of_equal_rewards_has_no_advantage_whatever_the_rounding():
    rewards = torch.full((7, 1), 0.1)
    advantages = advantages_of(rewards, torch.zeros(7, dtype=torch.long), torch.ones(1), torch.ones(7) > 0)
    assert advantages.tolist() == [0.0] * 7


def test_groups_without_a_right_answer_or_of_one_speed_are_left_out():
    rewards = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])[:, None]
    speed = torch.tensor([1.0, 3.0, 2.0, 2.5, 2.0, 2.005])
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    options = {"min_range": 0.01, "need_right": True}
    assert informative(rewards, speed, groups, **options).tolist() == [False, False, True, True, False, False]
    options = {"min_range": 0.001, "need_right": False}
    assert informative(rewards, speed, groups, **options).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_reward_is_noticed_after_so_many_rounds(value):
    constant = ConstantRewards(["correctness", "tokens_per_forward"])
    flat = torch.tensor([[value, 2.0], [value, 3.0]])
    for _ in range(2):
        constant.count(flat)
        constant.check(3)
    constant.count(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))  # a round that is not constant
    for _ in range(2):
        constant.count(flat)
        constant.check(3)
    constant.count(1 - flat)  # constant, but another number
    for _ in range(2):
        constant.count(flat)
        constant.check(3)
    constant.count(flat)
    constant.check(None)
    with pytest.raises(ValueError, match=rf"`correctness` was {value:g} for every rollout of the last 3 rounds"):
        constant.check(3)


def test_the_clipped_surrogate_and_its_gradient():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.1])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, -2.0])
    old = torch.full((6,), -0.7)
    log_p = (old + ratio.log()).requires_grad_()
    loss, clipped = policy_losses(log_p, old, advantage, 0.2, 0.3)
    torch.testing.assert_close(loss, torch.tensor([-1.3, 1.5, -0.5, 0.8, -2.2, 2.2]))
    assert clipped.tolist() == [True, False, False, True, False, False]
    loss.sum().backward()
    torch.testing.assert_close(log_p.grad, torch.tensor([0.0, 1.5, -0.5, 0.0, -2.2, 2.2]))


def test_the_divergence_is_unbiased_and_never_negative():
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    estimates = divergences(p.log(), q.log())
    assert (estimates >= 0).all() and estimates[1] == 0
    torch.testing.assert_close((p * estimates).sum(), (p * (p / q).log()).sum())
