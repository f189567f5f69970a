"""What generation takes of each GPU, and how many sequences it has at once.

vLLM asks for ``gpu_memory_utilization`` of the device (``vllm/v1/worker/utils.py``, request_memory), and gives to the
key-value cache what weights and one forward pass leave of it (``gpu_worker.py``, determine_available_memory). SGLang's
``mem_fraction_static`` holds weights and cache, and the forward pass comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf import DictConfig
from verl.utils.config import omega_conf_to_dataclass

from verl_ext.memory.activations import FP32
from verl_ext.memory.gpus import GIB, Device
from verl_ext.memory.model_shape import ModelShape
from verl_ext.model.vllm_choices import uses_second_runner

# Arrays as long as the vocabulary, in fp32, that a sampler makes for each sequence: logits, sorted ones, probabilities.
_SAMPLER_ARRAYS = 3

# What vLLM's second model runner keeps of each sequence for each token of the vocabulary (PenaltiesState of
# vllm/v1/worker/gpu/sample/penalties.py): an int32 count, and a bit for the prompt's, in words of 32.
_COUNT_BYTES = 4
_WORD_BITS = 32

# Captured graphs of the usual batch sizes; an estimate, since it hangs on the driver. None with enforce_eager.
_GRAPHS = 1.0 * GIB

# Tokens that a block of the cache holds, where engine_kwargs says nothing: vLLM's default on GPU.
_BLOCK = 16


@dataclass(frozen=True)
class Rollout:
    """One replica's share of a GPU.

    Attributes:
        shape: the model.
        config: verl's ``RolloutConfig`` of ``actor_rollout_ref.rollout``.
        device: what holds the share.
        world: GPUs of the run.
        second_runner: whether vLLM's second model runner generates.
    """

    shape: ModelShape
    config: Any
    device: Device
    world: int
    second_runner: bool

    @property
    def tensor(self) -> int:
        """GPUs of a replica."""
        return self.config.tensor_model_parallel_size

    @property
    def replicas(self) -> int:
        return self.world // self.tensor

    @cached_property
    def weights(self) -> float:
        return self.shape.policy_parameters * self._bytes / self.tensor

    @cached_property
    def forward(self) -> float:
        """One forward pass of ``max_num_batched_tokens``, sampling and its table, and captured graphs; an estimate."""
        shape, config = self.shape, self.config
        layer = 3 * shape.intermediate / self.tensor + 4 * shape.hidden
        sampling = config.max_num_seqs * shape.vocabulary * FP32 * _SAMPLER_ARRAYS
        graphs = 0.0 if config.enforce_eager else _GRAPHS
        return config.max_num_batched_tokens * layer * self._bytes + sampling + self._counts + graphs

    @property
    def _counts(self) -> float:
        if not self.second_runner:
            return 0.0
        words = -(-self.shape.vocabulary // _WORD_BITS)
        return self.config.max_num_seqs * (self.shape.vocabulary + words) * _COUNT_BYTES

    @property
    def share(self) -> float:
        """Of the GPU, while it generates."""
        on_top = self.forward if self.config.name == "sglang" else 0.0
        return self.device.memory * self.config.gpu_memory_utilization + on_top

    @property
    def asleep(self) -> float:
        """Of the GPU, while others compute (verl's sleep discards weights and cache, ``_sleep_hybrid``)."""
        sleeps = self.config.free_cache_engine and (self.config.name == "sglang" or self.config.enable_sleep_mode)
        return 0.0 if sleeps else self.share

    @property
    def cache(self) -> float:
        """What is left for keys and values; negative if the weights alone are too much."""
        return self.share - self.weights - self.forward

    @property
    def cache_per_token(self) -> float:
        """Bytes of one token's keys and values: ``2 x layers x heads x head size``, split over the replica's GPUs.

        A key-value head is not split further: with more GPUs than heads each has one.
        """
        heads = max(1.0, self.shape.key_value_heads / self.tensor)
        return 2 * self.shape.layers * heads * self.shape.head_dim * self._bytes

    @property
    def cached_tokens(self) -> int:
        """In whole blocks."""
        block = self._block
        return max(0, int(self.cache // (self.cache_per_token * block))) * block

    def at_once(self, tokens: float) -> int:
        """Sequences of so many tokens that a replica has at once."""
        blocks = -(-tokens // self._block)
        return min(self.config.max_num_seqs, int(self.cached_tokens // (blocks * self._block)))

    @property
    def context(self) -> int:
        """The longest sequence: prompt and response, or the model's own limit if that is less."""
        limit = self.config.max_model_len or self.shape.max_positions
        return min(limit, self.config.prompt_length + self.config.response_length)

    @property
    def _block(self) -> int:
        return self._settings.get("block_size") or _BLOCK

    @property
    def _settings(self) -> dict[str, Any]:
        return self.config.engine_kwargs.get(self.config.name) or {}

    @property
    def _bytes(self) -> int:
        return FP32 if self.config.dtype in ("float32", "fp32", "float") else 2


def make_rollout(config: DictConfig, shape: ModelShape, device: Device, kind: type[Rollout] = Rollout) -> Rollout:
    """The rollout of a composed config."""
    world = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    return kind(shape, rollout, device, world, uses_second_runner(config))
