"""Two steps of training with every part of feedback and reflection, and two blind ones with a judge's critique."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, serving
from runs import json_lines
from training_run import TrainingRun

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings

pytestmark = pytest.mark.engine

STEPS = 2
CORRELATION = "training/rollout_actor_probs_pearson_corr"


@pytest.fixture
def judge() -> Iterator[FakeServer]:
    with serving() as server:
        server.said = {"content": "Look at the ones."}
        yield server


def train(folder: Path, *settings: str) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Metrics by step, and the episodes' responses."""
    # A model that ends its attempts; most of them are wrong.
    build_toy(folder, train_questions=128, heldout_questions=8, settings=ToySettings(steps=120))
    rollouts = folder / "rollouts"
    steps = [f"trainer.total_training_steps={STEPS}", "trainer.save_freq=-1", f"trainer.test_freq={STEPS}"]
    common = ["trainer.critic_warmup=0", "actor_rollout_ref.actor.ppo_mini_batch_size=8", *steps]
    common += ["multi_attempt.max_attempts=3", "multi_attempt.max_tokens_per_attempt=40"]
    kept = f"trainer.rollout_data_dir={rollouts}"
    with TrainingRun(folder, folder / "checkpoints", folder, [kept, *common, *settings]) as run:
        run.start()
        run.finish()
        found = run.steps()
    assert set(found) == set(range(1, STEPS + 1))
    for data in found.values():
        assert data["multi_attempt/episode_errors"] == 0
        assert data[CORRELATION] > 0.999
    return found, [row["output"] for step in found for row in json_lines(rollouts / f"{step}.jsonl")]


def test_every_part_and_reflections_are_trained_with(tmp_path: Path) -> None:
    parts = "[verdict,ruled_out,question,attempts_left,last_attempt]"
    steps, responses = train(
        tmp_path,
        f"multi_attempt.feedback={parts}",
        "multi_attempt.ruled_out_length=8",
        "multi_attempt.reflect=self",
        "multi_attempt.reflection.max_tokens=8",
        "multi_attempt.reward.repeat=0.1",
        "multi_attempt.reward.repeat_share=0.1",
        "data.max_response_length=512",
        "actor_rollout_ref.rollout.max_model_len=640",
    )
    assert any("Wrong. " in text and "(!) Why?" in text and "Now." in text for text in responses)
    assert all(1 <= data["multi_attempt/tokens_per_reflection"] <= 8 for data in steps.values())


def test_blind_episodes_with_a_critique_are_trained_on(tmp_path: Path, judge: FakeServer) -> None:
    steps, responses = train(
        tmp_path,
        "multi_attempt.tell=blind",
        "multi_attempt.reflect=judge",
        f"multi_attempt.reflection.url={judge.url}",
        "multi_attempt.reflection.model=m",
        "multi_attempt.reflection.length=20",
    )
    assert any("Again. (1)\nLook at the ones." in text for text in responses)
    assert not any("Wrong" in text for text in responses)
    assert all(data["multi_attempt/stop/correct"] + data["multi_attempt/stop/exhausted"] > 0 for data in steps.values())
