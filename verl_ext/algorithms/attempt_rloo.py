"""What came from an attempt on, against the other episodes that got as far: RLOO by attempts."""

from __future__ import annotations

import torch
from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator


@estimator("attempt_rloo")
def attempt_rloo(batch: Batch) -> Tensor:
    """``A_ik = w_k (G_ik - mean of G_jk over j != i that made attempt k)``, ``G_ik = sum over l >= k of gamma^(l-k)
    r_il``.

    An episode that is alone at k keeps G_ik: an advantage of 0 would silence just the late attempts, which few episodes
    make, and bias the gradient by the chance to be alone. Whether j made attempt k does not depend on what i did at k,
    so that the mean is a baseline, and there is no bias.

    With ``multi_attempt.credit.gamma = 1`` (the default) it optimises E[sum of r]. With less it optimises the
    discounted E[sum of gamma^(k-1) r_k], without bias if ``from_start`` is true: w_k = gamma^(k-1). Without (w_k = 1,
    what is mostly done) attempt k has gamma^(1-k) times its share, and nothing is the objective.

    Source: RLOO (arXiv 2402.14740) with the states' own groups; the discount as in the policy gradient theorem.
    """
    gamma = batch.settings.gamma
    made = batch.attempts.made
    returns = batch.returns(batch.own, gamma)
    advantages = (returns - groups.mean_of_others(returns, made, batch.group)) * made
    if batch.settings.from_start:
        advantages = advantages * gamma ** torch.arange(made.shape[1], device=made.device)
    return advantages
