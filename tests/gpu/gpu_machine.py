"""What the tests on a GPU run on: the GPU, or CPU cores on which their bodies are rehearsed.

A rehearsal shows that a test's own code works; its figures say nothing of a GPU, and each says so.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from harness import Run
from training_run import TrainingRun

from verl_ext.model.vllm_choices import FLASHINFER_SAMPLER, SECOND_RUNNER

REHEARSED = "GPU_TESTS_REHEARSED_ON_CPU"
"""The environment variable that has the tests' bodies run on CPU cores, with small sizes."""

HELD_OUT = 16
"""Questions that the toy holds out."""

Value = TypeVar("Value")

# One GPU and few cores: "CPUs" are places for Ray's actors, most of which only wait.
_GPU_SETTINGS = (
    "attention=sdpa",
    "trainer.n_gpus_per_node=1",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.critic_warmup=0",
    "data.dataloader_num_workers=0",
    "reward.num_workers=1",
    "actor_rollout_ref.rollout.agent.num_workers=2",
    "actor_rollout_ref.rollout.enforce_eager=false",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "++ray_kwargs.ray_init.address=local",
    "++ray_kwargs.ray_init.num_cpus=32",
    "++ray_kwargs.ray_init.include_dashboard=false",
)
_CPU_SETTINGS = ("trainer.critic_warmup=0",)

_SHOWN = 4000  # characters of what a command printed that failed

# How many times as long a rehearsal may take.
_REHEARSAL_PATIENCE = 3

# Where a dtype is set: of the passes of those that FSDP trains or holds.
_ENGINES = ("actor_rollout_ref.actor.fsdp_config", "actor_rollout_ref.ref.fsdp_config", "critic.fsdp")
_PRECISION = {"bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True)
class Machine:
    """What a test runs on.

    Attributes:
        name: the GPU's, or that this is a rehearsal.
        rehearsal: whether there is only the CPU.
    """

    name: str
    rehearsal: bool

    @property
    def device(self) -> str:
        """torch's name of it."""
        return self.of("cuda", "cpu")

    @property
    def config(self) -> str:
        """The config that a run takes."""
        return self.of("multi_attempt", "multi_attempt_cpu")

    @property
    def settings(self) -> Sequence[str]:
        """Overrides that every run has."""
        return self.of(_GPU_SETTINGS, _CPU_SETTINGS)

    @property
    def environment(self) -> dict[str, str]:
        """What vLLM runs in outside a run of ``main_ppo``, whose config says the same."""
        if self.rehearsal:
            return {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return {**os.environ, SECOND_RUNNER: "0", FLASHINFER_SAMPLER: "0"}

    @property
    def gibibytes(self) -> float:
        """All memory of the GPU."""
        return torch.cuda.get_device_properties(0).total_memory / 2**30

    def of(self, on_gpu: Value, rehearsed: Value) -> Value:
        """What is taken on the GPU, or in its place in a rehearsal."""
        return rehearsed if self.rehearsal else on_gpu

    def deadline(self, seconds: float) -> float:
        """What something may take that may take so many seconds on the GPU."""
        return self.of(1, _REHEARSAL_PATIENCE) * seconds

    def dtype(self, dtype: str, least_correlation: float) -> list[str]:
        """Overrides for training and generation in ``bfloat16`` or ``float32``, and what the guard then asks for."""
        if self.rehearsal:
            return [f"cpu.dtype={dtype}", f"cpu.least_correlation={least_correlation}"]
        settings = [f"actor_rollout_ref.rollout.dtype={dtype}"]
        for engine in _ENGINES:
            settings.append(f"{engine}.dtype={dtype}")
            settings.append(f"+{engine}.mixed_precision.param_dtype={_PRECISION[dtype]}")
        return [*settings, f"multi_attempt.guard.min_correlation={least_correlation}"]

    def run(
        self,
        checkpoints: Path,
        logs: Path,
        overrides: Sequence[str],
        *,
        toy: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> TrainingRun:
        """A run of ``main_ppo``."""
        return TrainingRun(toy, checkpoints, logs, [*self.settings, *overrides], environment, self.config)

    def long_run(self, checkpoints: Path, logs: Path, overrides: Sequence[str], *, toy: Path) -> Run:
        """A long run that saves after every step, to be hurt."""
        return Run(toy, checkpoints, logs, [*self.settings, *overrides], None, self.config)

    def call(
        self, command: Sequence[str], folder: Path, seconds: float, environment: Mapping[str, str] | None = None
    ) -> str:
        """What a command prints that has to end well, in a folder and in so many seconds on the GPU."""
        done = subprocess.run(
            command,
            cwd=folder,
            env={**self.environment, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.deadline(seconds),
        )
        assert done.returncode == 0, done.stdout[-_SHOWN:]
        return done.stdout

    def used_mebibytes(self) -> float:
        """Memory of the GPU that is taken, by whomever; 0 in a rehearsal."""
        if self.rehearsal:
            return 0.0
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


def this_machine() -> Machine | None:
    """The machine that the tests run on; None where they are to be skipped."""
    if os.environ.get(REHEARSED):
        return Machine("REHEARSAL on CPU", rehearsal=True)
    if torch.cuda.is_available():
        return Machine(torch.cuda.get_device_name(), rehearsal=False)
    return None
