"""A model under verl's Megatron engine (``verl/workers/engine/megatron/transformer_impl.py``).

Each rank has bf16 weights and, where it trains, fp32 gradients of its part of the model (``DistributedDataParallel``'s
buffers, megatron-core 0.16.1, ``distributed/param_and_grad_buffer.py``, line 797), and with the distributed optimiser
fp32 master weights and two moments of its share of that among the ranks that have the same part
(``optimizer/distrib_optimizer.py``, line 330). ``tests/megatron`` holds this against two ranks on a CPU; what a pass
allocates was not measured, since it needs Transformer Engine, and so a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from verl_ext.memory.activations import FP32, TokenMemory
from verl_ext.memory.passes import Moment, Role
from verl_ext.model.parallel_sizes import UNEVEN_STAGES

BF16 = 2

# fp32 numbers a parameter in the optimiser: master weight and AdamW's two moments.
_OPTIMIZER_ARRAYS = 3

# Bytes for each logit of the rank's part of the vocabulary. Update: Float16Module makes them fp32
# (transformer/module.py, line 495), the loss works in place (tensor_parallel/cross_entropy.py, line 45), and the
# gradient goes back in bf16. With the entropy, verl keeps a copy and its softmax (_lm_head_logits_processor).
_LOGIT_UPDATE, _LOGIT_INFER, _LOGIT_ENTROPY = FP32 + BF16, FP32 + BF16, 3 * FP32


@dataclass(frozen=True)
class MegatronModel:
    """One role's share of the rank that holds most.

    Attributes:
        role: the model and its engine's config.
        world: ranks of the run.

    Raises:
        ValueError: its pipeline stages have different numbers of layers.
    """

    role: Role
    world: int

    def __post_init__(self) -> None:
        settings = self.role.engine.override_transformer_config
        for name in UNEVEN_STAGES:
            if settings.get(name):
                raise ValueError(
                    f"{self.role.field}.override_transformer_config.{name} = {settings[name]}: the plan knows pipeline "
                    "stages of as many layers each only; leave it out"
                )

    # ---- What is kept ----

    @property
    def weight_bytes(self) -> int:
        return BF16

    @property
    def tensor(self) -> int:
        return self.role.engine.tensor_model_parallel_size

    @property
    def pipeline(self) -> int:
        return self.role.engine.pipeline_model_parallel_size

    def stage_parameters(self, stage: int) -> float:
        """Parameters on a rank of a pipeline stage: norms are whole, matrices split over the tensor parallel ranks."""
        shape = self.role.shape
        vectors = shape.layer_vectors
        layer = vectors + (shape.layer - vectors) / self.tensor
        count = shape.layers // self.pipeline * layer
        if stage == 0:
            count += shape.embedding / self.tensor
        if stage == self.pipeline - 1:
            # The critic's head has no bias, and is not split; an embedding that is also the head stands on both ends of
            # the pipeline.
            copy = shape.embedding if shape.tied and self.pipeline > 1 and not self.role.is_critic else 0
            count += shape.final_norm + (shape.hidden if self.role.is_critic else (shape.head + copy) / self.tensor)
        return count

    @cached_property
    def _parameters(self) -> float:
        return max(self.stage_parameters(stage) for stage in range(self.pipeline))

    @cached_property
    def weights(self) -> float:
        return self._parameters * BF16

    @cached_property
    def gradients(self) -> float:
        return self._parameters * FP32 if self.role.trains else 0.0

    @cached_property
    def optimizer(self) -> float:
        if not self.role.trains:
            return 0.0
        # The distributed optimiser also splits over the context parallel ranks, which have the same weights.
        copies = self.world // (self.tensor * self.pipeline) if self.role.engine.use_distributed_optimizer else 1
        return self._parameters * FP32 * _OPTIMIZER_ARRAYS / copies

    def resting(self) -> float:
        # verl/utils/megatron_utils.py, line 713: the gradients' buffers go with the weights, else they stay.
        engine = self.role.engine
        model = 0.0 if engine.param_offload else self.weights + self.gradients
        return model + (0.0 if engine.optimizer_offload else self.optimizer)

    def loaded(self, *, training: bool) -> float:
        engine = self.role.engine
        gradients = self.gradients if training or not engine.param_offload else 0.0
        return self.weights + gradients + (self.optimizer if training or not engine.optimizer_offload else 0.0)

    # ---- Passes ----

    def update(self, tokens: int) -> list[Moment]:
        """The gradients are among what is loaded: Megatron keeps them in buffers of its own."""
        if not self.role.trains:
            raise ValueError(f"the {self.role.name} is not trained")
        memory, layers = self._tokens, self.role.shape.layers // self.pipeline
        held = layers * (memory.checkpoint if self._recomputes else memory.layer)
        worst = memory.training_layers(layers, self._recomputes)
        return [
            # One forward, one backward: the first stage is ahead by as many micro-batches as there are stages.
            Moment("backward, last layer", tokens * (held * (self.pipeline - 1) + worst)),
            Moment("backward, output head", tokens * (held + memory.final_norm), self._logits(tokens, _LOGIT_UPDATE)),
        ]

    def infer(self, tokens: int, *, entropy: bool) -> list[Moment]:
        memory = self._tokens
        each = _LOGIT_ENTROPY if entropy else _LOGIT_INFER
        return [
            Moment("forward, a layer", tokens * memory.layer_forward),
            Moment("forward, output head", tokens * memory.checkpoint, self._logits(tokens, each)),
        ]

    def _logits(self, tokens: int, each: int) -> float:
        if self.role.is_critic or self.role.fused_head:
            return 0.0
        return tokens * self.role.shape.vocabulary / self.tensor * each

    @cached_property
    def _recomputes(self) -> bool:
        # verl sets no recomputation for Megatron by itself: enable_gradient_checkpointing is FSDP's.
        return self.role.engine.override_transformer_config.get("recompute_granularity") == "full"

    @cached_property
    def _tokens(self) -> TokenMemory:
        sequence = self.tensor if self.role.engine.sequence_parallel else 1
        return TokenMemory(self.role.shape, BF16, parts=self.tensor, sequence_parts=sequence, fused=True)
