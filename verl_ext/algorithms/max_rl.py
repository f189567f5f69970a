"""The whole episode as a share of its question's successes: MaxRL."""

from __future__ import annotations

from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator


@estimator("max_rl")
def max_rl(batch: Batch) -> Tensor:
    """``A_i = (x_i - mean x) / mean x``, x_i = 1 if episode i was solved, the mean over the question's n; 0 if none
    was.

    Optimises, without bias, what the likelihood of success log p is up to order n - 1: ``-sum over k < n of (1-p)^k /
    k``. For the mean of the scores of solved episodes is that of order n (each has the score of log p, and one is there
    with a chance of 1 - (1-p)^n); taking the mean of all scores from it, as a baseline, in groups with a success only,
    costs the last term. Hard questions count more than by RLOO, of which it is the first order. An episode is solved if
    its rewards sum to more than 0.

    Source: the estimator of MaxRL (arXiv 2602.02710); its order derived here, and enumerated.
    """
    solved = batch.solved.to(batch.rewards.dtype)
    rate = groups.mean(solved, batch.finished, batch.group)
    advantages = (solved - rate) / rate.where(rate > 0, rate.new_ones(()))
    return advantages[:, None] * batch.attempts.made
