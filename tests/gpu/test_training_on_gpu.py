"""The toy task trained by the README's command on the GPU: the engine sleeps, weights are synced, the guard watches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from gpu_machine import Machine
from transformers import AutoModelForCausalLM

from verl_ext.training.best_checkpoint import validation_accuracies

_DEADLINE_SECONDS = 420
_STEPS = 2

# By dtype: the guard's bound on the correlation of rollout's and actor's probabilities.
_DTYPES = {"bfloat16": 0.95, "float32": 0.9999}

Report = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes:
        dtype: of training and generation.
        checkpoints: its folder.
        steps: its metrics, by step.
    """

    dtype: str
    checkpoints: Path
    steps: dict[int, dict[str, Any]]


def settings(machine: Machine, dtype: str) -> list[str]:
    """Two steps, each saved and validated."""
    return [
        "model=tiny",
        *machine.dtype(dtype, _DTYPES[dtype]),
        f"trainer.total_training_steps={_STEPS}",
        *("trainer.save_freq=1", "trainer.test_freq=1"),
        *machine.of(["data.train_batch_size=128"], ["actor_rollout_ref.actor.ppo_mini_batch_size=16"]),
    ]


@pytest.fixture(scope="module", params=_DTYPES)
def trained(
    request: pytest.FixtureRequest, machine: Machine, toy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    with machine.run(folder / "checkpoints", folder, settings(machine, request.param), toy=toy) as run:
        run.start()
        run.finish(machine.deadline(_DEADLINE_SECONDS))
        return Trained(request.param, folder / "checkpoints", run.steps())


def test_two_steps_train_with_sleep_weight_sync_and_graphs(trained: Trained, report: Report) -> None:
    """Two minutes for each dtype."""
    assert set(trained.steps) == {1, 2}
    for number, step in trained.steps.items():
        about = f"({trained.dtype}, step {number})"
        correlation = step["training/rollout_actor_probs_pearson_corr"]
        report("correlation of rollout and actor", correlation, about)
        report("largest difference of probabilities", step["training/rollout_probs_diff_max"], about)
        report("time of a step", step["perf/time_per_step"], f"s {about}")
        assert correlation >= _DTYPES[trained.dtype]
        assert step["multi_attempt/episode_errors"] == 0
        assert step["actor/grad_norm"] > 0


def test_the_model_that_validates_best_is_kept_whole(trained: Trained, report: Report) -> None:
    """Of the runs above; some seconds."""
    best = json.loads((trained.checkpoints / "best" / "best.json").read_text())
    accuracies = {number: fmean(validation_accuracies(step).values()) for number, step in trained.steps.items()}
    report("validation accuracy of the best step", best["accuracy"], f"({trained.dtype})")
    assert best["accuracy"] == pytest.approx(max(accuracies.values()))
    assert accuracies[best["step"]] == pytest.approx(best["accuracy"])
    kept = AutoModelForCausalLM.from_pretrained(trained.checkpoints / "best")
    exported = trained.checkpoints / f"global_step_{best['step']}" / "actor" / "huggingface"
    saved = AutoModelForCausalLM.from_pretrained(exported)
    assert all(a.equal(b) for a, b in zip(kept.parameters(), saved.parameters(), strict=True))
