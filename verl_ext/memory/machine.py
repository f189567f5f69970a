"""The plan of a run on CPU: one machine's memory, in which all processes live at once (docs/memory.md).

Training workers hold what their models and passes take, as on a GPU (``fsdp.py``); the rollout's engine its weights and
its cache; and each process what Python and its packages take, which was measured (``cpu_processes.yaml``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import yaml
from omegaconf import DictConfig, OmegaConf
from verl.utils.torch_dtypes import PrecisionType

from verl_ext.memory.gpus import GIB, Device
from verl_ext.memory.model_shape import ModelShape
from verl_ext.memory.plan import MIB, Plan, bucket_of, greatest_tokens, largest_tensor, phases_of
from verl_ext.memory.rollout import Rollout, make_rollout
from verl_ext.memory.run_models import read_models
from verl_ext.model.model_config import ACTOR_MODEL, CRITIC_MODEL

CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's variable for its cache, in GiB."""

_CACHE_FIELD = f"ray_kwargs.ray_init.runtime_env.env_vars.{CACHE_SPACE}"

# The share of the memory at which Ray kills, unless its variable says otherwise.
_THRESHOLD_VARIABLE, _THRESHOLD = "RAY_memory_usage_threshold", 0.95

# What a container may have, by cgroups of version 2 and 1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# Tokens in a block of vLLM's cache on CPU, where engine_kwargs says nothing (vllm/platforms/cpu.py).
_BLOCK = 128


# ---- The machine ----


def this_machine() -> Device:
    """This one, or the container that this is."""
    limits = [
        int(text) for path in map(Path, _LIMITS) if path.exists() and (text := path.read_text().strip()).isdigit()
    ]
    return _machine("this machine", min([psutil.virtual_memory().total, *limits]))


def given_machine(gib: float) -> Device:
    """One of so many GiB.

    Raises:
        ValueError: it is not positive.
    """
    if not gib > 0:
        raise ValueError(f"--memory = {gib} must be positive")
    return _machine("a machine", gib * GIB)


def _machine(name: str, memory: float) -> Device:
    threshold = float(os.environ.get(_THRESHOLD_VARIABLE, _THRESHOLD))
    usable = memory * threshold
    name = f"{name} of {memory / GIB:.1f} GiB (of which Ray lets {usable / GIB:.1f} be used, {threshold:.0%})"
    return Device(name, usable)


# ---- The processes ----


@dataclass(frozen=True)
class Process:
    """A kind of process.

    Attributes:
        name: as in cpu_processes.yaml.
        count: on the machine.
        size: bytes of each, without models and data.
    """

    name: str
    count: int
    size: float

    @property
    def total(self) -> float:
        return self.count * self.size


def processes_of(config: DictConfig) -> list[Process]:
    """All that a run starts on its machine."""
    rollout, ranks = config.actor_rollout_ref.rollout, config.trainer.n_gpus_per_node
    servers = max(1, ranks // rollout.tensor_model_parallel_size)
    agents = rollout.agent.num_workers
    counts = {
        "training worker": ranks,
        "rollout server": servers,
        "rollout engine": servers,
        "rollout worker": ranks,
        "agent loop worker": agents,
        "grader worker": agents * config.multi_attempt.grader.workers,
        "reward worker": config.reward.num_workers,
        "TransferQueue": 1 + config.transfer_queue.backend.SimpleStorage.num_data_storage_units,
    }
    sizes: dict[str, float] = yaml.safe_load(Path(__file__).with_name("cpu_processes.yaml").read_text())
    return [Process(name, counts.get(name, 1), size * MIB) for name, size in sizes.items()]


# ---- The rollout ----


@dataclass(frozen=True)
class MachineRollout(Rollout):
    """One rank's share, which it keeps while others compute: there is no sleep on CPU.

    Attributes:
        space: bytes of the cache; None for the share ``gpu_memory_utilization`` of the machine.
        received: bytes of the new weights, which vLLM's worker collects before it loads them, and whose memory its
            allocator keeps.
    """

    space: float | None
    received: float

    @cached_property
    def weights(self) -> float:
        # A head that is the embedding is packed for the matrix product, and is there twice.
        copy = self.shape.embedding if self.shape.tied else 0
        return (self.shape.policy_parameters + copy) * self._bytes / self.tensor

    @property
    def cache(self) -> float:
        tokens = self._settings.get("max_total_tokens")
        if self.config.name == "sglang" and tokens:
            return float(tokens * self.cache_per_token)
        if self.config.name == "vllm" and self.space is not None:
            return self.space
        return self.device.memory * self.config.gpu_memory_utilization - self.weights

    @property
    def share(self) -> float:
        return self.weights + self.forward + max(0.0, self.cache) + self.received

    @property
    def asleep(self) -> float:
        return self.share

    @property
    def _block(self) -> int:
        return self._settings.get("block_size") or _BLOCK


# ---- The plan ----


@dataclass(frozen=True)
class MachinePlan(Plan):
    """A run on one machine without GPUs.

    Attributes:
        processes: on it.
    """

    processes: list[Process] = field(default_factory=list)

    @property
    def greatest_cache(self) -> int:
        """The most that each rank's cache may have beside all else, in whole GiB; 0 if not even one."""
        free = self.device.memory - self.peak.total + self.ranks * self.models.rollout.cache
        return max(0, int(free / self.ranks // GIB))

    def candidates(self) -> Iterator[list[str]]:
        """Settings that may help where it does not fit."""
        shorter = list(self._shorter_passes())
        again = [f"{model}.enable_gradient_checkpointing=true" for model in self._without_checkpointing()]
        cache = list(self._smaller_cache())
        tried: list[list[str]] = [[]]
        for settings in (shorter, again, cache, again + cache, shorter + cache, shorter + again + cache):
            if settings not in tried:
                tried.append(settings)
                yield settings
        if not self.models.actor.role.packed:
            yield ["actor_rollout_ref.model.use_remove_padding=true", "critic.model.use_remove_padding=true"]
        if self.models.rollout.config.agent.num_workers > 1:
            yield ["actor_rollout_ref.rollout.agent.num_workers=1"]

    def _shorter_passes(self) -> Iterator[str]:
        """The bound of each pass that does not fit, at the most that does, or at the longest sequence."""
        settings: dict[str, int] = {}
        for phase in self.phases:
            bound = self.models.tokens.get(phase.name)
            if bound is None or phase.total <= self.device.memory or "max_token_len" not in bound.field:
                continue
            most = max(greatest_tokens(self, phase.name), self.models.rollout.context)
            if most < bound.tokens:
                settings[bound.field] = min(most, settings.get(bound.field, most))
        yield from (f"{field}={tokens}" for field, tokens in settings.items())

    def as_dict(self) -> dict[str, Any]:
        """The figures, for JSON; bytes."""
        figures = super().as_dict()
        processes = {process.name: {"count": process.count, "size": process.size} for process in self.processes}
        return {"machine": figures.pop("gpu"), **figures, "processes": processes}

    def _without_checkpointing(self) -> Iterator[str]:
        for name, model in ((ACTOR_MODEL, self.models.actor), (CRITIC_MODEL, self.models.critic)):
            if model is not None and not model.role.checkpointing:
                yield name

    def _smaller_cache(self) -> Iterator[str]:
        rollout = self.models.rollout
        least = max(1, -(-rollout.context * rollout.cache_per_token // GIB))
        if rollout.config.name == "vllm" and rollout.cache > least * GIB:
            yield f"{_CACHE_FIELD}='{least:.0f}'"  # Ray takes texts only


def make_machine_plan(
    config: DictConfig, shape: ModelShape, critic_shape: ModelShape, machine: Device, reserve: float, mean_tokens: float
) -> MachinePlan:
    """Plan a composed config whose ``trainer.device`` is ``cpu``.

    Args:
        config: it.
        shape: of the actor's model.
        critic_shape: of the critic's.
        machine: that holds all its processes; with several nodes, the first of them.
        reserve: bytes for the system, what else is on the machine, and what allocators keep of freed memory.
        mean_tokens: of an episode, prompt included.

    Raises:
        ValueError: as :func:`~verl_ext.memory.run_models.read_models`.
    """
    processes, ranks = processes_of(config), config.trainer.n_gpus_per_node
    models = read_models(config, shape, critic_shape, machine_rollout(config, shape, machine), mean_tokens)
    fixed = {"processes": sum(process.total for process in processes), "reserve": reserve}
    # vLLM makes each layer anew before it gives the old ones back.
    sync = {"rollout": models.rollout.asleep + models.rollout.weights, "gathered": bucket_of(config)}
    if models.world > 1:
        sync["gathered"] += largest_tensor(models)
    return MachinePlan(machine, models, list(phases_of(models, fixed, sync, ranks)), reserve, ranks, processes)


def machine_rollout(config: DictConfig, shape: ModelShape, machine: Device) -> MachineRollout:
    """The rollout of a composed config on CPU.

    Raises:
        ValueError: the variable for vLLM's cache is no number.
    """
    rollout = make_rollout(config, shape, machine)
    weights = PrecisionType.to_dtype(config.actor_rollout_ref.actor.fsdp_config.model_dtype or "fp32").itemsize
    # A head that is the embedding is sent as both.
    sent = (shape.policy_parameters + (shape.embedding if shape.tied else 0)) * weights
    received = float(sent if rollout.config.name == "vllm" else 0)
    space = _cache_space(config)
    return MachineRollout(shape, rollout.config, machine, rollout.world, rollout.second_runner, space, received)


def _cache_space(config: DictConfig) -> float | None:
    text = OmegaConf.select(config, _CACHE_FIELD) or os.environ.get(CACHE_SPACE)
    if text is None:
        return None
    text = str(text)
    if not text.isdigit():
        raise ValueError(f"{_CACHE_FIELD} = {text!r} must be a whole number of GiB")
    return int(text) * GIB
