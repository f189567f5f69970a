"""The episode in its question's group and the return in its attempt's group: GiGPO. For comparison; it is biased."""

from __future__ import annotations

from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator
from verl_ext.algorithms.grpo import EPSILON


@estimator("gigpo")
def gigpo(batch: Batch) -> Tensor:
    """``A_ik = (R_i - mean R) / deviation of R + w (G_ik - mean of G_jk) / deviation of G_jk``, over j that made
    attempt k.

    w is ``multi_attempt.credit.attempt_weight``, the discount in G ``gamma``; ``normalise = false`` leaves out both
    deviations. The paper groups steps whose states are equal: of dialogues these are the first attempts alone, so that
    here an attempt's number stands for its state. Biased: both means hold i itself, factors of (n-1)/n and (m-1)/m with
    m episodes at k, and m falls with k; an attempt that is alone has no second part.

    Source: Feng et al. 2025 (arXiv 2505.10978), with attempts for states.
    """
    made = batch.attempts.made
    returns = batch.returns(batch.own, batch.settings.gamma)
    scores = batch.own.sum(1, keepdim=True).expand_as(made)
    finished = batch.finished[:, None].expand_as(made)
    advantages = _centred(batch, scores, finished) + batch.settings.attempt_weight * _centred(batch, returns, made)
    return advantages * made


def _centred(batch: Batch, values: Tensor, counts: Tensor) -> Tensor:
    centred = values - groups.mean(values, counts, batch.group)
    if batch.settings.normalise:
        centred = centred / (groups.deviation(values, counts, batch.group) + EPSILON)
    return centred
