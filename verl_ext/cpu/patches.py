"""What verl 0.9.1 offers no hook for on a CPU. Each patch names the line it works around and has a test
(tests/verl_ext/test_cpu_patches.py) that fails when upstream changes under it.
"""

from __future__ import annotations

from functools import partial

VERL_VERSION = "0.9.1"
"""The release that these patches were written against."""


def apply() -> None:
    """Apply the patches that must be in place before verl's workers are built. Safe to call twice."""
    gloo_process_group()


def gloo_process_group() -> None:
    """One process group backend for the CPU.

    ``verl.utils.distributed.initialize_global_process_group_ray`` (``distributed.py``, line 89) asks for
    ``cpu:gloo,{device}:{backend}``, here ``cpu:gloo,cpu:gloo``, which torch refuses as a duplicate. The function takes
    the backend as an argument, but its caller (``engine_workers.py``, line 89) does not pass one.
    """
    from verl.utils import distributed
    from verl.workers import engine_workers

    if not isinstance(distributed.initialize_global_process_group_ray, partial):
        patched = partial(distributed.initialize_global_process_group_ray, backend="cpu:gloo")
        distributed.initialize_global_process_group_ray = patched
        engine_workers.initialize_global_process_group_ray = patched
