"""verl's FSDP engines on the CPU: verl registers them for ``cuda`` and ``npu`` only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

_BACKENDS = ["fsdp", "fsdp2"]


class CPUFSDPEngineWithLMHead(FSDPEngineWithLMHead):
    """The engine of the actor and the reference policy."""

    def _build_fsdp_module(self, module: Any) -> Any:
        # The reference policy (forward_only) is built with its parameters offloaded to pinned memory. Here they are
        # where they should be, and memory can be pinned only for an accelerator.
        config = self.engine_config
        self.engine_config = replace(config, forward_only=False)
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config = config


def register() -> None:
    """Register actor and critic engines for the CPU, once."""
    if "cpu" in EngineRegistry._engines["language_model"]["fsdp2"]:
        return
    EngineRegistry.register(model_type="language_model", backend=_BACKENDS, device="cpu")(CPUFSDPEngineWithLMHead)
    EngineRegistry.register(model_type="value_model", backend=_BACKENDS, device="cpu")(FSDPEngineWithValueHead)
