"""Attention for episodes that stand in one row without padding, held against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig

from verl_ext.cpu import attention

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LENGTHS = (5, 1, 9, 3)


@pytest.fixture(autouse=True)
def _registered() -> None:
    attention.register()


def model(config: PretrainedConfig, implementation: str) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    return made.eval()


def packed() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and positions of sequences in one row, shape [1, tokens]."""
    torch.manual_seed(1)
    ids = torch.randint(0, SIZES["vocab_size"], (1, sum(LENGTHS)))
    return ids, torch.cat([torch.arange(length) for length in LENGTHS])[None]


def test_each_sequence_of_a_row_is_as_if_it_were_alone() -> None:
    config = LlamaConfig(**SIZES)
    ids, positions = packed()
    row = model(config, attention.NAME)(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    alone = model(config, "sdpa")
    for part, logits in zip(ids[0].split(LENGTHS), row.split(LENGTHS), strict=True):
        torch.testing.assert_close(logits, alone(input_ids=part[None], use_cache=False).logits[0])


def test_gradients_are_those_of_the_masked_row() -> None:
    config = LlamaConfig(**SIZES)
    ids, positions = packed()
    gradients = []
    for implementation in (attention.NAME, "sdpa"):
        network = model(config, implementation)
        network(input_ids=ids, position_ids=positions, use_cache=False).logits.logsumexp(-1).sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_padded_batch_is_masked_as_ever() -> None:
    config = LlamaConfig(**SIZES)
    ids = torch.randint(0, SIZES["vocab_size"], (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    ours, theirs = (
        model(config, implementation)(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
        for implementation in (attention.NAME, "sdpa")
    )
    torch.testing.assert_close(ours, theirs)


def test_a_sequence_beyond_a_sliding_window_is_refused() -> None:
    ids, positions = packed()
    model(MistralConfig(**SIZES, sliding_window=9), attention.NAME)(input_ids=ids, position_ids=positions)
    with pytest.raises(NotImplementedError, match=r"9 tokens is longer .* window of 8.*set cpu.packed=false"):
        model(MistralConfig(**SIZES, sliding_window=8), attention.NAME)(input_ids=ids, position_ids=positions)
