"""verl's synchronous PPO trainer, with the measures of multi-attempt episodes and two guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

from multi_attempt.config import load_settings
from multi_attempt.episode import StopReason, Transcript
from multi_attempt.metrics import batch_metrics
from verl_ext.agent_loop import TRANSCRIPT_KEY
from verl_ext.best_checkpoint import BestCheckpoint
from verl_ext.plugin import NAME

_CORRELATION = "training/rollout_actor_probs_pearson_corr"
_DIFFERENCE = "training/rollout_probs_diff_max"


class RolloutMismatch(RuntimeError):
    """The rollout engine and the actor disagree on the probabilities of the generated tokens."""


class TooManyFailedEpisodes(RuntimeError):
    """More episodes of a step failed than ``multi_attempt.episode.max_error_rate`` allows."""


@register_trainer(NAME)
class MultiAttemptTrainer(PPOTrainerSync):
    """``trainer.v1.trainer_mode=multi_attempt``: verl's ``sync`` trainer in everything it does to the model."""

    def __init__(self, config: DictConfig) -> None:
        self._task = load_settings(config.get(NAME))
        super().__init__(config)
        self.replay_buffer.poll_interval = self._task.poll_interval
        self._best = BestCheckpoint(Path(config.trainer.default_local_dir)) if self._task.keep_best else None

    @property
    def trainer_mode(self) -> str:
        """``sync``, whatever name this trainer was chosen by.

        verl compares the mode with ``"sync"`` literally (``trainer_base.py``, lines 130 to 1004) and treats any other
        name as asynchronous: another replay buffer, no wait for the step's own episodes.
        """
        return "sync"

    @trainer_mode.setter
    def trainer_mode(self, name: str) -> None:
        """The base class assigns the configured name; the mode is fixed."""

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        self._check_episodes(batch)
        batch = super()._compute_old_log_prob(batch, metrics)
        guard = self._task.guard
        check_agreement(metrics, guard.min_correlation, guard.max_difference)
        return batch

    def _check_episodes(self, batch: KVBatchMeta) -> None:
        transcripts = _transcripts(batch)
        failed = [transcript for transcript in transcripts if transcript.stop is StopReason.ABORTED]
        if len(failed) > self._task.episode.max_error_rate * len(transcripts):
            first = next((transcript.error for transcript in failed if transcript.error), "all were aborted")
            raise TooManyFailedEpisodes(
                f"{len(failed)} of {len(transcripts)} episodes of step {self.global_steps} failed or were aborted, "
                f"more than multi_attempt.episode.max_error_rate = {self._task.episode.max_error_rate} allows; the "
                f"first error: {first}"
            )

    def _validate(self) -> dict[str, float]:
        metrics: dict[str, float] = super()._validate()
        if self._best is not None:
            self._best.consider(self.global_steps, metrics)
        return metrics

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, Any], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        metrics.update(batch_metrics(_transcripts(batch), self._task.max_attempts))


def _transcripts(batch: KVBatchMeta) -> list[Transcript]:
    """The transcripts of a batch's episodes, without the sequences that verl pads it with."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    # A list of dicts, or of tensordict's wrappers around them, depending on TransferQueue's storage.
    return [Transcript.from_dict(getattr(fields, "data", fields)[TRANSCRIPT_KEY]) for fields in data["extra_fields"]]


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
