"""What verl loads: the entry point ``multi_attempt`` of the group ``verl.plugins``.

verl imports this module in the driver and in every Ray worker, and the import registers the agent loop, the reward
manager and the trainer, all named ``multi_attempt``, the estimators ``multi_attempt_*``, and the CPU platform.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

from verl_ext.names import NAME

_logger = logging.getLogger(__name__)


def register() -> None:
    """Register all parts of the plugin. Safe to call twice."""
    try:
        from verl_ext import cpu

        # Before all else: which engines exist depends on the platform.
        cpu.register()
        from verl_ext import reward_manager  # noqa: F401 - its decorator registers it, as do those of the next
        from verl_ext.algorithms import registry  # noqa: F401
        from verl_ext.model import attention
        from verl_ext.rollout import agent_loop, sampling  # noqa: F401
        from verl_ext.training import trainer  # noqa: F401

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
        from verl_ext.training import megatron_critic  # noqa: F401 - its decorator registers it


register()
