"""The least that a forward pass takes on a GPU: what it reads, or what it computes, whichever takes longer."""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.memory.gpus import GPU

FORWARD = 2
"""Operations a parameter and token: a forward pass multiplies and adds."""


@dataclass(frozen=True)
class Roofline:
    """A model, or a GPU's part of it, on that GPU.

    Attributes:
        gpu: whose memory is read, and whose products are computed in bf16.
        parameters: that each token is multiplied with.
        weights: bytes that each pass reads.
        cache_per_token: bytes of one token's keys and values.
    """

    gpu: GPU
    parameters: float
    weights: float
    cache_per_token: float

    def seconds(self, tokens: float, context: float) -> float:
        """Of one pass over so many tokens, whose sequences have so many tokens in the cache together.

        The cache is read once. Attention's own products, launches and sampling are left out.
        """
        read = self.weights + context * self.cache_per_token
        return max(read / self.gpu.bandwidth, FORWARD * self.parameters * tokens / self.gpu.flops)
