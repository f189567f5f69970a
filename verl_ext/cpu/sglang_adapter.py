"""verl's SGLang rollout on the CPU: the trainer's side, which hands new weights to the server.

SGLang takes weights as handles of tensors that both processes can see: CUDA memory, or here POSIX shared memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sglang.srt.utils import patch_torch
from verl.workers.rollout.sglang_rollout.sglang_rollout import ServerAdapter
from verl.workers.rollout.utils import ensure_async_iterator


class CPUServerAdapter(ServerAdapter):
    """verl's adapter, for tensors in main memory."""

    async def update_weights(self, weights: Any, *args: Any, **kwargs: Any) -> None:
        """Replace all weights of the rollout model; see verl's."""
        with tensors_in_shared_memory():
            copies: Any = _copies(weights)  # verl declares a generator, and takes either kind
            await super().update_weights(copies, *args, **kwargs)


@contextmanager
def tensors_in_shared_memory() -> Iterator[None]:
    """Hand tensors over by the names of files in shared memory (works around SGLang 0.5.13).

    ``sglang.srt.weight_sync.utils.update_weights`` (line 38) patches torch's reduction of tensors to name a GPU by its
    id instead of its number, at a place that a tensor in main memory does not have (``patch_torch.py``, line 72). And
    torch would hand over open files, which a process that is no relative of this one cannot take.
    """
    patch, strategy = patch_torch.monkey_patch_torch_reductions, torch.multiprocessing.get_sharing_strategy()
    patch_torch.monkey_patch_torch_reductions = lambda: None
    torch.multiprocessing.set_sharing_strategy("file_system")
    try:
        yield
    finally:
        patch_torch.monkey_patch_torch_reductions = patch
        torch.multiprocessing.set_sharing_strategy(strategy)


async def _copies(weights: Any) -> AsyncIterator[tuple[str, torch.Tensor]]:
    """Copies, because to share a tensor moves it to shared memory: these may be the actor's own parameters."""
    async for name, tensor in ensure_async_iterator(weights):
        yield name, tensor.detach().clone()
