"""``algorithm=...``: every choice composes with both engines, and what it cannot take is refused."""

from __future__ import annotations

import copy
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from verl.trainer.config.algorithm import AlgoConfig
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config

import verl_ext.algorithms.registry  # noqa: F401 - registers them
from multi_attempt.config import load_settings
from verl_ext.checks.algorithm_check import algorithm_errors

pytestmark = pytest.mark.usefixtures("hydra_configs")

CHOICES = sorted(file.name.removesuffix(".yaml") for file in files("verl_ext.config").joinpath("algorithm").iterdir())
WITH_CRITIC = ["ppo", "two_level_gae", "ufo"]


def composed(model_folder: Path, algorithm: str, engine: str = "fsdp") -> DictConfig:
    overrides = [f"algorithm={algorithm}", f"engine={engine}", f"actor_rollout_ref.model.path={model_folder}"]
    return compose("multi_attempt", overrides=overrides)


def errors(config: DictConfig) -> list[str]:
    return list(algorithm_errors(config, load_settings(config.multi_attempt)))


@pytest.mark.parametrize("engine", ["fsdp", "megatron"])
@pytest.mark.parametrize("algorithm", CHOICES)
def test_every_algorithm_composes_with_both_engines(algorithm: str, engine: str, model_folder: Path) -> None:
    config = composed(model_folder, algorithm, engine)
    OmegaConf.resolve(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    assert isinstance(omega_conf_to_dataclass(config.algorithm), AlgoConfig)
    assert config.algorithm.adv_estimator in ADV_ESTIMATOR_REGISTRY
    assert config.actor_rollout_ref.actor.strategy == engine
    assert need_critic(config) == (algorithm in WITH_CRITIC)
    assert config.cpu.critic_warmup == (2 if algorithm in WITH_CRITIC else 0)
    assert errors(config) == []


def test_every_estimator_of_ours_can_be_chosen(model_folder: Path) -> None:
    chosen = {composed(model_folder, algorithm).algorithm.adv_estimator for algorithm in CHOICES}
    assert chosen - {"gae"} == {name for name in ADV_ESTIMATOR_REGISTRY if name.startswith("multi_attempt_")}


@pytest.fixture(scope="module")
def bases(hydra_configs: None, model_folder: Path) -> dict[str, DictConfig]:
    return {name: composed(model_folder, name) for name in ("ppo", "rloo", "pass_at_k", "calibrated", "two_level_gae")}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("rloo", {"actor_rollout_ref.rollout.n": 1}, r"rollout\.n = 1: .*algorithm=budget_baseline"),
    ("ppo", {"algorithm.adv_estimator": "grpo"}, r"rollout\.n = 1"),
    ("pass_at_k", {"multi_attempt.credit.subset": 8}, r"credit\.subset = 8 must be less than .*rollout\.n = 8"),
    ("two_level_gae", {"critic.enable": None}, r"critic\.enable = None: .* needs a critic; set it to true"),
    ("ppo", {"critic.enable": False}, r"critic\.enable = False: .* needs a critic; set it to true"),
    ("rloo", {"critic.enable": True}, r"critic\.enable = True: .*for nothing; set it to false"),
    ("calibrated", {"multi_attempt.reward.per_attempt": "episode"}, r"per_attempt = 'episode': .* set it to each"),
    ("pass_at_k", {"multi_attempt.reward.per_attempt": "each"}, r"per_attempt = 'each': .* set it to episode"),
    ("pass_at_k", {"multi_attempt.reward.well_formed": 0.5}, r"need correct > 0 >= well_formed"),
    ("pass_at_k", {"multi_attempt.reward.score": 0.5}, r"reward\.score = 0\.5: .*set it to 0"),
    ("calibrated", {"algorithm.use_kl_in_reward": True}, r"use_kl_in_reward = True: .*set it to False"),
    ("ppo", {"actor_rollout_ref.actor.policy_loss.feedback_coef": 0.1}, r"feedback_coef = 0\.1: .*'vanilla' does not"),
    ("ppo", {"actor_rollout_ref.actor.policy_loss.feedback_coef": -1}, r"feedback_coef = -1 must be at least 0"),
    ("calibrated", {"multi_attempt.reflect": "self"}, r"reflect = 'self': .*set it to none or judge"),
    ("calibrated", {"multi_attempt.tell": "blind"}, r"tell = 'blind': .*set it to oracle"),
    ("rloo", {"multi_attempt.credit.kl_attempts": 1}, r"kl_attempts = 1 is of the KL in the reward"),
    ("rloo", {"algorithm.rollout_correction.rollout_rs": "token_k1"}, r"rollout_rs = 'token_k1' .* set it to null"),
]


@pytest.mark.parametrize(("algorithm", "changes", "error"), REFUSED)
def test_what_it_cannot_take_is_refused(
    bases: dict[str, DictConfig], algorithm: str, changes: dict[str, Any], error: str
) -> None:
    config = copy.deepcopy(bases[algorithm])
    for field, value in changes.items():
        OmegaConf.update(config, field, value)
    (found,) = errors(config)
    assert re.search(error, found)
