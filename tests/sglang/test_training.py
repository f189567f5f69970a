"""Two real runs of ``main_ppo`` whose rollouts are SGLang's: one as it should be, one whose weight sync is left out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from test_end_to_end import Run, check_agreement
from training_run import FINISH_SECONDS, make_toy
from watched_adapter import RECORD, SYNCS

pytestmark = pytest.mark.engine

_SETTINGS = ["rollout=sglang", "trainer.total_training_steps=3", "trainer.save_freq=-1"]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the log-probs of a fixed text stand, after each weight sync of a run."""
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", "watch_weights")
    monkeypatch.setenv(RECORD, str(tmp_path / "record.jsonl"))
    return tmp_path / "record.jsonl"


def differences(record: Path) -> list[float]:
    """By how much the log-probs differ, at most, between one weight sync and the next."""
    syncs = [json.loads(line) for line in record.read_text().splitlines()]
    assert len({len(log_probs) for log_probs in syncs}) == 1
    return [max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairwise(syncs)]


def test_rollout_and_actor_agree_at_every_step_while_the_weights_change(tmp_path: Path, record: Path) -> None:
    make_toy(tmp_path, tied=True)
    with Run(tmp_path, *_SETTINGS) as run:
        run.finish()
    steps = run.steps()
    assert set(steps) == {1, 2, 3}
    check_agreement(steps)
    assert len(differences(record)) >= 2
    assert min(differences(record)) > 1e-2
    for data in steps.values():
        assert data["multi_attempt/episode_errors"] == 0


def test_the_guard_stops_a_run_whose_weights_do_not_reach_the_rollout(
    tmp_path: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SYNCS, "1")
    make_toy(tmp_path, tied=False)
    with Run(tmp_path, *_SETTINGS) as run:
        assert run.process.wait(FINISH_SECONDS) != 0
    steps = run.steps()
    assert set(steps) == {1}
    check_agreement(steps)
    assert differences(record) == [0.0]
    assert "RolloutMismatch: rollout and actor disagree" in run.text()
