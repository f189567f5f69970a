"""Real runs of ``main_ppo`` on CPU: Ray, FSDP, PPO with a critic, and vLLM with weights synced every step."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any
from uuid import uuid4

import datasets
import pytest
import torch
from runs import json_lines
from training_run import FINISH_SECONDS, TrainingRun, make_toy

from multi_attempt.budget import draw_attempts

pytestmark = pytest.mark.engine

_SEED = 7
_CORRELATION = "training/rollout_actor_probs_pearson_corr"

_METRICS = {
    "success",
    "first_attempt_accuracy",
    *(f"success_by_budget/{attempts}" for attempts in range(1, 6)),
    "retry_success",
    "wrong_to_right",
    "right_to_wrong",
    "attempts_used/success",
    "attempts_used/failure",
    "repeat_rate",
    *(f"repeat_rate/{attempt}" for attempt in range(2, 6)),
    "answer_rate",
    "format_rate",
    *(f"stop/{reason}" for reason in ("correct", "exhausted", "truncated", "aborted")),
    "tokens_per_attempt",
    "tokens_per_reflection",
    "generated_tokens",
    *(f"seconds/{wait}" for wait in ("generate", "grade", "tokens")),
    "cached_token_fraction",
    "grader_timeouts",
    "grader_memory_limits",
    "episode_errors",
}


class Run(TrainingRun):
    """A run on a tiny random model in a folder, whose rollouts are kept; the next in the same folder resumes it."""

    settings = (
        f"multi_attempt.seed={_SEED}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        # High enough that a rollout with the weights of the step before would show.
        "actor_rollout_ref.actor.optim.lr=1e-2",
        "trainer.critic_warmup=0",
    )

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.rollouts = folder / f"rollouts-{uuid4().hex}"
        kept = f"trainer.rollout_data_dir={self.rollouts}"
        super().__init__(folder, folder / "checkpoints", folder, [kept, *overrides])
        self.start()

    def budgets(self, step: int) -> dict[str, int]:
        """The number of attempts that each question was given in a step, read from the prompts that were sent."""
        budgets = {}
        for row in json_lines(self.rollouts / f"{step}.jsonl"):
            match = re.search(r"user\n(.*) \((\d+)\)\n", row["input"])
            assert match is not None
            budgets[match.group(1)] = int(match.group(2))
        return budgets


def check_agreement(steps: dict[int, dict[str, Any]]) -> None:
    for data in steps.values():
        assert data[_CORRELATION] > 0.9999
        assert data["training/rollout_probs_diff_max"] < 1e-4


def test_a_killed_run_resumes_at_the_next_step_with_the_same_attempts(tmp_path: Path) -> None:
    make_toy(tmp_path, tied=True)
    settings = ["trainer.total_training_steps=4", "trainer.save_freq=2", "trainer.test_freq=2"]

    with Run(tmp_path, *settings) as first:
        first.wait_for((first.rollouts / "3.jsonl").exists)
    assert set(first.steps()) >= {1, 2}
    assert (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "2"

    with Run(tmp_path, *settings) as second:
        second.finish()
    assert set(second.steps()) == {3, 4}
    assert second.budgets(3) == first.budgets(3)
    train = datasets.load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), split="train")
    rows = {row["prompt"][0]["content"]: row["extra_info"]["index"] for row in train}
    assert second.budgets(4) == {
        question: draw_attempts(1, 5, seed=_SEED, step=4, row=rows[question]) for question in second.budgets(4)
    }

    for run in (first, second):
        check_agreement(run.steps())
        for data in run.steps().values():
            names = {name.removeprefix("multi_attempt/") for name in data if name.startswith("multi_attempt/")}
            assert names == _METRICS
            assert data["multi_attempt/episode_errors"] == 0

    # The best of the two steps that were saved and validated is kept.
    best = json.loads((tmp_path / "checkpoints" / "best" / "best.json").read_text())
    validated = {**first.steps(), **second.steps()}
    accuracies = {step: validation_accuracy(validated[step]) for step in (2, 4)}
    assert best["step"] == (4 if accuracies[4] > accuracies[2] else 2)
    assert best["accuracy"] == pytest.approx(accuracies[best["step"]])
    assert (tmp_path / "checkpoints" / "best" / "model.safetensors").is_file()
    assert (tmp_path / "checkpoints" / "best" / "multi_attempt.json").is_file()

    exported = tmp_path / "checkpoints" / "global_step_4" / "actor" / "huggingface"
    check_export_in_transformers(exported, tmp_path / "model")
    check_export_in_vllm(exported, tmp_path)


def validation_accuracy(data: dict[str, Any]) -> float:
    return fmean(value for name, value in data.items() if re.fullmatch(r"val-core/.*/acc/mean@1", name))


def check_export_in_transformers(exported: Path, start: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(exported)
    before = AutoModelForCausalLM.from_pretrained(start)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer.decode(tokenizer.encode("2+2=?")) == "2+2=?"


def check_export_in_vllm(exported: Path, folder: Path) -> None:
    output = folder / "evaluation"
    command = [
        *(sys.executable, "-m", "multi_attempt.cli", "eval", "--model", str(exported), "--prompts", "toy"),
        *("--data", str(folder / "heldout.parquet"), "--attempts", "2", "--output", str(output)),
        *("--max-response-length", "128", "--max-tokens-per-attempt", "16"),
        *("--engine", "enforce_eager=true", "--engine", "block_size=32"),
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    subprocess.run(command, env=environment, check=True, timeout=FINISH_SECONDS)
    result = json.loads((output / "eval.json").read_text())
    assert result["attempts"] == [1, 2]
    assert [model["failed"] for model in result["models"]] == [0]
    assert len((output / "episodes.jsonl").read_text().splitlines()) == 16


def prepare(folder: Path) -> list[str]:
    """The toy questions as a user's own file, prepared by ``multi-attempt data``; the settings that name its files."""
    rows = datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train")
    own = [{"problem": row["prompt"][0]["content"], "answer": row["reward_model"]["ground_truth"]} for row in rows]
    file = folder / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in own))
    command = [
        *(sys.executable, "-m", "multi_attempt.cli", "data", "sums", "--from", str(file), "--role", "train"),
        *("--output", str(folder / "data"), "--validation", "8", "--validation-attempts", "1", "2"),
    ]
    subprocess.run(command, check=True, timeout=FINISH_SECONDS)
    data = folder / "data" / "sums"
    return [f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'validation.parquet'}"]


def test_untied_embeddings_agree_after_every_weight_sync_on_data_of_ones_own(tmp_path: Path) -> None:
    make_toy(tmp_path, tied=False)
    settings = ["trainer.total_training_steps=2", "trainer.save_freq=-1", "trainer.test_freq=2"]
    with Run(tmp_path, *settings, *prepare(tmp_path)) as run:
        run.finish()
    steps = run.steps()
    assert set(steps) == {1, 2}
    check_agreement(steps)
    # Validation has the task's measures by verl's own route.
    for attempts in (1, 2):
        assert f"val-core/sums_{attempts}_attempts/acc/mean@1" in steps[2]
    assert any(re.fullmatch(r"val-aux/.*/first_attempt_accuracy/mean@1", name) for name in steps[2])


def test_the_asynchronous_trainer_trains_on_episodes_of_several_versions_of_the_weights(tmp_path: Path) -> None:
    make_toy(tmp_path, tied=True)
    settings = [
        *("trainer.total_training_steps=4", "trainer.save_freq=-1", "trainer.test_freq=4"),
        "trainer.v1.trainer_mode=multi_attempt_colocate_async",
        # The rollout's weights may be some steps older than the actor's. A random model's probabilities are so alike
        # that a small change of them is a large one of their correlation: 0.999 with this rate, 0.9 with ten times it.
        "actor_rollout_ref.actor.optim.lr=1e-5",
        "multi_attempt.guard.min_correlation=0.99",
    ]
    with Run(tmp_path, *settings) as run:
        run.finish()
    steps = run.steps()
    assert set(steps) == {1, 2, 3, 4}
    assert steps[1][_CORRELATION] > 0.9999  # of the first weights, all of them
    for data in steps.values():
        assert data["multi_attempt/episode_errors"] == data["multi_attempt/stop/aborted"] == 0
    assert max(data["training/off_policy/trajectory_staleness/max"] for data in steps.values()) > 0
    assert any(name.startswith("val-core/") for name in steps[4])
