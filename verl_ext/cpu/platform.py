"""The CPU as a verl platform (``verl.plugin.platform``, verl 0.9.1)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry, get_platform, set_platform

NAME = "cpu"
"""The platform's name, as in ``VERL_PLATFORM`` and ``trainer.device``."""


def _device_module() -> ModuleType:
    """``torch.cpu`` with the calls that verl makes on ``torch.cuda`` and that ``torch.cpu`` lacks."""
    module = ModuleType("verl_ext.cpu.device_module")
    module.__dict__.update({name: value for name, value in vars(torch.cpu).items() if not name.startswith("__")})

    def resident_bytes(*_: Any) -> int:
        return psutil.Process().memory_info().rss

    def memory_info(*_: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def nothing(*_: Any, **__: Any) -> None:
        return None

    module.__dict__.update(
        memory_allocated=resident_bytes,
        memory_reserved=resident_bytes,
        max_memory_allocated=resident_bytes,
        max_memory_reserved=resident_bytes,
        mem_get_info=memory_info,
        reset_peak_memory_stats=nothing,
        empty_cache=nothing,
        ipc_collect=nothing,
        set_per_process_memory_fraction=nothing,
        get_device_name=lambda *_: "cpu",
        get_rng_state=torch.get_rng_state,
        set_rng_state=torch.set_rng_state,
    )
    return module


class PlatformCPU(PlatformBase):
    """CPU cores as verl's device. Ray's logical ``GPU`` resource stands for a training process (a slot)."""

    _module = _device_module()

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return self._module

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Never by detection: a CPU-only head node of a GPU cluster must not choose this platform by itself.
        return False

    def current_device(self) -> Any:
        return torch.device("cpu")  # not an index: verl calls ``tensor.to(get_device_id())``

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"  # what Ray sets for its logical GPUs

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False  # weights travel through POSIX shared memory

    def cudart(self) -> Any:
        return None


def register() -> None:
    """Make the platform known, in time for ``VERL_PLATFORM=cpu``."""
    if PlatformRegistry.get(NAME) is not PlatformCPU:
        PlatformRegistry.register(platform=NAME)(PlatformCPU)


def is_current() -> bool:
    """Whether this process runs on the CPU platform by its environment."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == NAME


def select() -> None:
    """Run this process on the CPU, whatever verl detected when it was imported (no environment variable was set)."""
    os.environ["VERL_PLATFORM"] = NAME
    if get_platform().device_name != "cpu":
        set_platform(PlatformCPU())
