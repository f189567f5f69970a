"""The trainer: verl's synchronous one, with guards and measures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from multi_attempt.episode import Attempt, StopReason, Transcript
from multi_attempt.metrics import batch_metrics
from verl_ext import trainer as trainer_module
from verl_ext.trainer import MultiAttemptTrainer, RolloutMismatch, TooManyFailedEpisodes, check_agreement

CORRELATION, DIFFERENCE = "training/rollout_actor_probs_pearson_corr", "training/rollout_probs_diff_max"
NAN = float("nan")


def transcript(correct: bool = True, error: str = "") -> Transcript:
    if error:
        return Transcript(2, StopReason.ABORTED, [], error=error)
    attempt = Attempt((0, 3), "4", correct, True, False, False, "exact", "")
    return Transcript(2, StopReason.CORRECT if correct else StopReason.TRUNCATED, [attempt])


class FakeQueue:
    """TransferQueue with the transcripts of a step's episodes; the key of an episode is its place."""

    def __init__(self, transcripts: list[Transcript], wrap: bool = False) -> None:
        fields: list[Any] = [{"turn_scores": [], "multi_attempt": transcript.to_dict()} for transcript in transcripts]
        self.fields = [SimpleNamespace(data=field) for field in fields] if wrap else fields

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, list[Any]]:
        assert (partition_id, select_fields) == ("train", ["extra_fields"])
        return {"extra_fields": [self.fields[int(key)] for key in keys]}


@pytest.fixture
def trainer(config: DictConfig) -> MultiAttemptTrainer:
    """A trainer as ``main_ppo`` makes it; nothing runs before its ``init``."""
    cls = get_trainer_cls(config.trainer.v1.trainer_mode)
    made = cls(config)
    assert isinstance(made, MultiAttemptTrainer)
    made.global_steps = 9
    return made


def queue(monkeypatch: pytest.MonkeyPatch, transcripts: list[Transcript], *, padding: int = 0) -> KVBatchMeta:
    """Puts episodes, and copies of the last as padding, into the queue; the batch that names them."""
    monkeypatch.setattr(trainer_module, "tq", FakeQueue([*transcripts, *[transcripts[-1]] * padding]))
    tags = [{"status": "success"} for _ in transcripts] + [{"is_padding": True}] * padding
    return KVBatchMeta(partition_id="train", keys=[str(place) for place in range(len(tags))], tags=tags)


def test_the_name_of_the_plugin_chooses_the_trainer() -> None:
    assert get_trainer_cls("multi_attempt") is MultiAttemptTrainer


def test_to_verl_the_trainer_is_the_synchronous_one(trainer: MultiAttemptTrainer) -> None:
    assert isinstance(trainer, PPOTrainerSync)
    assert trainer.config.trainer.v1.trainer_mode == "multi_attempt"
    assert trainer.trainer_mode == "sync"
    assert type(trainer.replay_buffer) is ReplayBuffer
    assert trainer.replay_buffer.trainer_mode == "sync"


def test_a_wrong_setting_of_the_task_stops_the_trainer(config: DictConfig) -> None:
    config.multi_attempt.min_attempts = 0
    with pytest.raises(ValueError, match=r"multi_attempt\.min_attempts = 0"):
        MultiAttemptTrainer(config)


# ---- Rollout and actor ----


@pytest.mark.parametrize(
    ("correlation", "difference"),
    [
        pytest.param(0.95, 0.5, id="the least correlation"),
        pytest.param(1.0, 0.5, id="full correlation"),
        pytest.param(0.1, 1e-4, id="probabilities are the same"),
        pytest.param(NAN, 0.0, id="a policy that is sure of every token"),
    ],
)
def test_a_rollout_that_agrees_with_the_actor_passes(correlation: float, difference: float) -> None:
    check_agreement({CORRELATION: correlation, DIFFERENCE: difference}, min_correlation=0.95, max_difference=1e-4)


@pytest.mark.parametrize(
    ("correlation", "difference"),
    [
        pytest.param(0.949, 0.5, id="correlation below the bound"),
        pytest.param(-1.0, 1.1e-4, id="both bounds missed"),
        pytest.param(NAN, 0.5, id="no correlation"),
        pytest.param(NAN, NAN, id="nothing generated"),
        pytest.param(0.1, NAN, id="no difference"),
    ],
)
def test_a_rollout_that_disagrees_with_the_actor_stops_the_run(correlation: float, difference: float) -> None:
    with pytest.raises(RolloutMismatch, match=r"min_correlation = 0\.95") as stopped:
        check_agreement({CORRELATION: correlation, DIFFERENCE: difference}, min_correlation=0.95, max_difference=1e-4)
    assert f"{CORRELATION} = {correlation:.6f}" in str(stopped.value)


def test_a_config_that_gives_no_comparison_is_an_error() -> None:
    with pytest.raises(KeyError):
        check_agreement({}, min_correlation=0.95, max_difference=1e-4)


@pytest.mark.parametrize(("correlation", "stops"), [(0.8, False), (0.7, True)])
def test_the_comparison_is_made_in_every_step_by_the_configs_bounds(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, correlation: float, stops: bool
) -> None:
    config.multi_attempt.guard.min_correlation = 0.75
    trainer = MultiAttemptTrainer(config)
    trainer.global_steps = 1
    batch = queue(monkeypatch, [transcript()])
    result = KVBatchMeta(partition_id="train", keys=["result"], tags=[{}])

    def compare(_: Any, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        metrics.update({CORRELATION: correlation, DIFFERENCE: 0.5})
        return result

    monkeypatch.setattr(PPOTrainerSync, "_compute_old_log_prob", compare)
    if stops:
        with pytest.raises(RolloutMismatch):
            trainer._compute_old_log_prob(batch, {})
    else:
        assert trainer._compute_old_log_prob(batch, {}) is result


# ---- Failed episodes ----


@pytest.mark.parametrize(
    ("failed", "total", "stops"), [(0, 10, False), (1, 10, False), (2, 10, True), (1, 9, True), (10, 10, True)]
)
def test_a_step_with_too_many_failed_episodes_stops_the_run(
    trainer: MultiAttemptTrainer, monkeypatch: pytest.MonkeyPatch, failed: int, total: int, stops: bool
) -> None:
    errors = [transcript(error=f"OSError: {number}") for number in range(failed)]
    batch = queue(monkeypatch, [transcript() for _ in range(total - failed)] + errors)
    if not stops:
        trainer._check_episodes(batch)
        return
    with pytest.raises(TooManyFailedEpisodes) as stopped:
        trainer._check_episodes(batch)
    for part in (f"{failed} of {total} episodes of step 9", "multi_attempt.episode.max_error_rate = 0.1", "OSError: 0"):
        assert part in str(stopped.value)


def test_failed_episodes_stop_the_run_before_anything_is_computed_from_them(
    trainer: MultiAttemptTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PPOTrainerSync, "_compute_old_log_prob", lambda *_: pytest.fail("computed"))
    with pytest.raises(TooManyFailedEpisodes):
        trainer._compute_old_log_prob(queue(monkeypatch, [transcript(error="OSError: gone")]), {})


def test_padding_is_no_failed_episode(trainer: MultiAttemptTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    # verl pads with copies of an episode, here of one that failed: 1 of 10 is allowed, 7 of 16 would not be.
    episodes = [transcript() for _ in range(9)] + [transcript(error="OSError: gone")]
    trainer._check_episodes(queue(monkeypatch, episodes, padding=6))


# ---- Measures ----


@pytest.mark.parametrize("padding", [0, 3])
def test_the_measures_are_those_of_the_steps_episodes_without_padding(
    trainer: MultiAttemptTrainer, monkeypatch: pytest.MonkeyPatch, padding: int
) -> None:
    episodes = [transcript(correct=True), transcript(correct=True), transcript(correct=True), transcript(correct=False)]
    batch = queue(monkeypatch, episodes, padding=padding)
    asked: list[Any] = []
    monkeypatch.setattr(PPOTrainerSync, "_compute_metrics", lambda *given, **named: asked.append((given[1:], named)))
    metrics: dict[str, Any] = {"actor/entropy": 1.0}
    trainer._compute_metrics(batch, metrics, {}, global_steps=9, epoch=2)
    assert asked == [((batch, metrics, {}), {"global_steps": 9, "epoch": 2})]
    assert metrics["actor/entropy"] == 1.0
    assert metrics["multi_attempt/success"] == 0.75
    assert set(metrics) == {"actor/entropy", *batch_metrics(episodes, max_attempts=5)}


@pytest.mark.parametrize("wrap", [False, True])
def test_transcripts_are_read_from_either_storage_of_transfer_queue(
    monkeypatch: pytest.MonkeyPatch, wrap: bool
) -> None:
    episodes = [transcript(correct=True), transcript(error="OSError: gone")]
    monkeypatch.setattr(trainer_module, "tq", FakeQueue(episodes, wrap=wrap))
    batch = KVBatchMeta(partition_id="train", keys=["0", "1"], tags=[{}, {}])
    assert trainer_module._transcripts(batch) == episodes
