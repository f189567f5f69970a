"""What verl loads: the entry point ``multi_attempt`` of the group ``verl.plugins``.

verl imports this module in the driver and in every Ray worker, and the import registers the agent loop, the reward
manager and the trainer, all named ``multi_attempt``, and the CPU platform.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

NAME = "multi_attempt"
"""The name of the agent loop, the reward manager and the trainer in verl's registries."""

COLOCATE_ASYNC = f"{NAME}_colocate_async"
"""The name of the asynchronous trainer."""

_logger = logging.getLogger(__name__)


def register() -> None:
    """Register all parts of the plugin. Safe to call twice."""
    try:
        from verl_ext import cpu

        # Before all else: which engines exist depends on the platform.
        cpu.register()
        from verl_ext import agent_loop, attention, reward_manager, sampling, trainer  # noqa: F401 - their decorators register them

        attention.register()
        sampling.register()
        _register_megatron()
    except Exception:
        # verl catches the exception and logs it at debug level, where nobody sees it; a run would then train
        # single-turn, or fail far from the cause.
        _logger.exception("The verl plugin %r could not be registered; verl goes on without it.", NAME)
        raise


def _register_megatron() -> None:
    """Register the critic's engine, where verl has found Megatron and mbridge is there too."""
    from verl.workers.engine import EngineRegistry

    if "megatron" in EngineRegistry._engines["value_model"] and find_spec("mbridge"):
        from verl_ext import megatron_critic  # noqa: F401 - its decorator registers it


register()
