"""The expected gradient of an estimator, by enumeration of all that a small policy can do, against the true one.

A policy is a tree of decisions: each attempt has ``tokens`` of them, each a softmax over ``actions`` (the last logit is
0) with logits of its own in each state. All groups of n episodes are one batch, each group a question, that the
registered estimator gets as verl would hand it over: masks with feedback between the attempts, and rewards. What comes
back is multiplied with the scores (gradients of log-probabilities) of the decisions, summed over an episode and
averaged over its group; expectation and variance are sums over the groups with their probabilities. How a loss is then
averaged over tokens (``loss_agg_mode``) is verl's, and no part of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

import verl_ext.algorithms.registry  # noqa: F401 - registers them
from verl_ext.algorithms.batch import Step, step

FEEDBACK = 2
"""Tokens between two attempts; at least one, or they would be one run of the mask."""


@dataclass(frozen=True)
class Play:
    """One way that an episode can go: its states and the actions taken there, by attempts, and which was right."""

    states: tuple[tuple[int, ...], ...]
    actions: tuple[tuple[int, ...], ...]
    solved: bool


@dataclass(frozen=True)
class Policy:
    """A tabular policy.

    Attributes:
        attempts: K.
        actions: at each decision.
        tokens: decisions of an attempt. It is right if all its actions are 0.
        remembers: whether the state holds all earlier actions; else only the attempt's number and its own.
        chances: of the first of two actions, by attempt; None for random logits.
        seed: of the random logits.
    """

    attempts: int
    actions: int = 2
    tokens: int = 1
    remembers: bool = False
    chances: Sequence[float] | None = None
    seed: int = 0

    @cached_property
    def plays(self) -> list[Play]:
        """All ways that an episode can go."""
        return list(self._continue(()))

    def _continue(self, before: tuple[tuple[int, ...], ...]) -> list[Play]:
        plays = []
        for actions in itertools.product(range(self.actions), repeat=self.tokens):
            made = (*before, actions)
            if not any(actions) or len(made) == self.attempts:
                states = tuple(self._states(made[:number], own) for number, own in enumerate(made))
                plays.append(Play(states, made, not any(actions)))
            else:
                plays += self._continue(made)
        return plays

    def _states(self, before: tuple[tuple[int, ...], ...], own: tuple[int, ...]) -> tuple[int, ...]:
        history = before if self.remembers else len(before)
        return tuple(self._number((history, own[:position])) for position in range(len(own)))

    @cached_property
    def _numbers(self) -> dict[Any, int]:
        return {}

    def _number(self, state: Any) -> int:
        return self._numbers.setdefault(state, len(self._numbers))

    @cached_property
    def logits(self) -> Tensor:
        """Of all states, shape [states, actions - 1]."""
        assert self.plays
        if self.chances is None:
            generator = torch.Generator().manual_seed(self.seed)
            shape = (len(self._numbers), self.actions - 1)
            return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.7 - 0.3
        chances = [self.chances[self.attempt_of(state)] for state in range(len(self._numbers))]
        return torch.logit(torch.tensor(chances, dtype=torch.float64))[:, None]

    def attempt_of(self, state: int) -> int:
        """The attempt that a state belongs to, from 0."""
        history = list(self._numbers)[state][0]
        return len(history) if self.remembers else int(history)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Of all plays, shape [plays]; differentiable."""
        table = torch.cat([logits, torch.zeros(len(logits), 1, dtype=logits.dtype)], dim=1).log_softmax(1)
        return torch.stack([table[_flat(play.states), _flat(play.actions)].sum() for play in self.plays])

    def scores(self) -> Tensor:
        """Gradients of the log-probability of each decision, shape [plays, attempts, tokens, states, actions - 1]."""
        chances = torch.cat([self.logits, torch.zeros(len(self.logits), 1).double()], dim=1).softmax(1)
        scores = torch.zeros(len(self.plays), self.attempts, self.tokens, *self.logits.shape, dtype=torch.float64)
        for number, play in enumerate(self.plays):
            for attempt, (states, actions) in enumerate(zip(play.states, play.actions, strict=True)):
                for token, (state, action) in enumerate(zip(states, actions, strict=True)):
                    taken = torch.nn.functional.one_hot(torch.tensor(action), self.actions).double()
                    scores[number, attempt, token, state] = (taken - chances[state])[:-1]
        return scores

    def values(self, rewards: Tensor) -> Tensor:
        """What is to come in the state before each decision, shape [plays, attempts, tokens].

        Args:
            rewards: of each attempt, shape [plays, attempts].
        """
        weights = self.log_probabilities(self.logits).exp()
        to_come = rewards.flip(1).cumsum(1).flip(1)
        total, mass = torch.zeros(2, len(self.logits), dtype=torch.float64)
        places = [
            (number, attempt, token, state)
            for number, play in enumerate(self.plays)
            for attempt, states in enumerate(play.states)
            for token, state in enumerate(states)
        ]
        for number, attempt, _, state in places:
            total[state] += weights[number] * to_come[number, attempt]
            mass[state] += weights[number]
        values = torch.zeros(len(self.plays), self.attempts, self.tokens, dtype=torch.float64)
        for number, attempt, token, state in places:
            values[number, attempt, token] = total[state] / mass[state]
        return values


def _flat(nested: tuple[tuple[int, ...], ...]) -> list[int]:
    return [value for inner in nested for value in inner]


Rewards = Callable[[Play, int], float]
"""What a play gives for an attempt, counted from 0."""


def once_solved(play: Play, attempt: int) -> float:
    """1 at the end of an episode that was solved."""
    return float(play.solved and attempt == len(play.actions) - 1)


@dataclass(frozen=True)
class Found:
    """What an enumeration found.

    Attributes:
        gradient: the estimator's expected one, shape [states, actions - 1].
        true: the objective's.
        ratios: of each attempt's part, by least squares, shape [attempts].
        error: the distance of both, as a share of the length of the true one.
        variance: of the estimate, summed over all parameters.
    """

    gradient: Tensor
    true: Tensor
    ratios: list[float]
    error: float
    variance: float


@dataclass(frozen=True)
class Case:
    """An estimator and what it is held against.

    Attributes:
        estimator: its name in verl's registry.
        policy: what is enumerated.
        episodes: of a group, n.
        objective: of the probabilities of all plays and the plays, differentiable.
        rewards: what the estimator is given.
        step: what the trainer would give it beside; called with the batch's plays, shape [rows], and its mask.
    """

    estimator: str
    policy: Policy
    episodes: int
    objective: Callable[[Tensor, Policy], Tensor]
    rewards: Rewards = once_solved
    step: Callable[[Tensor, Policy], Step] = lambda rows, policy: Step()
    config: dict[str, float] = field(default_factory=lambda: {"gamma": 1.0, "lam": 1.0})

    def true(self) -> Tensor:
        """The gradient of the objective."""
        logits = self.policy.logits.clone().requires_grad_()
        value = self.objective(self.policy.log_probabilities(logits).exp(), self.policy)
        return torch.autograd.grad(value, logits)[0]

    def run(self) -> Found:
        """Enumerate all groups."""
        policy, n = self.policy, self.episodes
        chosen = torch.cartesian_prod(*[torch.arange(len(policy.plays))] * n).reshape(-1, n)
        rows = chosen.flatten()
        advantages = self._advantages(rows, np.repeat(np.arange(len(chosen)), n))
        estimates = torch.einsum("rkt,rktsa->rsa", advantages, policy.scores()[rows])
        estimates = estimates.reshape(len(chosen), n, *policy.logits.shape).mean(1)
        weights = policy.log_probabilities(policy.logits).exp()[chosen].prod(1)
        gradient = torch.einsum("g,gsa->sa", weights, estimates)
        variance = torch.einsum("g,gsa->", weights, estimates.square()) - gradient.square().sum()
        true = self.true()
        error = float((gradient - true).norm() / true.norm())
        return Found(gradient, true, self._ratios(gradient, true), error, float(variance))

    def _ratios(self, gradient: Tensor, true: Tensor) -> list[float]:
        attempt = torch.tensor([self.policy.attempt_of(state) for state in range(len(true))])
        parts = [(gradient[attempt == k], true[attempt == k]) for k in range(self.policy.attempts)]
        return [float((found * exact).sum() / exact.square().sum()) for found, exact in parts]

    def _advantages(self, rows: Tensor, group: np.ndarray) -> Tensor:
        """Of each decision, shape [rows, attempts, tokens]."""
        mask = layout(torch.stack([_made(play, self.policy) for play in self.policy.plays]))[rows]
        rewards = reward_table(self.policy, self.rewards)
        at_end = torch.zeros(*rewards.shape, self.policy.tokens, dtype=torch.float64)
        at_end[:, :, -1] = rewards
        with step(self.step(rows, self.policy)):
            tokens, _ = get_adv_estimator_fn(self.estimator)(
                token_level_rewards=layout(at_end)[rows],
                response_mask=mask.to(torch.int64),
                index=group,
                config=self.config,
            )
        return tokens.reshape(len(rows), self.policy.attempts, -1)[:, :, : self.policy.tokens]


def reward_table(policy: Policy, rewards: Rewards) -> Tensor:
    """What each attempt of each play is given, shape [plays, attempts]."""
    return torch.tensor(
        [[rewards(play, k) if k < len(play.actions) else 0.0 for k in range(policy.attempts)] for play in policy.plays],
        dtype=torch.float64,
    )


def layout(decisions: Tensor) -> Tensor:
    """Decisions of [rows, attempts, tokens] as [rows, length], each attempt followed by feedback."""
    return torch.nn.functional.pad(decisions, (0, FEEDBACK)).flatten(1)


def _made(play: Play, policy: Policy) -> Tensor:
    made = torch.zeros(policy.attempts, policy.tokens, dtype=torch.float64)
    made[: len(play.actions)] = 1
    return made


def expected(rewards: Rewards) -> Callable[[Tensor, Policy], Tensor]:
    """The objective E[sum of rewards]."""
    return lambda chances, policy: (chances * reward_table(policy, rewards).sum(1)).sum()
