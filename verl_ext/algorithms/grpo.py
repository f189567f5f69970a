"""The whole episode in deviations of its question: GRPO."""

from __future__ import annotations

from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator

EPSILON = 1.0e-6
"""Beside a deviation, as verl has it: a group without variance has advantages of 0, not of 0 / 0."""


@estimator("grpo")
def grpo(batch: Batch) -> Tensor:
    """``A_i = (R_i - mean R) / deviation of R`` over the question's episodes, i included.

    Biased: the mean holds R_i itself, which is a factor (n-1)/n, and the deviation weighs questions by how far their
    episodes differ, and is itself a function of what i did. ``multi_attempt.credit.normalise`` has no part in this:
    without the deviation it is RLOO times (n-1)/n. verl's ``grpo`` counts aborted episodes as ones of reward 0; here
    they are in neither. An episode that is alone has an advantage of 0.

    Source: Shao et al. 2024 (arXiv 2402.03300).
    """
    scores = batch.own.sum(1)
    centred = scores - groups.mean(scores, batch.finished, batch.group)
    advantages = centred / (groups.deviation(scores, batch.finished, batch.group) + EPSILON)
    return advantages[:, None] * batch.attempts.made
