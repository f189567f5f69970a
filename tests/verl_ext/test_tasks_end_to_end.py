"""A real run of ``main_ppo`` on a mixture of the built-in tasks and the example, and an evaluation of its model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_server import FakeServer, serving
from runs import json_lines
from toy_tasks import SETTINGS, TASKS, judged, mixed_rows
from training_run import FINISH_SECONDS, TrainingRun

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.questions import Split, draw_questions
from multi_attempt.toy.settings import ToySettings

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = "reverse:Reverse"
STEPS = 2


class Mixed(NamedTuple):
    """What came of the run.

    Attributes:
        steps: verl's metrics.
        rollouts: what the model was told and said in training.
        settings: what the trained model keeps beside it.
        episodes: of its evaluation.
    """

    steps: dict[int, dict[str, Any]]
    rollouts: list[dict[str, Any]]
    settings: dict[str, Any]
    episodes: list[dict[str, Any]]


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict[str, Any]]:
    return list(json_lines(path))


def make_mixed_toy(folder: Path) -> None:
    """The toy with a model that boxes numbers; its questions as rows of all tasks, and rows of the example."""
    build_toy(folder, train_questions=128, heldout_questions=8, settings=ToySettings(steps=120))
    questions = draw_questions({"train": Split(30), "validation": Split(8), "heldout": Split(8)}, seed=1)
    # verl reads this of every validation row where others have it.
    words = [{**row, "reward_model": {"ground_truth": ""}} for row in read(EXAMPLES / "reverse.jsonl")]
    rows = {
        "train": mixed_rows(questions["train"], "train", first=len(words)),
        "validation": mixed_rows(questions["validation"], "validation", attempts=2, first=len(words)),
    }
    for split in rows:
        write([*words, *rows[split]], folder / f"{split}.jsonl")
    write(mixed_rows(questions["heldout"], "heldout", attempts=2), folder / "heldout.jsonl")


def overrides(folder: Path, server: FakeServer) -> list[str]:
    tasks = {**SETTINGS, "judge": {**SETTINGS["judge"], "url": server.url}}
    return [
        f"multi_attempt.task={EXAMPLE}",
        *(f"multi_attempt.tasks.{task}.{name}={value}" for task in tasks for name, value in tasks[task].items()),
        "multi_attempt.max_attempts=2",
        "multi_attempt.reward.score=0.5",
        f"data.train_files={folder / 'train.jsonl'}",
        f"data.val_files={folder / 'validation.jsonl'}",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.save_freq={STEPS}",
        f"trainer.test_freq={STEPS}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "trainer.critic_warmup=0",
    ]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """A training, and the evaluation of its model."""
    folder = tmp_path_factory.mktemp("mixed")
    make_mixed_toy(folder)
    path = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")]))
    model = folder / "checkpoints" / f"global_step_{STEPS}" / "actor" / "huggingface"
    with serving() as server:
        server.answer = judged  # type: ignore[method-assign]
        settings = overrides(folder, server)
        with TrainingRun(folder, folder / "checkpoints", folder, settings, {"PYTHONPATH": path}) as training:
            training.start()
            training.finish()
            steps = training.steps()
        evaluate(model, folder / "heldout.jsonl", folder / "evaluation", path)
    rollouts = [row for step in steps for row in read(folder / "rollouts" / f"{step}.jsonl")]
    kept = json.loads((model / "multi_attempt.json").read_text())
    return Mixed(steps, rollouts, kept, read(folder / "evaluation" / "episodes.jsonl"))


def evaluate(model: Path, data: Path, output: Path, path: str) -> None:
    command = [
        *(sys.executable, "-m", "multi_attempt.cli", "eval", "--model", f"toy={model}", "--attempts", "2"),
        *("--data", str(data), "--output", str(output), "--dtype", "float32"),
        *("--engine", "enforce_eager=true", "--engine", "block_size=32"),
    ]
    environment = {**os.environ, "PYTHONPATH": path, "VLLM_CPU_KVCACHE_SPACE": "1"}
    evaluated = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=FINISH_SECONDS)
    assert evaluated.returncode == 0, evaluated.stderr[-4000:]


def test_all_tasks_are_trained_on(mixed: Mixed) -> None:
    assert set(mixed.steps) == {1, 2}
    assert all(data["multi_attempt/episode_errors"] == 0 for data in mixed.steps.values())
    # By task, since the rows say by it where they are from.
    validated = {name.split("/")[1] for name in mixed.steps[STEPS] if name.startswith("val-core/")}
    assert validated == {*TASKS, "words"}
    # What the judge and the sandbox said of an attempt was told, where another one followed.
    said = [row["output"] for row in mixed.rollouts]
    assert any("Not quite." in text for text in said)
    assert any(re.search(r"f\(\) gave|the program raised", text) for text in said)
    assert any(re.search(r"user\nWrite \w+ backwards \([12]\)\.", row["input"]) for row in mixed.rollouts)


def test_its_model_is_evaluated_as_it_was_trained(mixed: Mixed) -> None:
    assert mixed.settings["task"] == EXAMPLE
    assert not any(row["error"] for row in mixed.episodes)
    assert {(row["benchmark"], row["budget"]) for row in mixed.episodes} == {
        (task, n) for task in TASKS for n in (1, 2)
    }
    told = {task: "" for task in TASKS}
    for row in mixed.episodes:
        told[row["benchmark"]] += "".join(message["content"] for message in row["messages"][1:])
    assert "Wrong. (1)\nNot quite." in told["judge"]
    assert re.search(r"Wrong\. \(1\)\n(f\(\) gave|the program raised)", told["code"])
    assert not re.search(r"Not quite|gave|raised", told["math"] + told["match"])
