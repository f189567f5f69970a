"""Two steps of ``main_ppo`` on the toy, for an algorithm with a critic, one without, and one that remembers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from training_run import TrainingRun, make_toy

pytestmark = pytest.mark.engine

STEPS = 2

# What is chosen beside them.
ALGORITHMS = {
    "two_level_gae": ["actor_rollout_ref.rollout.n=1", "trainer.critic_warmup=0"],
    "attempt_rloo": [
        "multi_attempt.reward.per_attempt=difference",
        "actor_rollout_ref.actor.policy_loss.loss_mode=multi_attempt_feedback",
        "actor_rollout_ref.actor.policy_loss.feedback_coef=0.1",
    ],
    "calibrated": [],
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_toy(folder)
    return folder


def trained(toy: Path, folder: Path, algorithm: str) -> dict[int, dict[str, Any]]:
    """The metrics of each step."""
    overrides = [
        f"algorithm={algorithm}",
        *ALGORITHMS[algorithm],
        "data.train_batch_size=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "multi_attempt.max_attempts=2",
        f"trainer.total_training_steps={STEPS}",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
    ]
    with TrainingRun(toy, folder / "checkpoints", folder, overrides) as run:
        run.start()
        run.finish()
        return run.steps()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_trains(toy: Path, tmp_path: Path, algorithm: str) -> None:
    steps = trained(toy, tmp_path, algorithm)
    assert set(steps) == {1, STEPS}
    for step in steps.values():
        assert step["multi_attempt/episode_errors"] == 0
        assert 0 <= step["multi_attempt/groups_without_variance"] <= 1
        assert math.isfinite(step["actor/pg_loss"])
        assert math.isfinite(step["critic/advantages/mean"])
        assert ("critic/vf_loss" in step) == (algorithm == "two_level_gae")
        assert ("actor/feedback_loss" in step) == (algorithm == "attempt_rloo")
