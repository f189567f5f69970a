"""What a rollout gave, checked before anything is done with it, in training and in validation.

verl goes on with whatever episodes there are: it pads a training batch whose episodes are missing
(``padding_utils.py``), and counts failed episodes of a validation as wrong answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from multi_attempt.episode import StopReason, Transcript
from verl_ext.rollout.agent_loop import TRANSCRIPT_KEY


class TooManyFailedEpisodes(RuntimeError):
    """More episodes of a step failed than ``multi_attempt.episode.max_error_rate`` allows."""


class CheckedReplayBuffer:
    """verl's replay buffer, whose batches have been checked.

    Args:
        buffer: verl's.
        rollout: ``actor_rollout_ref.rollout``, for the episodes of each question.
        max_error_rate: the greatest share of failed episodes.
        around: called before each wait for a rollout with True, and after it with False.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        rollout: DictConfig,
        max_error_rate: float,
        around: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.buffer = buffer
        self._episodes_each = {"train": int(rollout.n), "val": int(rollout.val_kwargs.n)}
        self._max_error_rate, self._around = max_error_rate, around

    def __getattr__(self, name: str) -> Any:
        return getattr(self.buffer, name)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """verl's ``ReplayBuffer.sample`` (``replay_buffer.py``, line 423).

        Raises:
            TooManyFailedEpisodes: too many failed, were aborted, or are missing.
        """
        self._around(True)
        batch, metrics = self.buffer.sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        self._around(False)
        kind = "validation at step" if partition_id == "val" else "step"
        expected = batch_size * self._episodes_each.get(partition_id, 1)
        check_episodes(transcripts_of(batch), expected, self._max_error_rate, f"{kind} {global_steps}")
        return batch, metrics


def transcripts_of(batch: KVBatchMeta) -> list[Transcript]:
    """The transcripts of a batch's episodes, each once, without the sequences that verl pads it with."""
    keys = _last_of_each(
        [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    )
    if not keys:
        return []
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    # A list of dicts, or of tensordict's wrappers around them, depending on TransferQueue's storage.
    return [Transcript.from_dict(getattr(fields, "data", fields)[TRANSCRIPT_KEY]) for fields in data["extra_fields"]]


def _last_of_each(keys: Sequence[str]) -> list[str]:
    """The keys of each episode's last sample, in which its transcript is.

    verl calls a sample ``{prompt}_{episode}_{number of the sample}`` (``agent_loop_tq.py``, line 178).
    """
    last: dict[str, str] = {}
    for key in keys:
        episode, number = key.rsplit("_", 1)
        if episode not in last or int(number) > int(last[episode].rsplit("_", 1)[1]):
            last[episode] = key
    return list(last.values())


def check_episodes(transcripts: list[Transcript], expected: int, max_error_rate: float, rollout: str) -> None:
    """Stop a run whose episodes fail.

    Args:
        transcripts: of the episodes that there are.
        expected: how many there should be.
        max_error_rate: the greatest share of them that may have failed, been aborted, or be missing.
        rollout: which rollout it is, for the message.

    Raises:
        TooManyFailedEpisodes: there are more.
    """
    failed = [transcript for transcript in transcripts if transcript.stop is StopReason.ABORTED]
    missing = max(0, expected - len(transcripts))
    total = len(transcripts) + missing
    if len(failed) + missing <= max_error_rate * total:
        return
    first = next((transcript.error for transcript in failed if transcript.error), "all were aborted")
    if missing:
        first = f"{missing} are missing, lost by an agent loop worker or a reward worker, whose log says why"
    raise TooManyFailedEpisodes(
        f"{len(failed) + missing} of {total} episodes of {rollout} failed or were aborted, more than "
        f"multi_attempt.episode.max_error_rate = {max_error_rate} allows; the first error: {first}"
    )
