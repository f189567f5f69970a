"""A real run of ``main_ppo``, and an evaluation, on a data set that mixes all built-in tasks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, serving
from toy_tasks import SETTINGS, TASKS, judged, mixed_rows
from training_run import FINISH_SECONDS, TrainingRun

from multi_attempt.data.rows import write_parquet
from multi_attempt.toy.build import build_toy
from multi_attempt.toy.questions import Split, draw_questions
from multi_attempt.toy.settings import ToySettings

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
]

STEPS = 2


def make_mixed_toy(folder: Path) -> None:
    """The toy with a model that boxes numbers, and its questions as rows of all tasks."""
    build_toy(folder, train_questions=256, heldout_questions=8, settings=ToySettings(steps=120))
    questions = draw_questions({"train": Split(64), "validation": Split(8), "heldout": Split(8)}, seed=1)
    write_parquet(mixed_rows(questions["train"], "train"), folder / "train.parquet")
    for split in ("validation", "heldout"):
        write_parquet(mixed_rows(questions[split], split, attempts=2), folder / f"{split}.parquet")


def task_settings(server: FakeServer) -> list[str]:
    settings = {**SETTINGS, "judge": {**SETTINGS["judge"], "url": server.url}}
    return [
        f"multi_attempt.tasks.{task}.{name}={value}"
        for task, fields in settings.items()
        for name, value in fields.items()
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training on the mixed data, and the evaluation of what came of it."""
    folder = tmp_path_factory.mktemp("mixed")
    make_mixed_toy(folder)
    kept = folder / "rollouts"
    with serving() as server:
        server.answer = judged  # type: ignore[method-assign]
        settings = [
            *task_settings(server),
            "multi_attempt.max_attempts=2",
            "multi_attempt.reward.score=0.5",
            f"trainer.rollout_data_dir={kept}",
            f"trainer.total_training_steps={STEPS}",
            f"trainer.save_freq={STEPS}",
            f"trainer.test_freq={STEPS}",
            "actor_rollout_ref.actor.ppo_mini_batch_size=8",
            "trainer.critic_warmup=0",
        ]
        with TrainingRun(folder, folder / "checkpoints", folder, settings) as training:
            training.start()
            training.finish()
            steps = training.steps()
        model = folder / "checkpoints" / f"global_step_{STEPS}" / "actor" / "huggingface"
        command = [
            *(sys.executable, "-m", "multi_attempt.cli", "eval", "--model", f"toy={model}", "--attempts", "2"),
            *("--data", str(folder / "heldout.parquet"), "--output", str(folder / "evaluation"), "--dtype", "float32"),
            *("--engine", "enforce_eager=true", "--engine", "block_size=32"),
        ]
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
        evaluated = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=FINISH_SECONDS)
        assert evaluated.returncode == 0, evaluated.stderr[-4000:]
    episodes = [json.loads(line) for line in (folder / "evaluation" / "episodes.jsonl").read_text().splitlines()]
    rollouts = [json.loads(line) for step in steps for line in (kept / f"{step}.jsonl").read_text().splitlines()]
    return steps, rollouts, episodes


def test_all_tasks_are_trained_on(run: Any) -> None:
    steps, rollouts, _ = run
    assert set(steps) == {1, 2}
    for data in steps.values():
        assert data["multi_attempt/episode_errors"] == 0
    # Validation is by task, since its rows say where they are from.
    validated = {name.split("/")[1] for name in steps[STEPS] if name.startswith("val-core/")}
    assert validated == set(TASKS)
    # What the judge and the sandbox said of an attempt was told, where another one followed.
    assert any("Not quite." in row["output"] for row in rollouts)
    assert any(re.search(r"f\(\) gave|the program raised", row["output"]) for row in rollouts)


def test_all_tasks_are_evaluated(run: Any) -> None:
    _, _, episodes = run
    methods = {row["benchmark"]: {attempt["method"] for attempt in row["attempts"]} for row in episodes}
    assert set(methods) == set(TASKS)
    assert "judge" in methods["judge"]
    assert "asserts" in methods["code"]
    assert "exact" in methods["match"]
    assert not any(row["error"] for row in episodes)
