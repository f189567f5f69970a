"""What importing the plugin does to verl."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging

import pytest
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.plugin.platform import PlatformRegistry, get_platform, platform_manager
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.workers.engine import EngineRegistry

import verl_ext.plugin
from verl_ext import cpu
from verl_ext.cpu import engines, patches, platform, rollout
from verl_ext.cpu.platform import PlatformCPU
from verl_ext.reward_manager import MultiAttemptRewardManager
from verl_ext.rollout.agent_loop import MultiAttemptAgentLoop
from verl_ext.training.trainer import MultiAttemptTrainer


def assert_registered() -> None:
    assert _agent_loop_registry["multi_attempt"] == {"_target_": "verl_ext.rollout.agent_loop.MultiAttemptAgentLoop"}
    assert get_reward_manager_cls("multi_attempt") is MultiAttemptRewardManager
    assert get_trainer_cls("multi_attempt") is MultiAttemptTrainer
    assert PlatformRegistry.get("cpu") is PlatformCPU


def test_the_import_of_verl_registers_all_parts() -> None:
    assert_registered()
    assert importlib.import_module(MultiAttemptAgentLoop.__module__).MultiAttemptAgentLoop is MultiAttemptAgentLoop


def test_importing_the_plugin_again_changes_nothing() -> None:
    actor = EngineRegistry._engines["language_model"]["fsdp2"]["cpu"]
    importlib.reload(verl_ext.plugin)
    verl_ext.plugin.register()
    assert_registered()
    assert EngineRegistry._engines["language_model"]["fsdp2"]["cpu"] is actor


def test_verl_finds_the_plugin_by_its_entry_point() -> None:
    [entry_point] = importlib.metadata.entry_points(group="verl.plugins", name="multi_attempt")
    assert entry_point.load() is verl_ext.plugin


def test_a_failure_to_register_is_shown_and_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ImportError("verl has moved something")

    monkeypatch.setattr(cpu, "register", fail)
    with pytest.raises(ImportError, match="verl has moved something"):
        verl_ext.plugin.register()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "multi_attempt" in record.getMessage()
    assert record.exc_info is not None


# ---- The CPU platform ----


def test_the_cpu_is_never_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM")
    assert PlatformCPU().is_platform_available() is False
    assert PlatformCPU().is_platform_available(use_smi_check=True) is False
    assert platform_manager._detect_platform_name() != "cpu"


def test_the_cpu_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_manager, "_current_platform", None)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert isinstance(get_platform(), PlatformCPU)


def test_select_replaces_the_platform_that_was_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM")
    monkeypatch.setattr(platform_manager, "_current_platform", PlatformRegistry.get("nvidia")())  # type: ignore[misc]
    assert get_platform().device_name == "cuda"
    platform.select()
    assert get_platform().device_name == "cpu"
    assert platform.is_current()


@pytest.mark.parametrize(("name", "takes_effect"), [("cpu", True), (" CPU ", True), ("nvidia", False), (None, False)])
def test_the_cpus_engines_take_effect_on_the_cpu_alone(
    monkeypatch: pytest.MonkeyPatch, name: str | None, takes_effect: bool
) -> None:
    if name is None:
        monkeypatch.delenv("VERL_PLATFORM")
    else:
        monkeypatch.setenv("VERL_PLATFORM", name)
    called: list[str] = []
    monkeypatch.setattr(patches, "apply", lambda: called.append("patches"))
    monkeypatch.setattr(engines, "register", lambda: called.append("engines"))
    monkeypatch.setattr(rollout, "register", lambda: called.append("rollout"))
    cpu.register()
    assert called == (["patches", "engines", "rollout"] if takes_effect else [])


def test_the_platforms_device_module_answers_what_verl_asks_of_torch_cuda() -> None:
    module = PlatformCPU().device_module
    available, total = module.mem_get_info()
    assert 0 < available <= total
    assert 0 < module.memory_allocated() <= total
    assert module.get_device_name(0) == "cpu"
    module.empty_cache()
    module.synchronize()
    state = module.get_rng_state()
    module.set_rng_state(state)
    assert module.get_rng_state().equal(state)
