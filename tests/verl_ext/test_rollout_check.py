"""What a rollout gave is checked before anything is done with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from multi_attempt.episode import Attempt, StopReason, Transcript
from verl_ext.training import rollout_check
from verl_ext.training.rollout_check import CheckedReplayBuffer, TooManyFailedEpisodes, transcripts_of


def transcript(error: str = "") -> Transcript:
    if error:
        return Transcript(2, StopReason.ABORTED, [], error=error)
    return Transcript(2, StopReason.CORRECT, [Attempt((0, 3), "4", True, True, False, False, "exact", "")])


class FakeBuffer:
    """verl's replay buffer and its queue, with a rollout's episodes; the key of an episode begins with its place."""

    poll_interval = 0.2

    def __init__(self, transcripts: list[Transcript], padding: int = 0, wrap: bool = False) -> None:
        given = [*transcripts, *[transcripts[-1]] * padding] if transcripts else []
        fields: list[Any] = [{"turn_scores": [], "multi_attempt": item.to_dict()} for item in given]
        self.fields = [SimpleNamespace(data=field) for field in fields] if wrap else fields
        self.tags = [{"status": "success"} for _ in transcripts] + [{"is_padding": True}] * padding
        self.calls: list[Any] = []

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        self.calls.append((global_steps, partition_id, batch_size))
        keys = [f"{place}_0_0" for place in range(len(self.fields))]
        return KVBatchMeta(partition_id=partition_id, keys=keys, tags=self.tags), {"polls": 1}

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, list[Any]]:
        assert select_fields == ["extra_fields"]
        return {"extra_fields": [self.fields[int(key.split("_")[0])] for key in keys]}


def checked(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, buffer: FakeBuffer, around: Any = lambda _: None
) -> CheckedReplayBuffer:
    monkeypatch.setattr(rollout_check, "tq", buffer)
    return CheckedReplayBuffer(buffer, config.actor_rollout_ref.rollout, 0.1, around)  # type: ignore[arg-type]


def episodes(failed: int, total: int) -> list[Transcript]:
    return [transcript() for _ in range(total - failed)] + [transcript(f"OSError: {n}") for n in range(failed)]


BOUNDS = [(0, 10, False), (1, 10, False), (2, 10, True), (1, 9, True), (10, 10, True)]


@pytest.mark.parametrize(("partition", "rollout"), [("train", "of step 9"), ("val", "of validation at step 9")])
@pytest.mark.parametrize(("failed", "total", "stops"), BOUNDS)
def test_too_many_failed_episodes_stop_the_run(
    config: DictConfig,
    monkeypatch: pytest.MonkeyPatch,
    failed: int,
    total: int,
    stops: bool,
    partition: str,
    rollout: str,
) -> None:
    buffer = FakeBuffer(episodes(failed, total))
    replay = checked(config, monkeypatch, buffer)
    if not stops:
        batch, metrics = replay.sample(global_steps=9, partition_id=partition, batch_size=total)
        assert (len(batch.keys), metrics, buffer.calls) == (total, {"polls": 1}, [(9, partition, total)])
        return
    with pytest.raises(TooManyFailedEpisodes) as stopped:
        replay.sample(global_steps=9, partition_id=partition, batch_size=total)
    rate = "multi_attempt.episode.max_error_rate = 0.1"
    for part in (f"{failed} of {total} episodes {rollout}", rate, "OSError: 0"):
        assert part in str(stopped.value)


@pytest.mark.parametrize(("there", "expected", "stops"), [(10, 10, False), (9, 10, False), (8, 10, True), (0, 4, True)])
def test_missing_episodes_count_as_failed(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, there: int, expected: int, stops: bool
) -> None:
    replay = checked(config, monkeypatch, FakeBuffer(episodes(0, there)))
    if not stops:
        replay.sample(global_steps=1, partition_id="train", batch_size=expected)
        return
    missing = expected - there
    with pytest.raises(TooManyFailedEpisodes, match=f"{missing} of {expected} episodes.*{missing} are missing"):
        replay.sample(global_steps=1, partition_id="train", batch_size=expected)


def test_each_question_has_as_many_episodes_as_the_config_says(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.actor_rollout_ref.rollout.n = 2
    config.actor_rollout_ref.rollout.val_kwargs.n = 3
    replay = checked(config, monkeypatch, FakeBuffer(episodes(0, 12)))
    replay.sample(global_steps=1, partition_id="train", batch_size=6)
    replay.sample(global_steps=1, partition_id="val", batch_size=4)
    with pytest.raises(TooManyFailedEpisodes, match="6 of 18"):
        replay.sample(global_steps=1, partition_id="val", batch_size=6)


def test_padding_is_no_episode(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    # verl pads with copies of an episode, here of one that failed: 1 of 10 is allowed, 7 of 16 would not be.
    buffer = FakeBuffer(episodes(1, 10), padding=6)
    checked(config, monkeypatch, buffer).sample(global_steps=1, partition_id="train", batch_size=10)


def test_the_wait_is_told_of_before_and_after(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    buffer = FakeBuffer(episodes(0, 1))
    buffer.calls = told
    checked(config, monkeypatch, buffer, told.append).sample(global_steps=1, partition_id="train", batch_size=1)
    assert told == [True, (1, "train", 1), False]


def test_all_else_is_verls_buffer(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(config, monkeypatch, FakeBuffer(episodes(0, 1))).poll_interval == 0.2


@pytest.mark.parametrize("wrap", [False, True])
def test_transcripts_are_read_from_either_storage_of_transfer_queue(
    monkeypatch: pytest.MonkeyPatch, wrap: bool
) -> None:
    given = [transcript(), transcript("OSError: gone")]
    monkeypatch.setattr(rollout_check, "tq", FakeBuffer(given, wrap=wrap))
    assert transcripts_of(KVBatchMeta(partition_id="train", keys=["0_0_0", "1_0_0"], tags=[{}, {}])) == given


def test_an_episode_of_several_samples_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """verl numbers an episode's samples, here up to 10; the last has the transcript."""
    fields: dict[str, Any] = {f"a_0_{number}": {} for number in range(10)}
    fields = {"b_0_1": {"multi_attempt": transcript().to_dict()}, "b_0_0": {}} | fields
    fields["a_0_10"], fields["a_1_0"] = ({"multi_attempt": transcript(error).to_dict()} for error in ("OSError: 1", ""))
    queue = SimpleNamespace(kv_batch_get=lambda keys, **_: {"extra_fields": [fields[key] for key in keys]})
    monkeypatch.setattr(rollout_check, "tq", queue)
    batch = KVBatchMeta(partition_id="train", keys=list(fields), tags=[{} for _ in fields])
    assert transcripts_of(batch) == [transcript(), transcript("OSError: 1"), transcript()]
