"""Attention by name on the GPU: packed rows give each episode what it has alone, for each implementation."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from gpu_machine import Machine
from transformers import AutoModelForCausalLM, Qwen2Config

from verl_ext.model import attention

# Of Qwen2.5-Math-1.5B's shape, but for its number of layers and its vocabulary.
_CONFIG = Qwen2Config(
    vocab_size=4096,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=4,
    num_attention_heads=12,
    num_key_value_heads=2,
)
_LENGTHS = (700, 1, 1200, 33)

# Of logits whose standard deviation is about 0.8, in bf16, by two kernels.
_TOLERANCE = 0.05

Report = Callable[[str, float, str], None]

_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def model(implementation: str, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = AutoModelForCausalLM.from_config(
        _CONFIG, attn_implementation=implementation, dtype=torch.bfloat16
    )
    return made.to(device).eval()


@pytest.mark.parametrize("implementation", [attention.NAME, "flex_attention", *_PACKAGES])
def test_each_episode_of_a_packed_row_is_as_if_it_were_alone(
    implementation: str, machine: Machine, report: Report
) -> None:
    """Ten seconds for each that is there."""
    package = _PACKAGES.get(implementation)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if machine.rehearsal and implementation != attention.NAME:
        pytest.skip(f"{implementation} needs a GPU")
    attention.register()
    torch.manual_seed(1)
    ids = torch.randint(0, _CONFIG.vocab_size, (1, sum(_LENGTHS)), device=machine.device)
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])[None].to(machine.device)
    with torch.no_grad():
        row = model(implementation, machine.device)(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
        alone = model("sdpa", machine.device)
        parts = [alone(input_ids=part[None], use_cache=False).logits[0] for part in ids[0].split(_LENGTHS)]
    difference = (row - torch.cat(parts)).abs().max().item()
    if not machine.rehearsal:
        torch.cuda.empty_cache()  # others need the memory that this process would keep
    report("largest difference of logits", difference, f"({implementation}, bf16)")
    assert difference < _TOLERANCE
