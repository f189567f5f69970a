"""A critic's advantages, from attempt to attempt and inside each of them: GAE on two levels."""

from __future__ import annotations

import torch
from torch import Tensor
from verl.utils.torch_functional import masked_whiten

from verl_ext.algorithms.batch import Advantages, Batch, estimator


@estimator("two_level_gae")
def two_level_gae(batch: Batch) -> Advantages:
    """GAE across attempts at their last tokens, and from there backwards token by token inside each attempt.

    With e_k the last token of attempt k, V_t the critic's value before token t, and i_k the rewards of attempt k before
    e_k (the KL's, if it is in the reward)::

        d_k = r(e_k) + gamma_a (i_{k+1} + V(e_{k+1})) - V(e_k),   A(e_k) = d_k + gamma_a lambda_a A(e_{k+1})
        A_t = r_t + gamma V_{t+1} - V_t + gamma lambda A_{t+1}    for the other tokens of an attempt

    gamma_a and lambda_a are ``multi_attempt.credit.gamma`` and ``lam``, gamma and lambda verl's ``algorithm.gamma`` and
    ``lam``. So the decay of thousands of tokens does not come between a late success and an early attempt. With both
    gammas 1: without bias for every lambda if the critic is exact, and for lambda = lambda_a = 1 whatever it says. The
    critic's targets are advantages plus values. ``normalise`` whitens the advantages over the batch, as verl's ``gae``
    does.

    Source: Schulman et al. 2016 (arXiv 1506.02438), with attempts as the steps of the upper level.
    """
    attempts, values, rewards = batch.attempts, batch.needed("values"), batch.rewards
    gamma, lam = batch.algorithm.get("gamma"), batch.algorithm.get("lam")
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    errors = (rewards + gamma * following - values) * attempts.mask
    factors = gamma * lam * attempts.mask.to(values.dtype)
    errors[attempts.row, attempts.last] = _across(batch, values)[attempts.row, attempts.number]
    factors[attempts.row, attempts.last] = 0
    longest = int(attempts.lengths.max()) if len(attempts.row) else 0
    advantages = decayed_sums(errors, factors, longest)
    returns = (advantages + values) * attempts.mask
    if batch.settings.normalise:
        advantages = masked_whiten(advantages, attempts.mask) * attempts.mask
    return advantages, returns


def _across(batch: Batch, values: Tensor) -> Tensor:
    """The advantages at the attempts' last tokens, shape [batch, most]."""
    attempts, settings = batch.attempts, batch.settings
    value, reward = attempts.at_last(values), attempts.at_last(batch.rewards)
    before = batch.own - reward
    to_come = torch.nn.functional.pad((value + before)[:, 1:], (0, 1))
    errors = (reward + settings.gamma * to_come - value) * attempts.made
    return batch.returns(errors, settings.gamma * settings.lam)


def decayed_sums(terms: Tensor, factors: Tensor, length: int) -> Tensor:
    """``s_t = terms_t + factors_t s_{t+1}`` of each row, of [batch, length], in passes that double how far they reach.

    Args:
        terms: shape [batch, length].
        factors: the same; 0 where a run of at most ``length`` tokens ends.
        length: of the longest run.
    """
    sums, reach = terms, 1
    while reach < length:
        beyond = torch.nn.functional.pad(sums[:, reach:], (0, reach))
        sums = torch.addcmul(sums, factors, beyond)
        factors = factors * torch.nn.functional.pad(factors[:, reach:], (0, reach))
        reach *= 2
    return sums
