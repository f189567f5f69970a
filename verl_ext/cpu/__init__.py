"""verl on a machine with no accelerator: platform, training engines and rollout engine.

The same trainer, agent loop, FSDP engine, and vLLM or SGLang engine as on GPUs, on CPU cores. :func:`register`
announces the parts in every process; they take effect only where the platform is ``cpu`` (``trainer.device=cpu``).
"""

from __future__ import annotations


def register() -> None:
    """Make the CPU platform known to verl, and select its engines where it is the current platform."""
    from verl_ext.cpu import distributions, platform

    distributions.install()
    platform.register()
    if platform.is_current():
        from verl_ext.cpu import engines, patches, rollout

        patches.apply()
        engines.register()
        rollout.register()
