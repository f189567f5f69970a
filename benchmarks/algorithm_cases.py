"""What each estimator is held against: its objective, and what it is given (docs/algorithms.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from exact_gradients import Case, Policy, Rewards, expected, layout, once_solved, reward_table
from torch import Tensor

from multi_attempt.credit import CreditSettings
from verl_ext.algorithms.batch import Step

INDEPENDENT = Policy(attempts=5, chances=[0.3] * 5)
"""Five attempts, each right with a chance of 0.3 whatever was tried before."""

HISTORY = Policy(attempts=3, actions=3, remembers=True)
"""Three attempts; two ways to be wrong, which change the chances of all that follow."""

LONG_HISTORY = Policy(attempts=5, actions=2, remembers=True, seed=1)
"""Five attempts with chances of their own."""

TOKENS = Policy(attempts=2, tokens=2, remembers=True, seed=2)
"""Two attempts of two tokens each, right if both are."""

GAMMA = 0.5
_SUBSET = 2
_CHANCE = 0.3

Objective = Callable[[Tensor, Policy], Tensor]


def discounted(gamma: float) -> Rewards:
    """``gamma^(k-1)`` for an episode that was solved at attempt k: UFO's reward for 1/2."""
    return lambda play, attempt: once_solved(play, attempt) * gamma**attempt


def solved(chances: Tensor, policy: Policy) -> Tensor:
    """The chance p to solve an episode."""
    return expected(once_solved)(chances, policy)


def likelihood(order: int) -> Objective:
    """What log p is up to an order."""

    def objective(chances: Tensor, policy: Policy) -> Tensor:
        failed = 1 - solved(chances, policy)
        return -torch.stack([failed**k / k for k in range(1, order + 1)]).sum()

    return objective


def best_of(k: int) -> Objective:
    """pass@k of episodes."""
    return lambda chances, policy: 1 - (1 - solved(chances, policy)) ** k


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the estimator with its settings, for people.
        estimator: its name in verl's registry.
        aim: the objective in words.
        objective: as a function of the number of episodes.
        unbiased: whether it is expected to agree to 1e-10.
        rewards: what it is given.
        settings: ``multi_attempt.credit``.
        lam: verl's ``algorithm.lam``.
        critic: what the values are multiplied with, for an estimator that takes them; 1 is an exact critic.
        averages: whether the running averages hold the true chances of independent attempts.
    """

    name: str
    estimator: str
    aim: str = "solved"
    objective: Callable[[int], Objective] = lambda n: solved
    unbiased: bool = True
    rewards: Rewards = once_solved
    settings: dict[str, Any] = field(default_factory=dict)
    lam: float = 1.0
    critic: float | None = None
    averages: bool = False

    def case(self, policy: Policy, episodes: int) -> Case:
        """What is enumerated."""
        return Case(
            self.estimator,
            policy,
            episodes,
            self.objective(episodes),
            self.rewards,
            lambda rows, policy: self._step(rows, policy, episodes),
            {"gamma": 1.0, "lam": self.lam},
        )

    def _step(self, rows: Tensor, policy: Policy, episodes: int) -> Step:
        now = Step(CreditSettings(**self.settings), budgets=torch.full((len(rows),), policy.attempts))
        if self.estimator == "multi_attempt_budget_baseline":
            now = replace(now, budgets=torch.arange(len(rows)) // episodes)  # each enumerated group is a batch
        if self.critic is not None:
            values = policy.values(reward_table(policy, self.rewards)) * self.critic
            now = replace(now, values=layout(values)[rows])
        if self.averages:
            chances = torch.tensor([[_CHANCE] * policy.attempts, [1.0] * policy.attempts], dtype=torch.float64)
            now = replace(now, averages={policy.attempts: chances})
        return now


def _row(name: str, algorithm: str, *arguments: Any, **settings: Any) -> Row:
    return Row(name, f"multi_attempt_{algorithm}", *arguments, **settings)


def _discounted(name: str, **settings: Any) -> Row:
    return _row(
        name,
        "attempt_rloo",
        "solved, gamma_a^(k-1)",
        lambda n: expected(discounted(GAMMA)),
        settings.pop("unbiased", True),
        settings={"gamma": GAMMA, **settings},
    )


ROWS = [
    _row("RLOO", "rloo"),
    _row("RLOO by N (n = 1)", "budget_baseline"),
    _row("RLOO, UFO's reward", "rloo", "1/2^(k-1)", lambda n: expected(discounted(0.5)), rewards=discounted(0.5)),
    _row("GRPO", "grpo", unbiased=False),
    _row("attempt RLOO", "attempt_rloo"),
    _discounted("attempt RLOO, gamma_a = 1/2"),
    _discounted("the same, not counted from the start", from_start=False, unbiased=False),
    _row("two-level GAE, lambdas 1, exact critic", "two_level_gae", critic=1.0),
    _row("the same, critic half as high", "two_level_gae", critic=0.5),
    _row("two-level GAE, lambdas 0.5, exact critic", "two_level_gae", critic=1.0, lam=0.5, settings={"lam": 0.5}),
    _row(
        "the same, critic half as high",
        "two_level_gae",
        critic=0.5,
        lam=0.5,
        settings={"lam": 0.5},
        unbiased=False,
    ),
    _row("MaxRL", "max_rl", "log p, order n - 1", lambda n: likelihood(n - 1)),
    _row("pass@2", "pass_at_k", "pass@2", lambda n: best_of(_SUBSET)),
    _row("pass@2, published", "pass_at_k", "pass@2", lambda n: best_of(_SUBSET), False, settings={"normalise": True}),
    _row("naive attempt level", "calibrated", settings={"weights": "none"}, unbiased=False),
    _row("calibrated, true weights", "calibrated", averages=True),
    _row("calibrated, the group's weights", "calibrated", settings={"weights": "group"}, unbiased=False),
    _row("MT-GRPO, without deviation", "mt_grpo", unbiased=False),
    _row("MT-GRPO", "mt_grpo", settings={"normalise": True}, unbiased=False),
    _row("GiGPO, without deviation", "gigpo", unbiased=False),
    _row("GiGPO", "gigpo", settings={"normalise": True}, unbiased=False),
]
