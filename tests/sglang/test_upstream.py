"""What is worked around for SGLang is still needed, and still does what it should."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from verl.workers.rollout import base, replica
from verl.workers.rollout.replica import RolloutReplicaRegistry

CHILD = """
import sys
from sglang.srt.utils import MultiprocessingSerializer
print(MultiprocessingSerializer.deserialize(sys.stdin.read()).sum().item())
"""


def sum_in_another_process(tensor: torch.Tensor) -> subprocess.CompletedProcess[str]:
    """The sum of a tensor, computed by a process that is no child of torch.multiprocessing."""
    from sglang.srt.utils import MultiprocessingSerializer

    text = MultiprocessingSerializer.serialize(tensor, output_str=True)
    return subprocess.run([sys.executable, "-c", CHILD], input=text, capture_output=True, text=True, timeout=120)


def test_a_tensor_in_main_memory_reaches_another_process() -> None:
    from verl_ext.cpu.sglang_adapter import tensors_in_shared_memory

    tensor = torch.arange(10.0)
    with tensors_in_shared_memory():
        result = sum_in_another_process(tensor)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == 45.0


def test_torch_still_hands_over_open_files_by_itself() -> None:
    assert torch.multiprocessing.get_sharing_strategy() == "file_descriptor"
    assert sum_in_another_process(torch.arange(10.0)).returncode != 0


def test_sglangs_patch_still_has_no_place_for_tensors_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.utils import patch_torch
    from sglang.srt.weight_sync import utils

    assert "\n    monkey_patch_torch_reductions()\n" in inspect.getsource(utils.update_weights)
    reductions = patch_torch.reductions
    monkeypatch.setattr(reductions, "_reduce_tensor_original", reductions.reduce_tensor, raising=False)
    with pytest.raises(IndexError):
        patch_torch._reduce_tensor_modified(torch.arange(10.0))


def test_the_work_around_ends_with_the_weight_sync() -> None:
    from sglang.srt.utils import patch_torch

    from verl_ext.cpu.sglang_adapter import tensors_in_shared_memory

    def state() -> tuple[object, str]:
        return patch_torch.monkey_patch_torch_reductions, torch.multiprocessing.get_sharing_strategy()

    before = state()
    with tensors_in_shared_memory():
        assert state() != before
    assert state() == before


def test_verl_builds_our_server_and_our_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    assert RolloutReplicaRegistry.get("sglang").__name__ == "CountingSGLangReplica"
    assert base.get_rollout_class("sglang").__name__ == "CPUServerAdapter"
    # verl's own loader deletes it.
    assert os.environ["SGLANG_USE_CPU_ENGINE"] == "1"
    replica._load_sglang()
    assert "SGLANG_USE_CPU_ENGINE" not in os.environ


def test_verls_server_still_does_not_say_what_the_cache_held() -> None:
    from verl.workers.rollout.sglang_rollout import async_sglang_server

    assert "cached_tokens" not in Path(inspect.getfile(async_sglang_server)).read_text("utf-8")


def test_a_stand_in_raises_when_it_is_called() -> None:
    import sgl_kernel.flash_attn

    with pytest.raises(RuntimeError, match=r"sgl_kernel\.flash_attn\.anything was called"):
        sgl_kernel.flash_attn.anything()
    assert not hasattr(sgl_kernel, "__wrapped__")
