"""The names of CUDA that Megatron-Core, mbridge and verl's Megatron engine use, on the CPU, for one test process.

For tests alone: everything that computes is Megatron-Core's own, on the CPU. Stood in for are the current device, the
random state of the device, the type names of tensors, and what Transformer Engine would do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def install() -> None:
    """Put the stand-ins in place; before Megatron builds a model, and for the rest of the process."""
    _devices()
    _random_state()
    _local_layers()
    _attention_mask()
    _norms()


def _devices() -> None:
    cpu = torch.device("cpu")
    torch.cuda.current_device = lambda: cpu  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda *_: None
    torch.nn.Module.cuda = lambda self, *_: self  # type: ignore[method-assign]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    _OnCPU().__enter__()


class _OnCPU(TorchFunctionMode):
    """Takes "cuda" as a tensor's device for "cpu", and calls a CPU tensor's type what it is called on a GPU.

    Megatron's optimizers know a parameter's precision by the name "torch.cuda.BFloat16Tensor".
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        result = func(*args, **kwargs)
        return (
            result.replace("torch.", "torch.cuda.", 1)
            if func is torch.Tensor.type and isinstance(result, str)
            else result
        )


def _random_state() -> None:
    # The states themselves are Megatron's: one for each name, kept apart. They are of the CPU's generator.
    from megatron.core.tensor_parallel import random

    torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
    torch.cuda.manual_seed = torch.manual_seed  # type: ignore[assignment]
    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _local_layers() -> None:
    from mbridge.core import llm_bridge
    from mbridge.models.qwen2 import Qwen2Bridge
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

    def without_transformer_engine(config: Any, use_transformer_engine: bool, **kwargs: Any) -> Any:
        return get_gpt_decoder_block_spec(config, use_transformer_engine=False, **kwargs)

    llm_bridge.get_gpt_decoder_block_spec = without_transformer_engine

    # Transformer Engine's layers hold the norm before them; Megatron's own stand beside it.
    layer = "model.layers.{layer_number}"
    Qwen2Bridge._OTHER_MAPPING = {"input_layernorm.weight": [f"{layer}.input_layernorm.weight"]}
    Qwen2Bridge._MLP_MAPPING = {
        **Qwen2Bridge._MLP_MAPPING,
        "pre_mlp_layernorm.weight": [f"{layer}.post_attention_layernorm.weight"],
    }


def _attention_mask() -> None:
    # Transformer Engine takes which tokens are padding, [batch, length]; Megatron's own attention takes which tokens
    # each token must not see, [batch, 1, length, length].
    from megatron.core.transformer.dot_product_attention import DotProductAttention

    original = DotProductAttention.forward

    def forward(
        self: Any, query: Any, key: Any, value: Any, attention_mask: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        length = attention_mask.shape[-1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        seen = causal & attention_mask[:, None, None, :]
        return original(self, query, key, value, ~seen, *args, **kwargs)

    DotProductAttention.forward = forward


def _norms() -> None:
    # With sequence parallelism the ranks add up the norms' gradients, which Megatron knows by this mark.
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    def rms_norm(cls: Any, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> torch.nn.RMSNorm:
        norm = torch.nn.RMSNorm(hidden_size, eps=eps)
        norm.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm

    WrappedTorchNorm.__new__ = rms_norm
