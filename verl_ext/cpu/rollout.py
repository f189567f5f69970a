"""verl's rollouts on the CPU: the same servers, and other ways for new weights to reach them.

On CPU vLLM packs its linear weights for oneDNN when a model is loaded and drops the originals, so that verl's in-place
``model.load_weights`` has nothing to write to. ``model_runner.reload_weights`` restores the layers, loads and packs
again (vLLM 0.28). SGLang keeps its weights as they are; there it is the trainer's side that hands them over otherwise.
"""

from __future__ import annotations

import os
from typing import Any

from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplicaRegistry


def register() -> None:
    """Serve ``rollout.name=vllm`` by the CPU replica, and give ``sglang`` the CPU's adapter in the trainer."""
    RolloutReplicaRegistry.register("vllm", _load_replica)
    base._ROLLOUT_REGISTRY[("sglang", "async")] = "verl_ext.cpu.sglang_adapter.CPUServerAdapter"
    # SGLang asks this variable, when it is imported, whether it is to run on a CPU.
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"


def _load_replica() -> type:
    import ray
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

    class CPUvLLMHttpServer(vLLMHttpServer):
        """verl's vLLM server, with the CPU worker extension."""

        def _get_worker_extension_cls(self) -> str:
            return "verl_ext.cpu.vllm_worker.CPUWorkerExtension"

    class CPUvLLMReplica(vLLMReplica):
        """verl's vLLM replica, with the CPU server."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.server_class = ray.remote(CPUvLLMHttpServer)

    return CPUvLLMReplica
