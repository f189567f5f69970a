"""Each attempt's own reward, weighed by the chance that it is the one that counts."""

from __future__ import annotations

import torch
from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator


@estimator("calibrated")
def calibrated(batch: Batch) -> Tensor:
    """``A_ik = w_k (r_ik - mean of r_jk over j != i that made attempt k)``, ``w_k = product over l > k of (1 - p_l)``.

    r_ik is the attempt's own reward (``multi_attempt.reward.per_attempt = each``). To be right at k adds to the chance
    of success only what no later attempt would have added: w_k, the chance that all later attempts fail. Without w
    (naive) attempt k has 1 / w_k times its share. It optimises E[solved] with less variance than an episode's return,
    since the luck of later attempts is not in it. ``multi_attempt.credit.weights`` says where p_l, the chance of
    attempt l, is from:

    - ``averages``: a running average over earlier steps, by N and attempt (``memory``; the batch's own in the first
      step). Without bias if the weights are those of the question and do not depend on what was tried: questions
      differ, so that it is biased as far as their chances do.
    - ``group``: of the question's episodes, 0 if none got there. Biased, since i is one of them.
    - ``none``: w = 1, the naive one.

    Source: derived here; the aim is that of arXiv 2604.17912, whose equations this does not claim to be.
    """
    own, made = batch.own, batch.attempts.made
    advantages = (own - groups.mean_of_others(own, made, batch.group)) * made
    kind = batch.settings.weights
    if kind == "none":
        return advantages
    right = (own > 0) & made
    chances = groups.mean(right.to(own.dtype), made, batch.group) if kind == "group" else _averages(batch, right)
    return advantages * all_later_fail(chances)


def all_later_fail(chances: Tensor) -> Tensor:
    """The product of (1 - chance) over the later attempts, of [..., most]."""
    weights = torch.ones_like(chances)
    for number in range(chances.shape[-1] - 2, -1, -1):
        weights[..., number] = weights[..., number + 1] * (1 - chances[..., number + 1])
    return weights


def _averages(batch: Batch, right: Tensor) -> Tensor:
    """The chance of each attempt by the rows' N, shape [batch, most], from before this step; then this step counts."""
    made, memory = batch.attempts.made, batch.settings.memory
    budgets = batch.needed("budgets")
    chances = torch.zeros(made.shape, dtype=batch.rewards.dtype, device=made.device)
    for budget in budgets.unique().tolist():
        rows = budgets == budget
        width = min(budget, made.shape[1])
        seen = torch.zeros(2, budget, dtype=torch.float64)  # right ones, and made ones
        seen[:, :width] = torch.stack([right[rows].sum(0), made[rows].sum(0)])[:, :width].double().cpu()
        before = batch.step.averages.get(budget, seen)
        chances[rows, :width] = (before[0] / before[1].clamp_min(1e-9))[:width].to(chances)
        batch.step.averages[budget] = memory * before + (1 - memory) * seen
    return chances
