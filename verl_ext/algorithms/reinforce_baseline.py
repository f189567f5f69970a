"""The whole episode against the mean of its question, whitened over the batch: REINFORCE++ with a baseline."""

from __future__ import annotations

from verl.utils.torch_functional import masked_whiten

from verl_ext.algorithms import groups
from verl_ext.algorithms.batch import Advantages, Batch, estimator


@estimator("reinforce_plus_plus_baseline")
def reinforce_plus_plus_baseline(batch: Batch) -> Advantages:
    """``A_i = whitened(R_i - mean R)``: the mean over the question's episodes, i included, whitened over all tokens.

    Biased by (n-1)/n, since the mean holds R_i, and by the whitening: its mean, over tokens, is that of long episodes,
    and the deviation is a function of the batch (in large batches a number, which the learning rate takes up). An
    episode that is alone has 0 before the whitening. verl's counts aborted episodes as ones of reward 0 in the mean.
    verl's ``reinforce_plus_plus`` has no mean by question, and is right as it is: an aborted episode has no token to be
    whitened.

    Source: Hu 2025 (arXiv 2501.03262).
    """
    scores = batch.own.sum(1)
    centred = scores - groups.mean(scores, batch.finished, batch.group)
    mask = batch.attempts.mask
    tokens = batch.attempts.spread(centred[:, None] * batch.attempts.made)
    advantages = masked_whiten(tokens, mask) * mask
    return advantages, advantages
