"""The toy task trained by the README's command on the GPU: the engine sleeps, weights are synced, the guard watches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings

_DEADLINE_SECONDS = 420
_STEPS = 2

# The settings of a dtype, with the guard's bound on the correlation of rollout's and actor's probabilities.
_DTYPES = {"bfloat16": ("bf16", 0.95), "float32": ("fp32", 0.9999)}

_SETTINGS = (
    "attention=sdpa",
    "trainer.n_gpus_per_node=1",
    "trainer.logger=[console,file]",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
)

Report = Callable[[str, float, str], None]
Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    build_toy(folder, train_questions=256, heldout_questions=16, settings=ToySettings(steps=120))
    return folder


@pytest.fixture
def train(toy: Path, tmp_path: Path) -> Train:
    """Run ``main_ppo`` with the settings given; its metrics, step by step."""

    def run(*settings: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "multi_attempt", "model=tiny"]
        command += [f"toy={toy}", f"trainer.total_training_steps={_STEPS}", *_SETTINGS, *settings]
        log = tmp_path / "metrics.jsonl"
        environment = {"VERL_FILE_LOGGER_PATH": str(log)}
        with (tmp_path / "log").open("w") as output:
            subprocess.run(
                command,
                cwd=tmp_path,
                env=dict(os.environ) | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_DEADLINE_SECONDS,
                check=True,
            )
        return [json.loads(line)["data"] for line in log.read_text().splitlines()]

    return run


@pytest.mark.parametrize("dtype", _DTYPES)
def test_two_steps_train_with_sleep_weight_sync_and_graphs(dtype: str, train: Train, report: Report) -> None:
    precision, bound = _DTYPES[dtype]
    fsdp = "actor_rollout_ref.{}.fsdp_config.{}"
    settings = [f"actor_rollout_ref.rollout.dtype={dtype}", f"multi_attempt.guard.min_correlation={bound}"]
    for role in ("actor", "ref"):
        settings += [f"{fsdp.format(role, 'dtype')}={dtype}"]
        settings += [f"+{fsdp.format(role, 'mixed_precision')}.param_dtype={precision}"]
    steps = train("actor_rollout_ref.rollout.enforce_eager=false", *settings)
    assert len(steps) == _STEPS
    for step in steps:
        correlation = step["training/rollout_actor_probs_pearson_corr"]
        report("correlation of rollout and actor", correlation, f"({dtype})")
        report("largest difference of probabilities", step["training/rollout_probs_diff_max"], f"({dtype})")
        report("time of a step", step["perf/time_per_step"], f"s ({dtype})")
        assert correlation >= bound
