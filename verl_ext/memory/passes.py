"""What FSDP and Megatron have in common in a plan: a role's model on a rank, and the moments of its passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from verl_ext.memory.model_shape import ModelShape


@dataclass(frozen=True)
class Moment:
    """What a moment of a pass holds beside what is there before it; bytes on one rank.

    Attributes:
        name: when it is.
        activations: hidden states, and what a layer holds.
        logits: arrays as long as the vocabulary.
        gathered: weights gathered from other ranks, gradients before they are reduced, and an optimiser's temporaries.
        gradients: reduced gradients.
    """

    name: str
    activations: float = 0.0
    logits: float = 0.0
    gathered: float = 0.0
    gradients: float = 0.0

    @property
    def total(self) -> float:
        return self.activations + self.logits + self.gathered + self.gradients


def greatest(moments: Sequence[Moment]) -> Moment:
    """The moment that holds most."""
    return max(moments, key=lambda moment: moment.total)


@dataclass(frozen=True)
class Role:
    """A model in the run.

    Attributes:
        name: ``actor``, ``reference`` or ``critic``.
        field: the path of its engine's config, for remedies: ``actor_rollout_ref.actor.fsdp_config``.
        shape: its model.
        engine: verl's ``FSDPEngineConfig`` or ``McoreEngineConfig``.
        trains: false for the reference.
        checkpointing: ``enable_gradient_checkpointing`` of its model.
        fused_head: ``use_fused_kernels`` of its model: log-probs without whole logits.
        temperature_is_one: otherwise the logits are copied.
        entropy_in_update: whether the update's loss has the entropy.
        on_cpu: ``trainer.device: cpu``.
        flash: whether the attention is flash-attn's, of which the log-probs then come too. On a CPU never.
        packed: ``use_remove_padding`` of its model: a pass holds its sequences in a row. On a GPU always.
        by_sequence: with that: whether the attention takes each sequence of the row by itself.
        padding: without that, tokens that a pass computes for each that it was given.
        longest: without that, tokens of a row.
    """

    name: str
    field: str
    shape: ModelShape
    engine: Any
    trains: bool = True
    checkpointing: bool = True
    fused_head: bool = False
    temperature_is_one: bool = True
    entropy_in_update: bool = False
    on_cpu: bool = False
    flash: bool = True
    packed: bool = True
    by_sequence: bool = False
    padding: float = 1.0
    longest: int = 0

    @property
    def has_flash(self) -> bool:
        return self.flash and not self.on_cpu

    def computed(self, tokens: int) -> float:
        """Of a micro-batch of so many tokens, those that its passes compute: with their padding."""
        return tokens if self.packed else tokens * self.padding

    @property
    def is_critic(self) -> bool:
        return self.name == "critic"

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.shape.critic_parameters if self.is_critic else self.shape.policy_parameters

    @property
    def head_parameters(self) -> int:
        """Of the output head, where it is its own."""
        return self.shape.value_head if self.is_critic else self.shape.head


class RankModel(Protocol):
    """A role's model on the rank that holds most of it; all figures are bytes.

    Attributes:
        role: the model.
        weight_bytes: of one number of its weights.
        weights, gradients, optimizer: what the rank has of each.
    """

    @property
    def role(self) -> Role: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def weights(self) -> float: ...
    @property
    def gradients(self) -> float: ...
    @property
    def optimizer(self) -> float: ...

    def resting(self) -> float:
        """On the GPU while another role computes."""
        ...

    def loaded(self, *, training: bool) -> float:
        """On the GPU during its own pass, without what the pass itself makes."""
        ...

    def update(self, tokens: int) -> list[Moment]:
        """The moments of a training step whose micro-batches have so many tokens a rank."""
        ...

    def infer(self, tokens: int, *, entropy: bool) -> list[Moment]:
        """The moments of a forward pass without gradients."""
        ...
