"""Cross-entropy on the feedback's tokens beside PPO's loss, so that a model learns to foresee what it will be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_vanilla, register_policy_loss
from verl.workers.config import ActorConfig, PolicyLossConfig

from verl_ext.names import NAME

FEEDBACK_LOSS = f"{NAME}_feedback"
"""Its name, for ``actor_rollout_ref.actor.policy_loss.loss_mode``."""


@dataclass
class FeedbackLossConfig(PolicyLossConfig):
    """verl's settings of a policy loss, with one more.

    Attributes:
        feedback_coef: weight of the cross-entropy on the feedback's tokens.
    """

    feedback_coef: float = 0.0


@register_policy_loss(FEEDBACK_LOSS)  # type: ignore[arg-type]
def feedback_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: ActorConfig | None = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """PPO's loss plus ``feedback_coef`` times ``-log_prob`` of the tokens between an episode's attempts.

    Those are the ones of mask 0 before the last of mask 1, the end of each episode; verl computes log-probabilities of
    all tokens. The sum is divided as PPO's is, by the generated tokens (``token-mean``). Not a policy gradient: it
    changes what is optimised, by as much as the coefficient says.

    Args:
        old_log_prob: shape [batch, length], as all others.
        log_prob: of the policy that is trained.
        advantages: see :mod:`verl_ext.algorithms.batch`.
        response_mask: 1 for generated tokens.
        loss_agg_mode: verl's.
        config: the actor's.
        rollout_is_weights: verl's.

    Source: the auxiliary loss of ECHO, derived from its description.
    """
    assert config is not None
    loss, metrics = compute_policy_loss_vanilla(
        old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights
    )
    coefficient = config.policy_loss.get("feedback_coef", 0.0)
    if not coefficient:
        return loss, metrics
    told = told_tokens(response_mask)
    sizes = dict(config.global_batch_info)
    if sizes.get("batch_num_tokens") is None:
        sizes["batch_num_tokens"] = response_mask.sum()
    entropy = agg_loss(loss_mat=-log_prob, loss_mask=told, loss_agg_mode=loss_agg_mode, **sizes)
    return loss + coefficient * entropy, {**metrics, "actor/feedback_loss": entropy.detach().item()}


def told_tokens(response_mask: Tensor) -> Tensor:
    """Which tokens stand between an episode's attempts, bool, shape [batch, length]."""
    mask = response_mask.bool()
    to_come = mask.int().flip(1).cumsum(1).flip(1) > 0
    return to_come & ~mask
