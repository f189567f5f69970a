"""What verl's estimators make of an episode of several samples: why some are refused with multi_attempt.history."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl.protocol import DataProto
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

# Two episodes of a question: one solved at once, and one that failed three times, whose samples have its reward.
KEYS = ["q_0_0", "q_1_0", "q_1_1", "q_1_2"]
REWARDS = [1.0, -1.0, -1.0, -1.0]


def advantages(estimator: str, values: float = 0.0) -> list[float]:
    """Of each sample, at its one token."""
    rewards = torch.tensor(REWARDS)[:, None]
    tensors = {
        "response_mask": torch.ones(4, 1),
        "token_level_rewards": rewards,
        "values": torch.full((4, 1), values),
    }
    data = DataProto.from_single_dict({**tensors, "uid": np.array(["q"] * 4, dtype=object)})
    made = compute_advantage_for_multi_trajectories(
        data, KEYS, estimator, norm_adv_by_std_in_grpo=False, config=OmegaConf.create({"gamma": 1.0})
    )
    return [round(float(value), 4) for value in made.batch["advantages"][:, 0]]


def test_grpo_compares_episodes() -> None:
    assert advantages("grpo") == [1.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize("estimator", ["rloo", "grpo_vectorized", "opo", "reinforce_plus_plus_baseline"])
def test_others_compare_samples_so_that_an_episode_counts_for_each_of_its_attempts(estimator: str) -> None:
    """The mean is -1/2, not 0: the failed episode counts three times."""
    ours, *others = advantages(estimator)
    assert abs(ours) > 1.4 * abs(others[0])


@pytest.mark.parametrize("estimator", ["gae", "reinforce_plus_plus"])
def test_the_allowed_others_compare_nothing_but_the_batch(estimator: str) -> None:
    rewards = torch.tensor(REWARDS)
    whitened = (rewards - rewards.mean()) / rewards.std()
    assert advantages(estimator) == pytest.approx(whitened.tolist(), abs=1e-3)
