"""The trainers: verl's own, with guards and measures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig
from ray.exceptions import ActorUnavailableError
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSync, get_trainer_cls
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from multi_attempt import model_settings
from multi_attempt.episode import Attempt, StopReason, Transcript
from multi_attempt.metrics import batch_metrics
from verl_ext.training import rollout_check
from verl_ext.training.checkpoints import CheckpointError
from verl_ext.training.rollout_check import CheckedReplayBuffer
from verl_ext.training.trainer import MultiAttemptTrainer, RolloutMismatch, check_agreement
from verl_ext.training.watchdog import KilledForMemory, PartDied

CORRELATION, DIFFERENCE = "training/rollout_actor_probs_pearson_corr", "training/rollout_probs_diff_max"
NAN = float("nan")


def transcript(correct: bool = True) -> Transcript:
    attempt = Attempt((0, 3), "4", correct, True, False, False, "exact", "")
    return Transcript(2, StopReason.CORRECT if correct else StopReason.TRUNCATED, [attempt])


class FakeQueue:
    """TransferQueue with the transcripts of a step's episodes; the key of an episode is its place."""

    def __init__(self, transcripts: list[Transcript]) -> None:
        self.fields = [{"turn_scores": [], "multi_attempt": transcript.to_dict()} for transcript in transcripts]

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, list[Any]]:
        assert (partition_id, select_fields) == ("train", ["extra_fields"])
        return {"extra_fields": [self.fields[int(key.split("_")[1])] for key in keys]}


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
    monkeypatch.setattr(rollout_check, "tq", FakeQueue([*transcripts, *[transcripts[-1]] * padding]))
    tags = [{"status": "success"} for _ in transcripts] + [{"is_padding": True}] * padding
    return KVBatchMeta(partition_id="train", keys=[f"question_{place}_0" for place in range(len(tags))], tags=tags)


def test_the_name_of_the_plugin_chooses_the_trainer() -> None:
    assert get_trainer_cls("multi_attempt") is MultiAttemptTrainer


def test_to_verl_the_trainer_is_the_synchronous_one(trainer: MultiAttemptTrainer) -> None:
    assert isinstance(trainer, PPOTrainerSync)
    assert trainer.config.trainer.v1.trainer_mode == "multi_attempt"
    assert trainer.trainer_mode == "sync"
    assert isinstance(trainer.replay_buffer, CheckedReplayBuffer)
    assert type(trainer.replay_buffer.buffer) is ReplayBuffer
    assert trainer.replay_buffer.buffer.poll_interval == trainer.config.multi_attempt.poll_interval
    assert trainer.replay_buffer.trainer_mode == "sync"


def test_to_verl_the_asynchronous_trainer_is_its_own(config: DictConfig) -> None:
    config.trainer.v1.trainer_mode = "multi_attempt_colocate_async"
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config)
    assert isinstance(trainer, PPOTrainerColocateAsync)
    assert trainer.trainer_mode == "colocate_async"
    assert isinstance(trainer.replay_buffer, CheckedReplayBuffer)
    assert type(trainer.replay_buffer.buffer) is ReplayBufferAsync
    assert trainer.replay_buffer.buffer.poll_interval == config.multi_attempt.poll_interval


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


# ---- What goes wrong ----


def test_a_damaged_checkpoint_stops_the_trainer_before_it_starts_anything(config: DictConfig, tmp_path: Path) -> None:
    config.trainer.default_local_dir = str(tmp_path)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("8")
    with pytest.raises(CheckpointError, match="names step 8, but there is no folder"):
        MultiAttemptTrainer(config)


def test_a_rollout_may_take_an_episodes_timeout_and_all_else_the_stall_timeout(config: DictConfig) -> None:
    config.multi_attempt.episode.timeout = 50
    config.multi_attempt.stall_timeout = 700
    trainer = MultiAttemptTrainer(config)
    trainer.global_steps = 9
    told: list[Any] = []
    trainer._watchdog.expect = lambda *given: told.append(given)  # type: ignore[method-assign]
    trainer._rollout(True)
    trainer._rollout(False)
    assert told == [("the rollout of step 9", 350.0), ("the work on step 9", 700.0)]


def test_a_dead_part_that_the_trainer_itself_calls_is_told_with_the_remedy(
    trainer: MultiAttemptTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: Any) -> None:
        raise ActorUnavailableError("no connection", b"0" * 16)

    monkeypatch.setattr(PPOTrainerSync, "fit", fit)
    with pytest.raises(PartDied, match=r"The same command goes on .* Ray says: .*no connection"):
        trainer.fit(SimpleNamespace(agent_loop_workers=[]))  # type: ignore[arg-type]


def test_a_start_may_take_longer_than_a_step(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config.multi_attempt.stall_timeout = 60
    trainer = MultiAttemptTrainer(config)
    told: list[Any] = []
    watchdog = SimpleNamespace(start=list, expect=lambda *given: told.append(given), explaining=nullcontext)
    monkeypatch.setattr(trainer, "_watchdog", watchdog)
    monkeypatch.setattr(PPOTrainerSync, "init", lambda self: (_ for _ in ()).throw(OSError("no engine")))
    with pytest.raises(OSError, match="no engine"):
        trainer.init()
    assert told == [("the start of the run", 3600.0)]


def test_a_start_that_fails_is_explained_as_a_step_is(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = MultiAttemptTrainer(config)

    @contextmanager
    def explaining() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise KilledForMemory("the memory was full") from error

    watchdog = SimpleNamespace(start=list, expect=lambda *_: None, explaining=explaining)
    monkeypatch.setattr(trainer, "_watchdog", watchdog)
    monkeypatch.setattr(PPOTrainerSync, "init", lambda self: (_ for _ in ()).throw(OSError("no engine")))
    with pytest.raises(KilledForMemory, match="the memory was full"):
        trainer.init()


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """verl saves by writing nothing; what of the config it would have gone by, save by save."""
    saves: list[dict[str, Any]] = []

    def save(self: PPOTrainerSync) -> None:
        saves.append({"step": self.global_steps, **self.config.trainer})
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True)

    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", save)
    monkeypatch.setattr(PPOTrainerSync, "on_step_end", lambda self: None)
    return saves


def end_step(trainer: MultiAttemptTrainer, seconds: float) -> None:
    trainer._step_began = time.monotonic() - seconds
    trainer.on_step_end()


@pytest.mark.parametrize(
    ("seconds_left", "step_took", "save_freq", "saves"),
    [(None, 100, 8, 0), (300, 100, 8, 0), (150, 100, 8, 1), (150, 10, 8, 0), (150, 100, -1, 0)],
)
def test_a_run_whose_time_ends_within_a_step_and_a_save_is_saved(
    config: DictConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saved: list[dict[str, Any]],
    seconds_left: float | None,
    step_took: float,
    save_freq: int,
    saves: int,
) -> None:
    config.trainer.default_local_dir = str(tmp_path)
    config.trainer.save_freq = save_freq
    if seconds_left is not None:
        monkeypatch.setenv("MLP_CURRENT_CAPACITY_BLOCK_EXPIRATION_TIMESTAMP", str(time.time() + seconds_left))
    trainer = MultiAttemptTrainer(config)
    trainer.global_steps = 9
    end_step(trainer, step_took)
    assert len(saved) == saves


def test_a_step_is_saved_once(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: list[dict[str, Any]]
) -> None:
    config.trainer.default_local_dir = str(tmp_path)
    monkeypatch.setenv("MLP_CURRENT_CAPACITY_BLOCK_EXPIRATION_TIMESTAMP", str(time.time() + 50))
    trainer = MultiAttemptTrainer(config)
    for step in (8, 9):
        trainer.global_steps = step
        trainer._save_checkpoint()
        end_step(trainer, 100)
    assert [save["step"] for save in saved] == [8, 9]


def test_verl_is_not_to_delete_checkpoints_itself(
    config: DictConfig, tmp_path: Path, saved: list[dict[str, Any]]
) -> None:
    config.trainer.default_local_dir = str(tmp_path)
    config.trainer.max_actor_ckpt_to_keep = config.trainer.max_critic_ckpt_to_keep = 1
    trainer = MultiAttemptTrainer(config)
    for step in (1, 2):
        trainer.global_steps = step
        trainer._save_checkpoint()
    for save in saved:
        assert (save["max_actor_ckpt_to_keep"], save["max_critic_ckpt_to_keep"]) == (None, None)
    assert config.trainer.max_actor_ckpt_to_keep == 1
    assert [path.name for path in tmp_path.iterdir()] == ["global_step_2"]


def test_a_saved_model_says_how_it_was_trained(config: DictConfig, tmp_path: Path, saved: list[dict[str, Any]]) -> None:
    config.trainer.default_local_dir = str(tmp_path)
    config.data.apply_chat_template_kwargs = {"enable_thinking": False}
    trainer = MultiAttemptTrainer(config)
    trainer.global_steps = 1
    trainer._save_checkpoint()
    found = model_settings.read(tmp_path / "global_step_1" / "actor" / "huggingface")
    assert found == model_settings.from_config(config)
    assert found is not None
    assert found.prompts.name == "toy"
    assert found.template_kwargs == {"enable_thinking": False}


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
