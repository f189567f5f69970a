"""What a forward and backward pass holds for each token of a micro-batch: the formulas of docs/memory.md.

They follow the layer of transformers (``models/qwen2/modeling_qwen2.py``, line 269, which Qwen3 and Llama share): an
attention that keeps no scores (flash attention, or SDPA), an RMSNorm that computes in fp32, a gated MLP; or Megatron's,
whose norm and MLP are fused. benchmarks/training_memory.py holds the first against measured memory.

On a CPU, SDPA with a mask repeats keys and values for all heads (``integrations/sdpa_attention.py``, line 32), and each
layer makes and keeps the mask anew in the precision of the queries: a row as long as the sequence for each token. Ours,
which asks for each sequence of a packed row by itself (``verl_ext/model/attention.py``), keeps its output in parts and
whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.memory.model_shape import ModelShape

FP32 = 4

# Bytes of each entry of the mask beside what the layer keeps: itself, and what torch makes of it. Measured.
_MASK_TEMPORARIES = 3


@dataclass(frozen=True)
class TokenMemory:
    """Bytes a token, of one model in one precision, on a rank with a share of each layer.

    Attributes:
        shape: the model.
        compute: bytes of a number in the forward pass (2 in bf16, 4 in fp32).
        parts: over how many ranks tensor parallelism splits heads and MLP.
        sequence_parts: over how many the tokens between them are split (Megatron's sequence parallelism).
        fused: whether norm and MLP are Megatron's, which keep their inputs only.
        mask: tokens in a row of the attention's mask; 0 without one.
        by_sequence: whether the attention is ours.
    """

    shape: ModelShape
    compute: int
    parts: int = 1
    sequence_parts: int = 1
    fused: bool = False
    mask: int = 0
    by_sequence: bool = False

    @property
    def checkpoint(self) -> float:
        """A layer's input, which gradient checkpointing keeps of it."""
        return self.compute * self.shape.hidden / self.sequence_parts

    @property
    def layer(self) -> float:
        """All that one layer keeps for its backward pass, its input included."""
        shape, attention = self.shape, self.shape.heads * self.shape.head_dim
        heads = shape.heads if self.mask else shape.key_value_heads
        keys_and_values = 2 * heads * shape.head_dim
        outputs = 2 if self.by_sequence else 1
        # Queries, keys, values, the attention's output and the mask; and its log-sum-exp, one fp32 number a head.
        kept = attention * (1 + outputs) + keys_and_values + self.mask
        attention_bytes = self.compute * kept + FP32 * shape.heads
        # Gate, its activation unless fused, up, and their product.
        mlp = self.compute * (3 if self.fused else 4) * shape.intermediate
        # The layer's input, and the sum after attention.
        residuals = 2 * self.compute * shape.hidden
        return (attention_bytes + mlp) / self.parts + (residuals + 2 * self._norm) / self.sequence_parts

    @property
    def layer_backward(self) -> float:
        """The gradients alive at a layer's worst moment: of its output, and of the MLP's two factors."""
        shape = self.shape
        return self.compute * (shape.hidden / self.sequence_parts + 2 * shape.intermediate / self.parts)

    @property
    def layer_forward(self) -> float:
        """A layer at its worst moment without a backward pass: four hidden states, and the MLP's three arrays, or with
        a mask perhaps the attention's four, and the mask."""
        shape = self.shape
        inner = self.compute * 3 * shape.intermediate
        if self.mask:
            attention = self.compute * (4 * shape.heads * shape.head_dim + self.mask)
            inner = max(inner, attention + _MASK_TEMPORARIES * self.mask)
        return self.compute * 4 * shape.hidden / self.sequence_parts + inner / self.parts

    @property
    def final_norm(self) -> float:
        """The last norm, with its input."""
        return (self.compute * self.shape.hidden + self._norm) / self.sequence_parts

    @property
    def _norm(self) -> float:
        if self.fused:
            return self.shape.hidden * self.compute
        # What is scaled and the output; and, where the rest is not in fp32, the input in fp32.
        in_fp32 = FP32 if self.compute < FP32 else 0
        return self.shape.hidden * (2 * self.compute + in_fp32)

    def training_layers(self, layers: int, checkpointing: bool) -> float:
        """At the start of the backward pass: what all layers hold, and the worst moment of the one that is in it."""
        if checkpointing:
            # The mask of all layers, one byte an entry, is there to compute each of them again.
            return layers * self.checkpoint + self.layer - self.checkpoint + self.layer_backward + self.mask
        return layers * self.layer + self.layer_backward
