"""One episode a question: the whole episode against those with as many attempts allowed."""

from __future__ import annotations

import torch
from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator


@estimator("budget_baseline")
def budget_baseline(batch: Batch) -> Tensor:
    """``A_i = R_i - mean of R_j over all other episodes j of the batch with the same N``, the same for all attempts of
    i.

    What is left for n = 1, without a critic: the others are of other questions, so that the baseline knows how good the
    model is with N attempts, and nothing of the question. Optimises E[R] without bias, whatever the questions are, with
    more variance than other episodes of the same question would leave. The only one of its N keeps its R.

    Source: Williams 1992, with the mean of the others as the baseline.
    """
    scores = batch.own.sum(1)
    same_budget = torch.unique(batch.needed("budgets"), return_inverse=True)[1]
    advantages = scores - groups.mean_of_others(scores, batch.finished, same_budget)
    return advantages[:, None] * batch.attempts.made
