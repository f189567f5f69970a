"""Attempts found by a response mask, and what is done with them, against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

import verl_ext.algorithms.registry  # noqa: F401 - registers them
from verl_ext.algorithms import groups
from verl_ext.algorithms.attempts import Attempts
from verl_ext.algorithms.batch import Step, step
from verl_ext.algorithms.two_level_gae import decayed_sums

MASK = torch.tensor(
    [
        [1, 1, 0, 0, 1, 0, 1, 1],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],  # aborted
        [0, 1, 0, 1, 0, 0, 0, 0],
    ]
)


def runs(row: list[int]) -> list[list[int]]:
    """The positions of each run of 1."""
    groups = itertools.groupby(enumerate(row), key=lambda pair: pair[1])
    return [[position for position, _ in members] for value, members in groups if value]


def random_mask(seed: int) -> Tensor:
    return (torch.rand(6, 12, generator=torch.Generator().manual_seed(seed)) < 0.5).to(torch.int64)


@pytest.mark.parametrize("mask", [MASK, *map(random_mask, range(5)), torch.zeros(2, 3), torch.ones(2, 3)])
def test_attempts_are_the_runs_of_ones(mask: Tensor) -> None:
    attempts = Attempts.of(mask)
    found = [(row, number, span) for row, line in enumerate(mask.tolist()) for number, span in enumerate(runs(line))]
    assert attempts.row.tolist() == [row for row, _, _ in found]
    assert attempts.number.tolist() == [number for _, number, _ in found]
    assert attempts.first.tolist() == [span[0] for _, _, span in found]
    assert attempts.last.tolist() == [span[-1] for _, _, span in found]
    assert attempts.made.sum(1).tolist() == [len(runs(line)) for line in mask.tolist()]
    values = torch.arange(mask.numel(), dtype=torch.float64).reshape(mask.shape) + 1
    sums, back = attempts.sums(values), torch.zeros_like(values)
    for row, number, span in found:
        assert sums[row, number] == values[row, span].sum()
        back[row, span] = sums[row, number]
    assert torch.equal(sums != 0, attempts.made)
    assert torch.equal(attempts.spread(sums), back)
    assert torch.equal(attempts.at_last(values)[attempts.row, attempts.number], values[attempts.row, attempts.last])


def test_a_sum_with_factors_is_the_recursions() -> None:
    generator = torch.Generator().manual_seed(0)
    terms, factors = torch.rand(2, 3, 40, generator=generator, dtype=torch.float64)
    factors[:, [9, 30, 39]] = 0
    expected, following = torch.zeros_like(terms), torch.zeros(3, dtype=torch.float64)
    for position in reversed(range(40)):
        following = expected[:, position] = terms[:, position] + factors[:, position] * following
    torch.testing.assert_close(decayed_sums(terms, factors, 21), expected)


def test_the_others_are_those_that_count() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 5.0])
    group, counts = torch.tensor([0, 0, 0, 1, 0]), torch.tensor([True, True, True, True, False])
    assert groups.mean_of_others(values, counts, group).tolist()[:4] == [3.0, 2.5, 1.5, 0.0]
    assert groups.mean(values, counts, group).tolist() == pytest.approx([7 / 3] * 3 + [8, 7 / 3])
    assert groups.deviation(values, counts, group)[0].item() == pytest.approx(np.std([1, 2, 4], ddof=1))
    same = torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0])
    assert groups.share_without_variance(same, counts, torch.tensor([0, 0, 1, 1, 0])) == 0.5
    assert groups.share_without_variance(same, counts, torch.arange(5)) == 0


GROUP_ESTIMATORS = [
    *("rloo", "grpo", "reinforce_plus_plus_baseline", "budget_baseline", "max_rl", "pass_at_k", "attempt_rloo"),
    *("mt_grpo", "gigpo", "calibrated"),
]


def advantages(name: str, rewards: Tensor, mask: Tensor, budgets: int = 3) -> Tensor:
    with step(Step(budgets=torch.full((len(mask),), budgets))):
        found: tuple[Tensor, Tensor] = get_adv_estimator_fn(name)(
            token_level_rewards=rewards, response_mask=mask, index=np.array(["q"] * len(mask), dtype=object), config={}
        )
    return found[0]


@pytest.mark.parametrize("name", GROUP_ESTIMATORS)
def test_an_aborted_episode_changes_nothing_for_the_others(name: str) -> None:
    """Nor has it an advantage itself; verl's own estimators count it as an episode of reward 0."""
    rewards = torch.zeros(MASK.shape)
    rewards[0, 7], rewards[1, 2], rewards[3, 3] = 1.0, -1.0, -0.5
    kept = [0, 1, 3]
    found = advantages(f"multi_attempt_{name}", rewards, MASK)
    torch.testing.assert_close(found[kept], advantages(f"multi_attempt_{name}", rewards[kept], MASK[kept]))
    assert (found[MASK == 0] == 0).all()
    assert (found != 0).any()


def test_verls_own_rloo_counts_it() -> None:
    rewards = torch.zeros(MASK.shape)
    rewards[0, 7], rewards[1, 2], rewards[3, 3] = 1.0, 1.0, 1.0
    assert (advantages("multi_attempt_rloo", rewards, MASK) == 0).all()
    assert (advantages("rloo", rewards, MASK)[0, 0] - 1 / 3).abs() < 1e-6


def test_what_a_step_lacks_is_named_with_the_remedy() -> None:
    for name, remedy in (("two_level_gae", "critic.enable=true"), ("budget_baseline", "trainer_mode=multi_attempt")):
        with pytest.raises(ValueError, match=remedy):
            get_adv_estimator_fn(f"multi_attempt_{name}")(
                token_level_rewards=torch.zeros(4, 8), response_mask=MASK, config={"gamma": 1.0, "lam": 1.0}
            )
