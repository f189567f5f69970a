"""The part of the CPU rollout that runs inside vLLM's worker process."""

from __future__ import annotations

from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """Takes the trainer's weights and hands them to vLLM's own reload. vLLM mixes it into its worker class."""

    model_runner: Any

    def update_weights_from_ipc(
        self, peft_config: dict[str, Any] | None = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        """Replace all weights of the rollout model by those that the trainer sends.

        Raises:
            NotImplementedError: LoRA adapters; merge them (``actor_rollout_ref.model.lora.merge=true``).
        """
        if peft_config is not None:
            raise NotImplementedError(
                "actor_rollout_ref.model.lora: the CPU rollout takes full weights only; set lora.merge=true"
            )
        weights: dict[str, torch.Tensor] = {}

        def keep(bucket: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            weights.update((name, tensor.clone()) for name, tensor in bucket)  # the buffer is used again

        receiver = BucketedWeightReceiver(self._get_zmq_handle(), device=torch.device("cpu"), use_shm=use_shm)
        receiver.receive_weights(on_bucket_received=keep)
        self.model_runner.reload_weights(weights_iterator=iter(weights.items()))
        pack_output_head(self.model_runner.model)


def pack_output_head(model: torch.nn.Module) -> None:
    """Pack the output head again after a reload (works around vLLM 0.28).

    vLLM's reload processes each layer whose weights it loaded. A head that is tied to the embedding has no weights of
    its own in the checkpoint, is therefore passed over, and keeps the packed copy of its random start-up weights: every
    rollout would be noise, without an error (``vllm/model_executor/model_loader/reload/layerwise.py``, line 257).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding):
            layer.quant_method.process_weights_after_loading(layer)
