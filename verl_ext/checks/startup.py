"""Checks before anything starts: what would fail late, hang, or train something else in silence.

Runs as a Hydra callback in the driver, when the config is composed and before Ray starts. Each error names the field,
its value and the remedy.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from multi_attempt.config import TaskSettings, load_settings
from verl_ext.names import COLOCATE_ASYNC, NAME

_logger = logging.getLogger(__name__)

# Without saved checkpoints a run longer than this is worth a warning.
_LONG_RUN_STEPS = 100

# The engines that this plugin has been run with; each is the name of its package, and of our extra.
_ROLLOUTS = ("vllm", "sglang")


class StartupError(ValueError):
    """A run that must not start; the message holds one line for each reason.

    Attributes:
        reasons: each by itself.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(f"- {reason}" for reason in reasons))
        self.reasons = list(reasons)


class StartupCheck(Callback):
    """The Hydra callback that the configs name under ``hydra.callbacks``."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Select the platform and check the run; exits with the errors, if there are any."""
        # Hydra turns an exception of a callback into a warning and goes on; SystemExit it lets through.
        try:
            if config.trainer.device == "cpu":
                from verl_ext.cpu import platform

                platform.select()
            check(config)
        except StartupError as error:
            sys.exit(f"The run cannot start:\n{error}")
        except Exception:
            sys.exit(f"The run cannot start, since the start-up check itself failed:\n{traceback.format_exc()}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """End the run's own cluster, so that its engines leave nothing on this machine."""
        if not _joins_a_cluster(config):
            from verl_ext.training import remains

            remains.end_cluster()


def check(config: DictConfig) -> None:
    """Check a composed config, its data and this machine.

    Raises:
        StartupError: with all errors found.
    """
    from verl_ext.checks.algorithm_check import algorithm_errors
    from verl_ext.checks.value_check import history_errors, value_errors

    # Alone, since the others compute with these.
    if errors := list(value_errors(config)):
        raise StartupError(errors)
    try:
        settings = load_settings(config.get(NAME))
    except ValueError as error:
        raise StartupError([str(error)]) from error
    checks: list[Callable[[DictConfig, TaskSettings], Iterator[str]]] = [
        _plugin,
        _guard,
        _engine,
        _rollout,
        _resources,
        algorithm_errors,
        history_errors,
    ]
    errors = [error for run_check in checks for error in run_check(config, settings)]
    if not errors:  # those that read files, and only for a run that is sound so far
        from verl_ext.checks.weight_bucket import weight_bucket_errors
        from verl_ext.model.attention import attention_errors
        from verl_ext.model.parallel_sizes import parallel_size_errors

        errors = list(parallel_size_errors(config))
        errors = errors or list(attention_errors(config, installed_here=not _joins_a_cluster(config)))
        errors = errors or list(weight_bucket_errors(config))
    if not errors:  # the slow one last
        from verl_ext.checks.dataset_check import dataset_errors

        errors = list(dataset_errors(config, settings))
    if errors:
        raise StartupError(errors)
    _log_engine(config)
    _warn_of_untested_engine(config)
    _warn_of_no_checkpoints(config)
    _warn_of_slow_bfloat16(config)


def _plugin(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    # What decides is whether verl loads the plugin in every worker; in this process the check itself has imported it.
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip()
    if policy.lower() != "auto" and NAME not in (name.strip() for name in policy.split(",")):
        yield (
            f"VERL_USE_EXTERNAL_PLUGINS = {policy!r} keeps verl from loading the plugin {NAME!r}; unset it, or add "
            f"{NAME} to the list"
        )
    if not entry_points(group="verl.plugins", name=NAME):
        yield (
            f"the entry point {NAME!r} of the group 'verl.plugins' is not installed, so verl's workers would not load "
            "the plugin; install the package (pip install), a folder on PYTHONPATH is not enough"
        )
    for field in ("actor_rollout_ref.rollout.agent.default_agent_loop", "reward.reward_manager.name"):
        value = OmegaConf.select(config, field)
        if value != NAME:
            yield f"{field} = {value!r} would not run multi-attempt episodes; set it to {NAME}"
    mode = config.trainer.v1.trainer_mode
    if mode == "separate_async":
        yield (
            "trainer.v1.trainer_mode = 'separate_async' is not supported: it sends weights to GPUs of their own by "
            "checkpoint engines that need NCCL or NIXL, and this plugin's guards have not been run with it; set it to "
            f"{NAME}, or to {COLOCATE_ASYNC} for asynchronous training on the same GPUs"
        )
    elif mode not in (NAME, COLOCATE_ASYNC):
        ours = COLOCATE_ASYNC if mode == "colocate_async" else NAME
        yield f"trainer.v1.trainer_mode = {mode!r} has neither the plugin's metrics nor its guards; set it to {ours}"
    if not config.trainer.use_v1:
        yield "trainer.use_v1 = False: the plugin works with verl's V1 trainer; set it to True"


def _guard(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    if not config.actor_rollout_ref.rollout.calculate_log_probs:
        yield (
            "actor_rollout_ref.rollout.calculate_log_probs = False: multi_attempt.guard compares the rollout's "
            "log-probs with the actor's; set it to True"
        )
    if OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode"):
        yield (
            "algorithm.rollout_correction.bypass_mode = True: verl then takes the rollout's log-probs for the actor's, "
            "and multi_attempt.guard has nothing to compare; set it to False"
        )


def _engine(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    if config.trainer.device == "cpu" and config.actor_rollout_ref.actor.strategy == "megatron":
        yield (
            "actor_rollout_ref.actor.strategy = 'megatron' needs CUDA, and trainer.device = 'cpu'; choose engine=fsdp, "
            "or a config for GPUs (--config-name multi_attempt model=tiny engine=megatron)"
        )


def _rollout(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    name = config.actor_rollout_ref.rollout.name
    if name not in _ROLLOUTS or _joins_a_cluster(config):
        return  # one that this plugin has not been run with, or that is installed elsewhere
    try:
        version(name)
    except PackageNotFoundError:
        yield (
            f"actor_rollout_ref.rollout.name = {name!r}: {name} is not installed; install the extra of that "
            f"name, or choose {' or '.join(f'rollout={other}' for other in _ROLLOUTS if other != name)}"
        )


def _log_engine(config: DictConfig) -> None:
    from verl_ext.model.vllm_choices import describe

    if told := describe(config):
        _logger.info("%s", told)


def _warn_of_untested_engine(config: DictConfig) -> None:
    from verl_ext.checks.engine_versions import TESTED, warn_of_untested_version

    name = config.actor_rollout_ref.rollout.name
    if name in TESTED and not _joins_a_cluster(config):
        warn_of_untested_version(name)


def _warn_of_no_checkpoints(config: DictConfig) -> None:
    trainer = config.trainer
    if trainer.save_freq <= 0 and (trainer.total_training_steps or _LONG_RUN_STEPS + 1) > _LONG_RUN_STEPS:
        _logger.warning(
            "trainer.save_freq = %s: this run saves no checkpoint, and an interruption loses all of it; set it to the "
            "number of steps between checkpoints",
            trainer.save_freq,
        )


def _warn_of_slow_bfloat16(config: DictConfig) -> None:
    if config.trainer.device != "cpu" or config.actor_rollout_ref.rollout.dtype != "bfloat16":
        return
    from torch import cpu

    if not (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()):
        _logger.warning(
            "cpu.dtype = bfloat16: the cores of this machine have no instructions for it (avx512_bf16, amx_bf16), and "
            "are faster with cpu.dtype=float32 cpu.least_correlation=0.9999"
        )


def _joins_a_cluster(config: DictConfig) -> bool:
    address = config.ray_kwargs.ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "local"
    return bool(address != "local")  # Ray's word for a cluster of the run's own


def _resources(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    from verl.single_controller.ray import ResourcePoolManager

    ray_init = config.ray_kwargs.ray_init
    if _joins_a_cluster(config):
        return  # which has its own resources
    cpus = ray_init.get("num_cpus") or os.cpu_count() or 1
    storage = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    slots = config.trainer.n_gpus_per_node * config.trainer.nnodes
    # What Ray holds CPUs for: storage units and their controller, one each; what verl reserves for each training
    # process; and one more, without which no actor that needs none to run can be placed.
    needed = storage + 1 + slots * ResourcePoolManager.max_colocate_count + 1
    if needed > cpus:
        yield (
            f"transfer_queue.backend.SimpleStorage.num_data_storage_units = {storage} and trainer.n_gpus_per_node * "
            f"trainer.nnodes = {slots} take {needed} of Ray's {cpus} CPUs, and the run would wait for them for ever; "
            "lower the first to 1, or raise ray_kwargs.ray_init.num_cpus (actors that wait need no core of their own)"
        )
    gpus = ray_init.get("num_gpus")
    if gpus is not None and slots > gpus:
        yield (
            f"trainer.n_gpus_per_node * trainer.nnodes = {slots} training processes do not fit "
            f"ray_kwargs.ray_init.num_gpus = {gpus} slots; make them equal"
        )
