"""The whole episode by what it adds to the best of k: pass@k training in closed form."""

from __future__ import annotations

from torch import Tensor

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Batch, estimator


@estimator("pass_at_k")
def pass_at_k(batch: Batch) -> Tensor:
    """Of m finished episodes, f of them failed: ``q_i`` is the share of the k-subsets with i that hold a solved one.

    ``q_i = 1`` for a solved episode, else ``1 - C(f-1, k-1) / C(m-1, k-1)``. k is ``multi_attempt.credit.subset``.

    - ``multi_attempt.credit.normalise = false``: ``A_i = k (q_i - b_i)``, b_i the pass@k of the others,
      ``1 - C(f_i, k) / C(m-1, k)`` with f_i of them failed. Optimises pass@k, ``1 - (1-p)^k``, without bias: the others
      are independent of i. With fewer than k others b_i is 0.
    - ``true``: ``A_i = (q_i - r) / sqrt(r (1-r))``, ``r = 1 - C(f, k) / C(m, k)``: the published closed form. Biased: r
      holds i, a factor (1 - k/m) / k before the division, and the deviation is that of the group.

    Source: Chen et al. 2025 (arXiv 2508.10751) for the second; the first is derived here.
    """
    k, dtype = batch.settings.subset, batch.rewards.dtype
    failed_self = (batch.finished & ~batch.solved).to(dtype)
    members = groups.total(batch.finished.to(dtype), batch.group)
    failed = groups.total(failed_self, batch.group)
    share = 1 - _all_failed(failed - 1, members - 1, k - 1) * failed_self
    if batch.settings.normalise:
        rate = 1 - _all_failed(failed, members, k)
        advantages = (share - rate) / (rate * (1 - rate)).sqrt().clamp_min(_LEAST_DEVIATION)
    else:
        others = 1 - _all_failed(failed - failed_self, members - 1, k)
        advantages = k * (share - others * (members > k))
    return advantages[:, None] * batch.attempts.made


# A group without variance has advantages of 0, not of 0 / 0.
_LEAST_DEVIATION = 1.0e-6


def _all_failed(failed: Tensor, members: Tensor, k: int) -> Tensor:
    """``C(failed, k) / C(members, k)``: the chance that k of them all failed."""
    chance = failed.new_ones(failed.shape)
    for drawn in range(k):
        chance = chance * (failed - drawn).clamp_min(0) / (members - drawn).clamp_min(1)
    return chance
