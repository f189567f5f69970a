"""Start-up check: what an estimator of advantages cannot take (docs/algorithms.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from multi_attempt.config import TaskSettings
from verl_ext.algorithms.feedback_loss import FEEDBACK_LOSS
from verl_ext.names import NAME

_ESTIMATOR, _EPISODES = "algorithm.adv_estimator", "actor_rollout_ref.rollout.n"

# Those with a critic's values.
_CRITIC = ("gae", f"{NAME}_two_level_gae")

# Those that compare an episode with others of its question; with one alone they learn from noise, or nothing.
_BOTH = "rloo grpo reinforce_plus_plus_baseline".split()
_OURS = [*_BOTH, *"max_rl pass_at_k attempt_rloo calibrated mt_grpo gigpo".split()]
_THEIRS = [*_BOTH, *"rloo_vectorized grpo_vectorized grpo_passk gpg opo".split()]
_GROUPS = (*(f"{NAME}_{name}" for name in _OURS), *_THEIRS)

# Those that ask whether an episode, or an attempt, was right, which is that its reward is above 0.
_RIGHT = tuple(f"{NAME}_{name}" for name in ("max_rl", "pass_at_k", "calibrated"))
_BY_ATTEMPT = tuple(f"{NAME}_{name}" for name in ("calibrated", "mt_grpo"))


def algorithm_errors(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    """What of a config its estimator cannot take: one line for each field, with its value and the remedy."""
    estimator = config.algorithm.adv_estimator
    yield from _feedback(config)
    yield from _critic(config, estimator)
    yield from _episodes(config, settings, estimator)
    yield from _rewards(config, settings, estimator)
    if settings.credit.kl_attempts is not None and not config.algorithm.use_kl_in_reward:
        yield (
            f"multi_attempt.credit.kl_attempts = {settings.credit.kl_attempts} is of the KL in the reward, and "
            "algorithm.use_kl_in_reward = False; set that to True, or this to null"
        )
    rejection = OmegaConf.select(config, "algorithm.rollout_correction.rollout_rs")
    if estimator.startswith(f"{NAME}_") and rejection:
        yield (
            f"algorithm.rollout_correction.rollout_rs = {rejection!r} takes tokens out of the response mask, whose "
            f"runs are attempts to {_ESTIMATOR} = {estimator!r}; set it to null"
        )


def _feedback(config: DictConfig) -> Iterator[str]:
    loss = config.actor_rollout_ref.actor.policy_loss
    coefficient, mode = loss.get("feedback_coef", 0.0), loss.loss_mode
    place = "actor_rollout_ref.actor.policy_loss"
    if not 0 <= coefficient < math.inf:
        yield f"{place}.feedback_coef = {coefficient} must be at least 0, and finite"
    elif coefficient and mode != FEEDBACK_LOSS:
        yield (
            f"{place}.feedback_coef = {coefficient}: {place}.loss_mode = {mode!r} does not read it; set that to "
            f"{FEEDBACK_LOSS}, or this to 0"
        )


def _critic(config: DictConfig, estimator: str) -> Iterator[str]:
    enable = config.critic.enable
    if estimator in _CRITIC and enable is not True and not (estimator == "gae" and enable is None):
        yield f"critic.enable = {enable}: {_ESTIMATOR} = {estimator!r} needs a critic; set it to true"
    if estimator not in _CRITIC and enable:
        yield (
            f"critic.enable = {enable}: {_ESTIMATOR} = {estimator!r} asks no critic, which would be trained for "
            "nothing; set it to false"
        )


def _episodes(config: DictConfig, settings: TaskSettings, estimator: str) -> Iterator[str]:
    episodes, subset = config.actor_rollout_ref.rollout.n, settings.credit.subset
    if estimator in _GROUPS and episodes < 2:
        yield (
            f"{_EPISODES} = {episodes}: {_ESTIMATOR} = {estimator!r} compares the episodes of a question; set it to 2 "
            "or more, or choose algorithm=budget_baseline, which compares those with the same N"
        )
    elif estimator == f"{NAME}_pass_at_k" and subset >= episodes:
        yield f"multi_attempt.credit.subset = {subset} must be less than {_EPISODES} = {episodes}"


def _rewards(config: DictConfig, settings: TaskSettings, estimator: str) -> Iterator[str]:
    reward = settings.reward
    if estimator in _BY_ATTEMPT and reward.per_attempt != "each":
        yield (
            f"multi_attempt.reward.per_attempt = {reward.per_attempt!r}: {_ESTIMATOR} = {estimator!r} asks what "
            "each attempt is worth by itself; set it to each"
        )
    if estimator in _BY_ATTEMPT and settings.reflect == "self":
        yield (
            f"multi_attempt.reflect = 'self': a reflection has no reward of its own, of which {_ESTIMATOR} = "
            f"{estimator!r} would learn; set it to none or judge"
        )
    if estimator in _BY_ATTEMPT and settings.tell == "blind":
        yield (
            f"multi_attempt.tell = 'blind': {_ESTIMATOR} = {estimator!r} takes an attempt that is right for the last "
            "of its episode; set it to oracle"
        )
    if estimator not in _RIGHT:
        return
    if estimator not in _BY_ATTEMPT and reward.per_attempt == "each":
        yield (
            "multi_attempt.reward.per_attempt = 'each': the rewards of wrong attempts would hide whether an episode "
            f"was solved, which {_ESTIMATOR} = {estimator!r} asks; set it to episode"
        )
    if not reward.correct > 0 >= reward.well_formed:
        yield (
            f"multi_attempt.reward.correct = {reward.correct}, well_formed = {reward.well_formed}: {_ESTIMATOR} = "
            f"{estimator!r} takes what is worth more than 0 for right; need correct > 0 >= well_formed"
        )
    for name in ("score", "repeat", "repeat_share"):
        if value := getattr(reward, name):
            yield (
                f"multi_attempt.reward.{name} = {value}: {_ESTIMATOR} = {estimator!r} asks only whether the reward is "
                "above 0, which this may change; set it to 0"
            )
    if config.algorithm.use_kl_in_reward:
        yield (
            f"algorithm.use_kl_in_reward = True: {_ESTIMATOR} = {estimator!r} asks whether the reward is above 0; "
            "set it to False (actor_rollout_ref.actor.use_kl_loss has the KL in the loss)"
        )
