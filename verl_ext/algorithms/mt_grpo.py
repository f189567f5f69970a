"""Each attempt's own reward in its attempt's group, summed over the later ones: MT-GRPO. For comparison; it is
biased."""

from __future__ import annotations

from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator
from verl_ext.algorithms.grpo import EPSILON


@estimator("mt_grpo")
def mt_grpo(batch: Batch) -> Tensor:
    """``A_ik = sum over l >= k of (r_il - mean of r_jl) / deviation of r_jl``, over the episodes j that made attempt l.

    Without the deviation for ``multi_attempt.credit.normalise = false``. The turns' normalised rewards and the
    outcome's are added up to the last, as the paper does for two turns. Biased, with or without the deviation: whether
    attempt l is made at all depends on the attempts before it. An attempt that is right ends its episode, and is not
    told that the later ones would have been right with their chance as well, so that early attempts get too much; and
    one that is alone gets nothing, so that late ones get too little.

    Source: Zeng et al. 2025 (arXiv 2505.11821), with attempts for turns.
    """
    own, made = batch.own, batch.attempts.made
    centred = (own - groups.mean(own, made, batch.group)) * made
    if batch.settings.normalise:
        centred = centred / (groups.deviation(own, made, batch.group) + EPSILON)
    return batch.returns(centred)
