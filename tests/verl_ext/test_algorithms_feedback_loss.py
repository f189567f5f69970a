"""The loss on the feedback's tokens, as the actor calls it."""

from __future__ import annotations

import pytest
import torch
from hydra import compose
from omegaconf import DictConfig
from torch import Tensor
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import ActorConfig

from verl_ext.algorithms.feedback_loss import FeedbackLossConfig, told_tokens

MASK = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
ACTOR = "actor_rollout_ref.actor"


def actor(config: DictConfig, coefficient: float) -> ActorConfig:
    config.actor_rollout_ref.actor.policy_loss.feedback_coef = coefficient
    made: ActorConfig = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert isinstance(made.policy_loss, FeedbackLossConfig)
    return made


def gradient(config: ActorConfig, loss: str) -> Tensor:
    log_prob = torch.full(MASK.shape, -1.0, requires_grad=True)
    value, _ = get_policy_loss_fn(loss)(
        old_log_prob=log_prob.detach(),
        log_prob=log_prob,
        advantages=torch.full(MASK.shape, 0.5),
        response_mask=MASK.bool(),
        loss_agg_mode="token-mean",
        config=config,
        rollout_is_weights=None,
    )
    return torch.autograd.grad(value, log_prob)[0]


def test_told_are_the_tokens_between_attempts() -> None:
    assert told_tokens(MASK).tolist() == [[False, False, True, True, False, False], [False] * 6, [False] * 6]


def test_the_loss_adds_to_ppos_the_cross_entropy_of_what_was_told(config: DictConfig) -> None:
    ppo = gradient(actor(config, 0.0), "vanilla")
    assert torch.equal(gradient(actor(config, 0.0), "multi_attempt_feedback"), ppo)
    both = gradient(actor(config, 0.2), "multi_attempt_feedback")
    # By the four generated tokens of the batch, as PPO's own.
    torch.testing.assert_close(both - ppo, -0.2 / 4 * told_tokens(MASK).float())


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize("engine", ["fsdp", "megatron"])
def test_it_is_chosen_by_two_settings(engine: str) -> None:
    loss = f"{ACTOR}.policy_loss"
    overrides = [f"engine={engine}", f"{loss}.loss_mode=multi_attempt_feedback", f"{loss}.feedback_coef=0.1"]
    chosen = compose("multi_attempt", overrides=overrides).actor_rollout_ref.actor.policy_loss
    assert (chosen.loss_mode, chosen.feedback_coef) == ("multi_attempt_feedback", 0.1)
