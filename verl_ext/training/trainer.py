"""verl's PPO trainers, with the measures of multi-attempt episodes, and guards against what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import transfer_queue.interface as queue
from omegaconf import DictConfig, open_dict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop import AgentLoopManager
from verl.trainer.ppo.v1 import PPOTrainer, PPOTrainerColocateAsync, PPOTrainerSync, register_trainer
from verl.utils.checkpoint.checkpoint_manager import should_save_ckpt_esi

from multi_attempt import model_settings
from multi_attempt.config import load_settings
from multi_attempt.metrics import batch_metrics
from verl_ext.algorithms.batch import step
from verl_ext.names import COLOCATE_ASYNC, NAME
from verl_ext.training.advantages import keep_reference_of_first, load_averages, save_averages, step_of
from verl_ext.training.best_checkpoint import BestCheckpoint, model_in
from verl_ext.training.checkpoints import checkpoints_of
from verl_ext.training.rollout_check import CheckedReplayBuffer, transcripts_of
from verl_ext.training.watchdog import Watchdog

_CORRELATION = "training/rollout_actor_probs_pearson_corr"
_DIFFERENCE = "training/rollout_probs_diff_max"
# Beyond an episode's own time-out, which it reaches all attempts together: to score it and to hand it over.
_ROLLOUT_GRACE_SECONDS = 300.0
# What a start may take at least: models are loaded and engines compile, once, which says nothing about a step.
_START_SECONDS = 3600.0


class RolloutMismatch(RuntimeError):
    """The rollout engine and the actor disagree on the probabilities of the generated tokens."""


class _MultiAttempt(PPOTrainer):
    """What is added to any of verl's trainers, which comes after it among the bases. What they do to the model, and in
    which order, stays theirs."""

    _verl_mode: ClassVar[str]
    """verl's own name of the trainer."""

    def __init__(self, config: DictConfig) -> None:
        self._task = load_settings(config.get(NAME))
        self._dialogues = model_settings.from_config(config)
        super().__init__(config)
        self._checkpoints = checkpoints_of(config, critic=self.use_critic)
        # Here and not in verl's _load_checkpoint: no worker has been started yet.
        self._checkpoints.check_resume(config.trainer.resume_mode, config.trainer.resume_from_path)
        self._best = BestCheckpoint(Path(config.trainer.default_local_dir)) if self._task.keep_best else None
        self._averages: dict[int, Tensor] = {}
        self._watchdog = Watchdog()
        self._longest_step = 0.0
        self._saved: int | None = None

    @property
    def trainer_mode(self) -> str:
        """verl's own name of it, whatever name this trainer was chosen by.

        verl compares the mode with ``"sync"`` literally (``trainer_base.py``, lines 130 to 1004), treats any other
        name as asynchronous (another replay buffer, no wait for the step's own episodes), and looks for the mode's
        settings by it (``trainer.v1.colocate_async``).
        """
        return self._verl_mode

    @trainer_mode.setter
    def trainer_mode(self, name: str) -> None:
        """The base class assigns the configured name; the mode is fixed."""

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = self._task.poll_interval
        return CheckedReplayBuffer(
            buffer, self.config.actor_rollout_ref.rollout, self._task.episode.max_error_rate, self._rollout
        )

    # ---- The watchdog ----

    def init(self) -> None:
        """Start all parts of the run, under the watchdog.

        Raises:
            KilledForMemory: Ray killed a part, because its node's memory was nearly full.
        """
        self._watchdog.start()
        self._watchdog.expect("the start of the run", max(_START_SECONDS, self._task.stall_timeout))
        with self._watchdog.explaining():
            super().init()
        servers = [server for replica in self.llm_server_manager.get_replicas() for server in replica.servers]
        self._watchdog.watch(
            {
                **_named("trainer worker", self.actor_rollout_wg.workers),
                **_named("rollout server", servers),
                **_named("request router", [self.llm_server_manager.global_load_balancer]),
                **_named("reward worker", self.reward_loop_manager.reward_loop_worker_handles or []),
                # TransferQueue's processes, of which nobody says that they are gone (interface.py, lines 60 and 236).
                **_named("TransferQueue controller", [queue._TQ_CONTROLLER]),
                **_named("TransferQueue storage", (queue._TQ_STORAGE or {}).get("SimpleStorage", {}).values()),
            }
        )

        if self.config.actor_rollout_ref.rollout.name == "vllm":
            urls = (f"http://{address}/health" for address in self.llm_server_manager.get_addresses())
            self._watchdog.watch_engines(_named("rollout engine", urls))

    def fit(self, agent_loop_manager: AgentLoopManager) -> None:
        """Train, under the watchdog.

        Raises:
            PartDied: a process of the run is gone; KilledForMemory, if Ray killed it for the node's memory.
            RunStalled: nothing moved for longer than ``multi_attempt.stall_timeout``.
        """
        self._watchdog.watch(_named("agent loop worker", agent_loop_manager.agent_loop_workers))
        try:
            with self._watchdog.explaining():
                super().fit(agent_loop_manager)
        finally:
            self._watchdog.stop()

    def _rollout(self, begins: bool) -> None:
        what = f"the rollout of step {self.global_steps}" if begins else f"the work on step {self.global_steps}"
        episode = self._task.episode.timeout + _ROLLOUT_GRACE_SECONDS
        self._watchdog.expect(what, episode if begins else self._task.stall_timeout)

    # ---- Guards ----

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_old_log_prob(batch, metrics)
        guard = self._task.guard
        check_agreement(metrics, guard.min_correlation, guard.max_difference)
        return batch

    # ---- Advantages ----

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_ref_log_prob(batch, metrics)
        if self._task.credit.kl_attempts is not None:
            keep_reference_of_first(batch, self._task.credit.kl_attempts)
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if not self.config.algorithm.adv_estimator.startswith(f"{NAME}_"):
            return super()._compute_advantage(batch, metrics)
        with step(step_of(batch, self._task.credit, self._averages, critic=self.use_critic)) as now:
            batch = super()._compute_advantage(batch, metrics)
        metrics.update(now.metrics)
        return batch

    # ---- Checkpoints ----

    def on_step_begin(self) -> None:
        """Note when the step began."""
        self._step_began = time.monotonic()
        self._watchdog.expect(f"step {self.global_steps}", self._task.stall_timeout)
        super().on_step_begin()

    def on_step_end(self) -> None:
        """Save, if the machine's time may end within the next step; then what verl does."""
        self._longest_step = max(self._longest_step, time.monotonic() - self._step_began)
        trainer = self.config.trainer
        # verl's own rule, which its V1 trainer leaves out (ray_trainer.py, line 1693).
        if trainer.save_freq > 0 and should_save_ckpt_esi(
            self._longest_step, redundant_time=trainer.esi_redundant_time
        ):
            self._save_checkpoint()
        super().on_step_end()

    def _save_checkpoint(self) -> None:
        if self._saved == self.global_steps:
            return
        if self.config.actor_rollout_ref.actor.checkpoint.get("async_save"):
            super()._save_checkpoint()  # is finished later, by Megatron
            return
        self._watchdog.expect(f"the checkpoint of step {self.global_steps}", self._task.stall_timeout)
        with self._checkpoints.saving(self.global_steps), _without_deleting(self.config):
            super()._save_checkpoint()
            self._write_settings()
            save_averages(self._averages, self._checkpoint(self.global_steps))
        self._watchdog.expect(f"the work on step {self.global_steps}", self._task.stall_timeout)
        self._saved = self.global_steps

    def _write_settings(self) -> None:
        """Beside the model, for its evaluation: the settings that it was trained with."""
        checkpoint = self._checkpoint(self.global_steps)
        model_settings.write(model_in(checkpoint / "actor") or checkpoint, self._dialogues)

    def _checkpoint(self, step: int) -> Path:
        return Path(self.config.trainer.default_local_dir) / f"global_step_{step}"

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps:
            trainer = self.config.trainer
            named = trainer.resume_from_path if trainer.resume_mode == "resume_path" else None
            self._averages = load_averages(Path(named) if named else self._checkpoint(self.global_steps))

    # ---- Measures ----

    def _validate(self) -> dict[str, float]:
        metrics: dict[str, float] = super()._validate()
        if self._best is not None:
            self._best.consider(self.global_steps, metrics)
        return metrics

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, Any], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        metrics.update(batch_metrics(transcripts_of(batch), self._task.max_attempts))


@register_trainer(NAME)
class MultiAttemptTrainer(_MultiAttempt, PPOTrainerSync):
    """``trainer.v1.trainer_mode=multi_attempt``: each step waits for its own episodes."""

    _verl_mode = "sync"


@register_trainer(COLOCATE_ASYNC)
class MultiAttemptColocateAsyncTrainer(_MultiAttempt, PPOTrainerColocateAsync):
    """``trainer.v1.trainer_mode=multi_attempt_colocate_async``: unfinished episodes go on in the next step.

    Their tokens are of several versions of the weights, so that the guard also bounds how far these have moved.
    """

    _verl_mode = "colocate_async"


def _named(kind: str, parts: Iterable[Any]) -> dict[str, Any]:
    return {f"{kind} {number}": part for number, part in enumerate(parts)}


@contextmanager
def _without_deleting(config: DictConfig) -> Iterator[None]:
    """verl keeps all checkpoints: what is too old is deleted when the new one is whole."""
    names = ("max_actor_ckpt_to_keep", "max_critic_ckpt_to_keep", "remove_previous_ckpt_in_save")
    values = {name: config.trainer.get(name) for name in names}
    with open_dict(config):
        config.trainer.update(dict.fromkeys(names))
    try:
        yield
    finally:
        with open_dict(config):
            config.trainer.update(values)


def check_agreement(metrics: dict[str, Any], min_correlation: float, max_difference: float) -> None:
    """Stop a run whose rollouts do not come from the weights that it trains.

    A weight sync that silently fails makes every rollout noise, and PPO then trains on it without an error.

    Args:
        metrics: verl's metrics of the step, with its comparison of rollout and actor.
        min_correlation: least Pearson correlation of the probabilities.
        max_difference: a largest difference of probabilities at or below this passes, whatever the correlation.

    Raises:
        RolloutMismatch: the correlation is below the bound, or not a number.
    """
    correlation, difference = float(metrics[_CORRELATION]), float(metrics[_DIFFERENCE])
    if correlation >= min_correlation or difference <= max_difference:
        return
    raise RolloutMismatch(
        f"rollout and actor disagree: {_CORRELATION} = {correlation:.6f}, {_DIFFERENCE} = {difference:.2e}; "
        f"multi_attempt.guard.min_correlation = {min_correlation} is the least accepted. The rollout engine does not "
        "run the weights that are trained. Look at the weight sync and at the dtypes of rollout and actor; lower the "
        "bound only if you know why they differ."
    )
