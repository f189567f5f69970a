"""What an estimator is given, and how it gets into verl's registry.

verl hands a registered estimator the rewards, the response mask and the questions' ids. What else an estimator needs
(the critic's values, N, settings) belongs to the step: the trainer opens a :func:`step` around verl's computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est

from multi_attempt.credit import CreditSettings
from verl_ext.algorithms import groups
from verl_ext.algorithms.attempts import Attempts
from verl_ext.names import NAME


@dataclass
class Step:
    """What a step knows beside what verl hands over.

    Attributes:
        settings: ``multi_attempt.credit``.
        values: the critic's, of the state before each token, shape [batch, length].
        budgets: N of each row, shape [batch].
        averages: what an estimator remembers from step to step.
        metrics: what it has to say, by name.
    """

    settings: CreditSettings = field(default_factory=CreditSettings)
    values: Tensor | None = None
    budgets: Tensor | None = None
    averages: dict[int, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


_STEP: ContextVar[Step | None] = ContextVar("step", default=None)


@contextmanager
def step(now: Step) -> Iterator[Step]:
    """What the estimators that are called inside are given."""
    token = _STEP.set(now)
    try:
        yield now
    finally:
        _STEP.reset(token)


@dataclass(frozen=True)
class Batch:
    """The episodes of a step.

    Attributes:
        rewards: shape [batch, length].
        attempts: where their attempts stand.
        group: the number of each row's question, from 0, shape [batch].
        step: see :class:`Step`.
        algorithm: verl's section ``algorithm``; None where verl was not asked.
    """

    rewards: Tensor
    attempts: Attempts
    group: Tensor
    step: Step
    algorithm: Any = None

    @property
    def settings(self) -> CreditSettings:
        """``multi_attempt.credit``."""
        return self.step.settings

    @cached_property
    def own(self) -> Tensor:
        """What each attempt was given, shape [batch, most]."""
        return self.attempts.sums(self.rewards)

    @property
    def finished(self) -> Tensor:
        """Which rows count, bool, shape [batch]."""
        return self.attempts.finished

    @property
    def solved(self) -> Tensor:
        """Which episodes' rewards sum to more than 0, bool, shape [batch]."""
        return self.own.sum(1) > 0

    def returns(self, own: Tensor, gamma: float = 1.0) -> Tensor:
        """What came from each attempt on, shape [batch, most]: ``sum over j >= k of gamma^(j-k) r_j``."""
        returns = own.clone()
        for number in range(own.shape[1] - 2, -1, -1):
            returns[:, number] += gamma * returns[:, number + 1]
        return returns * self.attempts.made

    def needed(self, name: str) -> Tensor:
        """The step's ``values`` or ``budgets``.

        Raises:
            ValueError: the step has none.
        """
        value: Tensor | None = getattr(self.step, name)
        if value is None:
            raise ValueError(f"algorithm.adv_estimator needs {name}, and this step has none; {_REMEDIES[name]}")
        return value


_REMEDIES = {
    "values": "set critic.enable=true",
    "budgets": f"choose trainer.v1.trainer_mode={NAME}, whose steps have them",
}

Advantages = tuple[Tensor, Tensor]
"""Advantages and the critic's targets, both of shape [batch, length], 0 where no token was generated."""


def estimator(name: str) -> Callable[[Callable[[Batch], Tensor | Advantages]], Callable[[Batch], Tensor | Advantages]]:
    """Register an estimator under ``multi_attempt_NAME``.

    What it returns is the advantages of attempts, shape [batch, most], which all tokens of an attempt share, or those
    of tokens with the critic's targets.
    """

    def decorate(estimate: Callable[[Batch], Tensor | Advantages]) -> Callable[[Batch], Tensor | Advantages]:
        @register_adv_est(f"{NAME}_{name}")
        def registered(
            token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **_: Any
        ) -> Advantages:
            with torch.no_grad():
                attempts = Attempts.of(response_mask)
                names = np.arange(len(response_mask)) if index is None else index
                group = torch.from_numpy(np.unique(names, return_inverse=True)[1]).to(response_mask.device)
                batch = Batch(token_level_rewards, attempts, group, _STEP.get() or Step(), config)
                share = groups.share_without_variance(batch.own.sum(1), batch.finished, group)
                batch.step.metrics["multi_attempt/groups_without_variance"] = share
                found = estimate(batch)
                if isinstance(found, tuple):
                    return found
                tokens = attempts.spread(found)
                return tokens, tokens

        return estimate

    return decorate
