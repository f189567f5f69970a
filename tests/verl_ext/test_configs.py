"""The configs that users name by ``--config-name``: all of them are valid, and hold what they claim to."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict
from ray._private.services import canonicalize_bootstrap_address
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.trainer.config.algorithm import AlgoConfig
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.profiler import ProfilerConfig
from verl.workers.config import (
    ActorConfig,
    CriticConfig,
    FSDPActorConfig,
    FSDPCriticConfig,
    HFModelConfig,
    McoreActorConfig,
    McoreCriticConfig,
    RolloutConfig,
)

from multi_attempt.config import TaskSettings, load_settings

CONFIGS = sorted(file.name.removesuffix(".yaml") for file in files("verl_ext.config").iterdir() if ".yaml" in file.name)

pytestmark = pytest.mark.usefixtures("hydra_configs")


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested container, by their dotted paths."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def resolved(name: str, *overrides: str) -> dict[str, Any]:
    return dict(leaves(OmegaConf.to_container(compose(name, overrides=list(overrides)), resolve=True)))


@pytest.mark.parametrize("name", CONFIGS)
def test_verl_accepts_the_config(name: str, model_folder: Path) -> None:
    assert_verl_takes(name, [], model_folder)


GROUPS = {
    "model": ["qwen2_5_math_1_5b", "qwen2_5_math_7b", "qwen3_4b", "smollm2_135m", "tiny"],
    "engine": ["fsdp", "megatron"],
    "rollout": ["vllm", "sglang"],
    "cluster": ["1x8", "4x8"],
}
COMBINATIONS = [
    [f"{group}={choice}" for group, choice in zip(GROUPS, choices, strict=True)]
    for choices in itertools.product(*GROUPS.values())
]


@pytest.mark.parametrize("overrides", COMBINATIONS, ids=" ".join)
def test_verl_accepts_every_combination_of_the_groups(overrides: list[str], model_folder: Path) -> None:
    config = assert_verl_takes("multi_attempt", overrides, model_folder)
    chosen = dict(override.split("=") for override in overrides)
    assert config.actor_rollout_ref.rollout.name == chosen["rollout"]
    assert f"{config.trainer.nnodes}x{config.trainer.n_gpus_per_node}" == chosen["cluster"]
    assert config.actor_rollout_ref.actor.strategy == config.critic.strategy == chosen["engine"]
    assert config.actor_rollout_ref.ref.strategy == chosen["engine"]


@pytest.mark.parametrize("model", GROUPS["model"])
def test_verl_accepts_every_model_on_cpu(model: str, model_folder: Path) -> None:
    config = assert_verl_takes("multi_attempt_cpu", [f"model={model}"], model_folder)
    assert config.actor_rollout_ref.rollout.dtype == config.critic.fsdp.dtype == config.cpu.dtype
    assert config.actor_rollout_ref.model.use_remove_padding == config.critic.model.use_remove_padding


def test_the_groups_are_all_that_there_are() -> None:
    folder = files("verl_ext.config")
    for group, choices in GROUPS.items():
        stored = folder.joinpath("engine_settings" if group == "engine" else group)
        assert sorted(file.name.removesuffix(".yaml") for file in stored.iterdir()) == sorted(choices)


def assert_verl_takes(name: str, overrides: list[str], model_folder: Path) -> DictConfig:
    """Compose a config, convert it to verl's dataclasses, and have verl validate it."""
    config = compose(name, overrides=[*overrides, f"actor_rollout_ref.model.path={model_folder}"])
    OmegaConf.resolve(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    model = config.actor_rollout_ref
    actor_type, critic_type = DATACLASSES[config.engine]
    assert isinstance(omega_conf_to_dataclass(model.model), HFModelConfig)
    assert isinstance(omega_conf_to_dataclass(model.actor), actor_type)
    assert isinstance(omega_conf_to_dataclass(as_actor(model)), actor_type)
    assert isinstance(omega_conf_to_dataclass(model.rollout), RolloutConfig)
    assert isinstance(omega_conf_to_dataclass(config.critic), critic_type)
    assert isinstance(omega_conf_to_dataclass(config.algorithm), AlgoConfig)
    assert get_reward_manager_cls(config.reward.reward_manager.name).__name__ == "MultiAttemptRewardManager"
    return config


DATACLASSES: dict[str, tuple[type[ActorConfig], type[CriticConfig]]] = {
    "fsdp": (FSDPActorConfig, FSDPCriticConfig),
    "megatron": (McoreActorConfig, McoreCriticConfig),
}


@pytest.mark.parametrize("engine", GROUPS["engine"])
def test_both_engines_have_the_papers_schedule(engine: str) -> None:
    config = compose("multi_attempt", overrides=[f"engine={engine}"])
    for optim in (config.actor_rollout_ref.actor.optim, config.critic.optim):
        settings = omega_conf_to_dataclass(optim)
        style = settings.lr_decay_style if engine == "megatron" else settings.lr_scheduler_type
        least = settings.min_lr if engine == "megatron" else settings.min_lr_ratio * settings.lr
        assert (style, settings.lr_warmup_steps_ratio) == ("cosine", 0.03)
        assert least == pytest.approx(settings.lr / 10)


def as_actor(model: DictConfig) -> DictConfig:
    """The reference policy's config as verl converts it (``ActorRolloutRefWorker.init_model``)."""
    model = deepcopy(model)
    with open_dict(model.ref):
        model.ref.ppo_mini_batch_size = model.actor.ppo_mini_batch_size
        for theirs, ours in (
            ("log_prob_micro_batch_size", "ppo_micro_batch_size"),
            ("log_prob_micro_batch_size_per_gpu", "ppo_micro_batch_size_per_gpu"),
            ("log_prob_use_dynamic_bsz", "use_dynamic_bsz"),
            ("log_prob_max_token_len_per_gpu", "ppo_max_token_len_per_gpu"),
        ):
            model.ref[ours] = model.ref.pop(theirs, None)
    return model.ref


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_runs_the_plugin_and_its_check(name: str) -> None:
    config = compose(name, return_hydra_config=True)
    assert config.actor_rollout_ref.rollout.agent.default_agent_loop == "multi_attempt"
    assert config.trainer.v1.trainer_mode == "multi_attempt"
    assert config.trainer.use_v1
    assert config.hydra.callbacks.multi_attempt._target_ == "verl_ext.checks.startup.StartupCheck"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tasks_settings_are_valid(name: str) -> None:
    assert isinstance(load_settings(compose(name).multi_attempt), TaskSettings)


@pytest.mark.parametrize("name", CONFIGS)
def test_profiling_is_a_switch_of_every_config(name: str, model_folder: Path) -> None:
    off, on = (
        compose(name, overrides=[f"actor_rollout_ref.model.path={model_folder}", *switch])
        for switch in ([], ["+profiling=torch"])
    )
    assert off.global_profiler.steps is None
    validate_config(on, use_reference_policy=need_reference_policy(on), use_critic=need_critic(on))
    OmegaConf.resolve(on)
    assert on.global_profiler.steps == [3]
    assert not off.actor_rollout_ref.actor.profiler.enable
    profiler = omega_conf_to_dataclass(on.actor_rollout_ref.actor.profiler, ProfilerConfig)
    assert (profiler.enable, profiler.tool, profiler.ranks) == (True, "torch", [0])


@pytest.fixture(scope="module")
def multi_attempt(hydra_configs: None) -> dict[str, Any]:
    return resolved("multi_attempt")


def test_the_baseline_differs_in_its_attempts_and_its_name_alone(multi_attempt: dict[str, Any]) -> None:
    changes = {"multi_attempt.max_attempts": 1, "trainer.experiment_name": "single_turn"}
    assert not changes.items() & multi_attempt.items()
    assert resolved("single_turn") == resolved("multi_attempt", *(f"{key}={value}" for key, value in changes.items()))


def test_a_misspelt_override_is_an_error() -> None:
    with pytest.raises(ConfigCompositionException, match="max_atempts"):
        compose("multi_attempt", overrides=["multi_attempt.max_atempts=3"])


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("+multi_attempt.foo=1", "multi_attempt.foo"),
        ("+multi_attempt.reward.foo=1", "multi_attempt.reward.foo"),
        ("multi_attempt.max_attempts=many", "multi_attempt.max_attempts"),
        ("multi_attempt.max_attempts=0", "multi_attempt.max_attempts = 0"),
        ("multi_attempt.prompts=papre", "papre"),
    ],
)
def test_a_wrong_setting_of_the_task_is_an_error_that_names_it(override: str, names: str) -> None:
    with pytest.raises(ValueError, match=re.escape(names)):
        load_settings(compose("multi_attempt", overrides=[override]).multi_attempt)


def test_the_config_is_found_by_name_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "multi_attempt", "--cfg", "job"]
    # As a user has it: without the platform that the tests choose.
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert yaml.safe_load(process.stdout)["multi_attempt"]["max_attempts"] == 5
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_cpu_joins_no_cluster_but_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As `ray start` leaves it; nothing removes it if the cluster is killed.
    (tmp_path / "ray_current_cluster").write_text("127.0.0.2:6379")

    def joined(address: Any) -> str | None:
        return canonicalize_bootstrap_address(address, temp_dir=str(tmp_path))

    def configured() -> Any:
        return compose("multi_attempt_cpu").ray_kwargs.ray_init.address

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert joined(None) == "127.0.0.2:6379"
    assert joined(configured()) is None
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.3:6380")
    assert joined(configured()) == "127.0.0.3:6380"


# ---- The task's settings in config/multi_attempt.yaml are their documentation ----

TEXT = files("verl_ext.config").joinpath("multi_attempt.yaml").read_text("utf-8")


def test_the_configs_settings_of_the_task_are_the_defaults() -> None:
    defaults = OmegaConf.to_container(OmegaConf.structured(TaskSettings))
    assert yaml.safe_load(TEXT)["multi_attempt"] == defaults


def test_each_setting_of_the_task_has_a_comment_above_it() -> None:
    section = re.search(r"^multi_attempt:\n(.*?)^\w", TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None
    lines = section[1].splitlines()
    settings = [number for number, line in enumerate(lines) if re.match(r"\s+\w+:", line)]
    content = OmegaConf.to_container(OmegaConf.structured(TaskSettings))
    assert isinstance(content, dict)
    assert len(settings) == len(list(leaves(content))) + groups(content)
    assert [lines[number] for number in settings if not has_comment(lines, number)] == []


def groups(content: dict[Any, Any]) -> int:
    """The groups of settings in it, at every level."""
    return sum(1 + groups(value) for value in content.values() if isinstance(value, dict))


def has_comment(lines: list[str], number: int) -> bool:
    """Whether a comment stands right above a setting, or above a group of settings that names this one."""
    name = lines[number].split(":")[0].strip()
    above = lines[number - 1].strip()
    while number > 0 and lines[number - 1].strip() and not lines[number - 1].lstrip().startswith("#"):
        number -= 1
    comment = []
    while number > 0 and lines[number - 1].lstrip().startswith("#"):
        number -= 1
        comment.append(lines[number])
    return above.startswith("#") or name in "\n".join(comment)
