"""A step's advantages by verl's own code, from what stands in the queue to what is put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync, trainer_base
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from multi_attempt.episode import Attempt, StopReason, Transcript
from verl_ext.training import advantages, rollout_check
from verl_ext.training.trainer import MultiAttemptTrainer

MASKS = [[1, 1, 0, 1, 1, 1], [1, 0, 0, 1], [1, 1], [0], [0]]
SPANS = [[(0, 2), (3, 6)], [(0, 1), (3, 4)], [(0, 2)], [], []]
REWARDS = [{5: 1.0}, {3: -1.0}, {1: 1.0}, {}, {}]
QUESTIONS = ["a", "a", "a", "a", "pad"]


def transcript(spans: list[tuple[int, int]]) -> Transcript:
    attempts = [Attempt(span, "4", False, True, False, False, "exact", "") for span in spans]
    return Transcript(2, StopReason.EXHAUSTED if spans else StopReason.ABORTED, attempts)


class Queue:
    """TransferQueue with one step: three episodes, an aborted one, and a row that the batch is filled up with."""

    def __init__(self) -> None:
        self.given: TensorDict | None = None

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        rows = [self._row(int(key.split("_")[1])) for key in keys]
        there = [field for field in select_fields if field in rows[0]]
        return list_of_dict_to_tensordict([{field: row[field] for field in there} for row in rows])

    def _row(self, number: int) -> dict[str, Any]:
        length = len(MASKS[number])
        scores = torch.zeros(length)
        for place, reward in REWARDS[number].items():
            scores[place] = reward
        return {
            "uid": QUESTIONS[number],
            "response_mask": torch.tensor(MASKS[number]),
            "rm_scores": scores,
            "rollout_log_probs": torch.zeros(length),
            "old_log_probs": torch.zeros(length),
            "ref_log_prob": -torch.ones(length),
            "values": 0.5 * torch.ones(length),
            "extra_fields": {"multi_attempt": transcript(SPANS[number]).to_dict()},
        }

    def kv_batch_put(self, keys: list[str], partition_id: str, fields: TensorDict) -> KVBatchMeta:
        self.given = fields
        return KVBatchMeta(partition_id=partition_id, keys=keys, tags=[{} for _ in keys])


def computed(
    config: DictConfig,
    monkeypatch: pytest.MonkeyPatch,
    estimator: str,
    remembered: dict[int, torch.Tensor] | None = None,
) -> tuple[list[list[float]], dict[str, Any]]:
    """The advantages that are put back, and the step's metrics."""
    queue = Queue()
    for module in (trainer_base, advantages, rollout_check):
        monkeypatch.setattr(module, "tq", queue)
    config.algorithm.adv_estimator = f"multi_attempt_{estimator}"
    trainer = MultiAttemptTrainer(config)
    metrics: dict[str, Any] = {}
    trainer._averages = {} if remembered is None else remembered
    tags = [{"status": "success"}] * 4 + [{"is_padding": True}]
    batch = KVBatchMeta(
        partition_id="train", keys=[f"{uid}_{number}_0" for number, uid in enumerate(QUESTIONS)], tags=tags
    )
    trainer._compute_advantage(batch, metrics)
    assert queue.given is not None
    return [row.tolist() for row in queue.given["advantages"].unbind()], metrics


def test_episodes_are_compared_with_those_of_their_question(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.critic.enable = False
    found, metrics = computed(config, monkeypatch, "rloo")
    assert found == [[1, 1, 0, 1, 1, 1], [-2, 0, 0, -2], [1, 1], [0], [0]]
    assert metrics["multi_attempt/groups_without_variance"] == 0


def test_attempts_are_compared_with_those_of_their_number(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config.critic.enable = False
    found, _ = computed(config, monkeypatch, "attempt_rloo")
    assert found == [[1, 1, 0, 2, 2, 2], [-2, 0, 0, -2], [1, 1], [0], [0]]


def test_settings_n_and_values_reach_an_estimator(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config.critic.enable, config.algorithm.gamma, config.algorithm.lam = True, 1.0, 1.0
    config.multi_attempt.credit.gamma = 0.5
    # r + 0.5 V - V at the end of the first attempt and 1 - V at that of the second, which has half of its weight there.
    found, _ = computed(config, monkeypatch, "two_level_gae")
    assert found == [[0, 0, 0, 0.5, 0.5, 0.5], [-1, 0, 0, -1.5], [0.5, 0.5], [0], [0]]
    config.critic.enable = False
    found, _ = computed(config, monkeypatch, "budget_baseline")
    assert found == [[1, 1, 0, 1, 1, 1], [-2, 0, 0, -2], [1, 1], [0], [0]]


@pytest.mark.parametrize("named", [False, True])
def test_a_resumed_run_goes_on_with_what_an_estimator_remembers(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: bool
) -> None:
    config.trainer.default_local_dir = str(tmp_path)
    checkpoint = (tmp_path / "named" if named else tmp_path) / "global_step_3"
    checkpoint.mkdir(parents=True)
    averages = {2: torch.tensor([[1 / 3, 0.1], [1, 2 / 3]], dtype=torch.float64)}
    advantages.save_averages(averages, checkpoint)
    trainer = MultiAttemptTrainer(config)
    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", lambda trainer: setattr(trainer, "global_steps", 3))
    if named:
        config.trainer.update(resume_mode="resume_path", resume_from_path=str(checkpoint))
    trainer._load_checkpoint()
    assert {budget: average.tolist() for budget, average in trainer._averages.items()} == {2: averages[2].tolist()}
    assert advantages.load_averages(tmp_path / "none") == {}


def test_weights_are_those_of_the_steps_before(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempt 1 was right in a half of the earlier episodes, attempt 2 in a quarter."""
    config.critic.enable = False
    remembered = {2: torch.tensor([[0.5, 0.25], [1.0, 1.0]], dtype=torch.float64)}
    monkeypatch.setattr(
        MultiAttemptTrainer, "_averages", property(lambda _: remembered, lambda *_: None), raising=False
    )
    found, _ = computed(config, monkeypatch, "calibrated")
    # Own rewards are 0, 0, 1 at the first attempt and 1, -1 at the second; the first has a weight of 1 - 0.25.
    assert found == [[-0.375, -0.375, 0, 2, 2, 2], [-0.375, 0, 0, -2], [0.75, 0.75], [0], [0]]
    # One of three was right at the first, one of two at the second.
    assert remembered[2].tolist() == [pytest.approx([0.55, 0.325]), pytest.approx([1.2, 1.1])]


def test_the_kl_may_be_of_the_first_attempts_alone(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    for module in (trainer_base, advantages, rollout_check):
        monkeypatch.setattr(module, "tq", queue)
    monkeypatch.setattr(PPOTrainerSync, "_compute_ref_log_prob", lambda _, batch, metrics: batch)
    keys = [f"{uid}_{number}_0" for number, uid in enumerate(QUESTIONS)]
    batch = KVBatchMeta(partition_id="train", keys=keys, tags=[{} for _ in keys])
    MultiAttemptTrainer(config)._compute_ref_log_prob(batch, {})
    assert queue.given is None
    config.multi_attempt.credit.kl_attempts = 1
    MultiAttemptTrainer(config)._compute_ref_log_prob(batch, {})
    assert queue.given is not None
    # -1 is the reference's, 0 the policy's own.
    kept = [row.tolist() for row in queue.given["ref_log_prob"].unbind()]
    assert kept == [[-1, -1, 0, 0, 0, 0], [-1, 0, 0, 0], [-1, -1], [0], [0]]


def test_the_kl_in_the_reward_is_part_of_what_an_attempt_was_given(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.critic.enable = False
    config.algorithm.use_kl_in_reward = True
    config.algorithm.kl_ctrl.kl_coef = 0.5
    found, _ = computed(config, monkeypatch, "attempt_rloo")
    # Each generated token costs 0.5: from the first attempts on came -1.5, -2 and 0, from the second -0.5 and -1.5.
    assert found == [[-0.5, -0.5, 0, 1, 1, 1], [-1.25, 0, 0, -1], [1.75, 1.75], [0], [0]]
