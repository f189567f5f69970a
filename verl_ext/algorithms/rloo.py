"""The whole episode against the other episodes of its question: RLOO."""

from __future__ import annotations

from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator


@estimator("rloo")
def rloo(batch: Batch) -> Tensor:
    """``A_i = R_i - mean of R_j over j != i``, the same for all attempts of episode i.

    R is the sum of an episode's rewards; an episode that is alone keeps its own. Optimises E[R] without bias, since the
    mean of the others does not depend on what i did. verl's ``rloo`` counts aborted episodes as ones of reward 0; here
    they are in no mean.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740); Kool et al. 2019.
    """
    scores = batch.own.sum(1)
    advantages = scores - groups.mean_of_others(scores, batch.finished, batch.group)
    return advantages[:, None] * batch.attempts.made
