"""A model under verl's FSDP engine (``verl/workers/engine/fsdp/transformer_impl.py``, here: ``impl``).

The master weights are in ``model_dtype`` (fp32 by default, line 262), and so are the gradients and AdamW's two moments;
a pass gathers one layer after the other in ``mixed_precision.param_dtype`` (bf16 by default, line 393) and reduces its
gradients in ``reduce_dtype`` (fp32).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from verl.utils.torch_dtypes import PrecisionType

from verl_ext.memory.activations import FP32, TokenMemory
from verl_ext.memory.passes import Moment, Role

# Tokens at a time of the fused head (verl/utils/experimental/torch_functional.py, line 221), and the fp32 arrays as
# long as the vocabulary that it makes for them: logits, probabilities, and their gradient.
_FUSED_CHUNK, _FUSED_ARRAYS = 512, 3

# Without flash-attn: arrays as long as the vocabulary, in the logits' own precision, beside the model's logits, that
# verl's row-wise log-probs (torch_functional.py, logprobs_from_logits_v2) take. In an update, by the bytes of a number:
# the gradient of fp32's log-sum-exp, made row by row and then as one; of 16 bits the log-softmax, whose rows are kept.
# Where the batch is padded, a copy without the padding, and later the gradient of the model's own logits beside one of
# these. With the entropy, and no gradients: softmax and a temporary. Measured.
_ROWS_UPDATE, _ROWS_COPY, _ROWS_ENTROPY = {4: 2, 2: 1}, 1, 2

# The entropy beside bf16 logits: fp32 arrays as long as the vocabulary. torch.compile leaves at most one, eager torch
# makes the logits in fp32 and their softmax; in chunks it is three for the chunk.
_ENTROPY_COMPILED, _ENTROPY_EAGER, _ENTROPY_CHUNK = 1, 2, 3


@dataclass(frozen=True)
class FSDPModel:
    """One role's share of a rank.

    Attributes:
        role: the model and its engine's config.
        world: ranks of the run.
    """

    role: Role
    world: int

    # ---- What is kept ----

    @cached_property
    def shards(self) -> int:
        """Ranks over which the weights are split (``create_device_mesh``, ``fsdp/utils.py``, line 35)."""
        size = self.role.engine.fsdp_size
        return self.world if size < 0 or size >= self.world else size

    @cached_property
    def weights(self) -> float:
        return self.role.parameters * self.weight_bytes / self.shards

    @cached_property
    def gradients(self) -> float:
        return self.weights if self.role.trains else 0.0

    @cached_property
    def optimizer(self) -> float:
        return 2 * self.weights if self.role.trains else 0.0

    def resting(self) -> float:
        # impl, lines 432 and 459: a reference (forward_only), and an engine with offload_policy, keep their weights in
        # the node's memory, whatever else is set.
        if self._on_host:
            return 0.0
        engine = self.role.engine
        return (0 if engine.param_offload else self.weights) + (0 if engine.optimizer_offload else self.optimizer)

    def loaded(self, *, training: bool) -> float:
        if self._on_host:
            return 0.0
        # workers/engine/base.py, _context_switch: a forward pass loads no optimiser.
        loads_optimizer = training or not self.role.engine.optimizer_offload
        return self.weights + (self.optimizer if loads_optimizer else 0)

    # ---- A training step ----

    def update(self, tokens: int) -> list[Moment]:
        """Of the second and later micro-batches, when the gradients of the first are there."""
        if not self.role.trains:
            raise ValueError(f"the {self.role.name} is not trained")
        memory, shape, computed = self._memory(tokens), self.role.shape, self.role.computed(tokens)
        layers = computed * memory.training_layers(shape.layers, self.role.checkpointing)
        kept = shape.layers * (memory.checkpoint if self.role.checkpointing else memory.layer)
        at_head, logits = computed * (kept + memory.final_norm), self._logits(tokens)
        gradients = 0.0 if self._on_host else self.gradients
        step = 0.0 if self._on_host else self._step_temporary
        return [
            Moment("backward, last layer", layers, 0.0, self._gathered_backward, gradients),
            Moment("forward, output head", at_head, logits, self._root, gradients),
            Moment("loss", at_head, self._logits_update(tokens), self._root_after_forward, gradients),
            Moment("backward, output head", at_head, logits, self._gathered_head, gradients),
            Moment("end of backward", computed * memory.checkpoint, 0.0, self._gathered_root, gradients),
            Moment("optimiser's step", 0.0, 0.0, step, gradients),
        ]

    def infer(self, tokens: int, *, entropy: bool) -> list[Moment]:
        memory, computed = self._memory(tokens), self.role.computed(tokens)
        at_head, logits = computed * memory.checkpoint, self._logits_infer(tokens, entropy=entropy)
        return [
            Moment("forward, a layer", computed * memory.layer_forward, 0.0, self._gathered_forward),
            Moment("forward, output head", at_head, self._logits(tokens), self._root),
            Moment("log-probs", at_head, logits, self._root_after_forward),
        ]

    # ---- Weights that a pass gathers ----

    @property
    def _layer(self) -> float:
        return self.role.shape.layer * self._compute

    @property
    def _gathers(self) -> int:
        # The layer that computes and the next one, which is under way; a single rank copies the one that computes
        # (torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, wait_for_unshard).
        return 1 if self.shards == 1 else 2

    @property
    def _root(self) -> float:
        # What stays gathered through the pass. FSDP1 keeps embedding and head in its root unit; so does FSDP2 when they
        # are one (verl/utils/fsdp_utils.py, _select_fsdp2_wrap_targets), which otherwise gathers each for itself.
        shape = self.role.shape
        if not self.role.engine.reshard_after_forward:
            return self.role.parameters * self._compute
        if self.role.engine.strategy == "fsdp2" and not shape.tied:
            return 0.0
        return (shape.embedding + self.role.head_parameters) * self._compute

    @property
    def _root_after_forward(self) -> float:
        # FSDP2 gives its root's weights back with the others', and log-probs are computed after that; in the fused head
        # they are a part of the forward pass. FSDP1 keeps its root's for the backward pass.
        engine = self.role.engine
        is_back = engine.strategy == "fsdp2" and engine.reshard_after_forward and not self.role.fused_head
        return 0.0 if is_back else self._root

    @property
    def _head_weights(self) -> float:
        return 0.0 if self._root else self.role.head_parameters * self._compute

    @property
    def _gathered_forward(self) -> float:
        return max(self._gathers * self._layer, self._head_weights) + self._root

    @property
    def _gathered_backward(self) -> float:
        # Beside the weights: the gradients of the unit before on their way (foreach_reduce copies them), and this
        # layer's first, of its greatest matrix. With checkpointing the worst layer is the second in the backward pass,
        # otherwise the first, which comes after the head.
        shape, checkpointing = self.role.shape, self.role.checkpointing
        reduced: float = (shape.layer if checkpointing else self.role.head_parameters) * self._reduce
        if self.role.engine.use_no_sync_for_gradient_accumulation:
            # Until the last micro-batch each rank keeps the gradients of all weights (impl, line 692).
            reduced += self.role.parameters * self._reduce
        matrix = shape.hidden * shape.intermediate * self._compute
        head_gradient = self.role.head_parameters * self._compute if self._root else 0.0
        return self._root + self._gathers * self._layer + reduced + matrix + head_gradient

    @property
    def _gathered_head(self) -> float:
        gradient = self.role.head_parameters * self._compute
        prefetched = (self._gathers - 1) * self._layer
        return self._root + self._head_weights + gradient + prefetched

    @property
    def _gathered_root(self) -> float:
        # Embedding and head in one unit: their gradients, the same as one array, and that in the reduction's precision.
        if not self._root:
            return self.role.shape.embedding * (2 * self._compute + self._reduce)
        return self._root * 3 + self._root / self._compute * self._reduce

    @property
    def _step_temporary(self) -> float:
        # torch.optim.AdamW makes the root of the second moment: on a GPU of all tensors at once (foreach), on a CPU of
        # one after the other.
        shape = self.role.shape
        return max(shape.embedding, shape.layer) * self.weight_bytes if self.role.on_cpu else self.weights

    # ---- Logits ----

    def _logits(self, tokens: int) -> float:
        """The model's own."""
        has_logits = not (self.role.is_critic or self.role.fused_head)
        return self.role.computed(tokens) * self.role.shape.vocabulary * self._compute if has_logits else 0.0

    def _logits_update(self, tokens: int) -> float:
        if self.role.is_critic:
            return 0.0
        array = tokens * self.role.shape.vocabulary
        if self.role.fused_head:
            return self._fused_head()
        if not self.role.has_flash:
            return self._row_wise(tokens, _ROWS_UPDATE[self._compute])
        # flash-attn's cross-entropy writes the gradient over the logits (torch_functional.py, line 129).
        logits: float = array * self._compute * (1 if self.role.temperature_is_one else 2)
        if self.role.entropy_in_update:
            # Their gradient is then an array of its own (impl, line 1425), and the entropy's another.
            logits += array * (2 * self._compute) + self._entropy(array)
        return logits

    def _logits_infer(self, tokens: int, *, entropy: bool) -> float:
        if self.role.is_critic:
            return 0.0
        array = tokens * self.role.shape.vocabulary
        if self.role.fused_head:
            return self._fused_head()
        if not self.role.has_flash:
            return max(self._row_wise(tokens, 0), self._logits(tokens) * (1 + _ROWS_ENTROPY) if entropy else 0.0)
        logits = array * self._compute * (1 if self.role.temperature_is_one else 2)
        return logits + (self._entropy(array) if entropy else 0.0)

    def _row_wise(self, tokens: int, beside: int) -> float:
        """With so many arrays beside the logits."""
        model, array = self._logits(tokens), tokens * self.role.shape.vocabulary * self._compute
        scaled = 0.0 if self.role.temperature_is_one else model
        if self.role.packed:
            return scaled + model + beside * array
        padded = model + (_ROWS_COPY + beside) * array
        return scaled + max(padded, 2 * model + array if beside else 0.0)

    def _entropy(self, array: float) -> float:
        engine = self.role.engine
        if engine.entropy_from_logits_with_chunking:
            return engine.entropy_from_logits_chunk_size * self.role.shape.vocabulary * FP32 * _ENTROPY_CHUNK
        return array * FP32 * (_ENTROPY_COMPILED if engine.use_torch_compile else _ENTROPY_EAGER)

    def _fused_head(self) -> float:
        return _FUSED_CHUNK * self.role.shape.vocabulary * FP32 * _FUSED_ARRAYS

    # ---- Precisions ----

    @property
    def _on_host(self) -> bool:
        return (self.role.engine.forward_only or self.role.engine.offload_policy) and not self.role.on_cpu

    def _memory(self, tokens: int) -> TokenMemory:
        role = self.role
        mask = 0
        if role.on_cpu and not role.by_sequence:
            mask = tokens if role.packed else role.longest
        return TokenMemory(role.shape, self._compute, mask=mask, by_sequence=role.by_sequence)

    @cached_property
    def weight_bytes(self) -> int:
        default = "bf16" if self.role.engine.forward_only else "fp32"
        return _bytes(self.role.engine.model_dtype or default)

    @cached_property
    def _compute(self) -> int:
        return self._mixed("param_dtype", "bf16")

    @cached_property
    def _reduce(self) -> int:
        return self._mixed("reduce_dtype", "fp32")

    def _mixed(self, key: str, default: str) -> int:
        return _bytes((self.role.engine.mixed_precision or {}).get(key, default))


def _bytes(dtype: Any) -> int:
    return PrecisionType.to_dtype(dtype).itemsize
