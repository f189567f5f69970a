"""Start-up check: values that no run can have, told before anything is computed with them.

Later they would be a division by zero, a run that never ends its first step, or weights of NaN.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multi_attempt.config import TaskSettings
from verl_ext.names import NAME

_ACTOR, _CRITIC, _ROLLOUT = "actor_rollout_ref.actor", "critic", "actor_rollout_ref.rollout"

# What is read as a mapping; without it there is nothing to check.
_SECTIONS = (
    *("data", "trainer", "trainer.v1", "algorithm", "ray_kwargs", "ray_kwargs.ray_init"),
    *("actor_rollout_ref", "actor_rollout_ref.model", _ACTOR, f"{_ACTOR}.optim", _ROLLOUT),
    *(f"{_ROLLOUT}.agent", f"{_ROLLOUT}.checkpoint_engine", f"{_ROLLOUT}.val_kwargs"),
    *(_CRITIC, f"{_CRITIC}.model", f"{_CRITIC}.optim", "reward", "reward.reward_manager"),
    "transfer_queue.backend.SimpleStorage",
)

_COUNTS = (
    *("data.train_batch_size", "data.max_prompt_length", "data.max_response_length"),
    *("trainer.n_gpus_per_node", "trainer.nnodes", "trainer.total_epochs"),
    *(f"{_ROLLOUT}.n", f"{_ROLLOUT}.val_kwargs.n", f"{_ROLLOUT}.prompt_length", f"{_ROLLOUT}.response_length"),
    *(f"{_ROLLOUT}.{kind}_parallel_size" for kind in ("tensor_model", "data", "pipeline_model")),
    *(f"{_ACTOR}.ppo_mini_batch_size", f"{_ACTOR}.ppo_epochs", f"{_ROLLOUT}.agent.num_workers"),
    "transfer_queue.backend.SimpleStorage.num_data_storage_units",
)

# Null for verl's own choice; and of an engine that is not chosen there may be no section.
_COUNTS_OR_NULL = (
    *("data.val_batch_size", "trainer.total_training_steps", f"{_ROLLOUT}.max_model_len"),
    *("ray_kwargs.ray_init.num_cpus", f"{_CRITIC}.ppo_mini_batch_size", f"{_CRITIC}.ppo_epochs"),
    *(f"{_ACTOR}.ppo_max_token_len_per_gpu", f"{_CRITIC}.ppo_max_token_len_per_gpu"),
    *(
        f"{role}.megatron.{kind}_parallel_size"
        for role in (_ACTOR, "actor_rollout_ref.ref", _CRITIC)
        for kind in ("tensor_model", "pipeline_model", "context", "expert_model")
    ),
    *(
        f"{engine}.ulysses_sequence_parallel_size"
        for engine in (f"{_ACTOR}.fsdp_config", "actor_rollout_ref.ref.fsdp_config", f"{_CRITIC}.fsdp")
    ),
)

_WHOLE = ("trainer.save_freq", "trainer.test_freq")
_NOT_NEGATIVE = (
    *(f"{_ACTOR}.optim.lr", f"{_CRITIC}.optim.lr", f"{_ROLLOUT}.val_kwargs.temperature"),
    *(f"{_ACTOR}.clip_ratio", f"{_ACTOR}.clip_ratio_low", f"{_ACTOR}.clip_ratio_high", f"{_CRITIC}.cliprange_value"),
)


def _whole(least: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and value >= least


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


_Rule = tuple[tuple[str, ...], Callable[[Any], bool], str]

_RULES: tuple[_Rule, ...] = (
    (_COUNTS, _whole(1), "a whole number of at least 1"),
    (_COUNTS_OR_NULL, lambda value: value is None or _whole(1)(value), "a whole number of at least 1, or null"),
    (_WHOLE, _whole(-math.inf), "a whole number, or -1 for never"),
    (_NOT_NEGATIVE, lambda value: _real(value) and value >= 0, "a number of at least 0"),
    # At 0 the log-probabilities of training divide by nothing.
    ((f"{_ROLLOUT}.temperature",), lambda value: _real(value) and value > 0, "a number above 0"),
    (("algorithm.gamma", "algorithm.lam"), lambda value: _real(value) and 0 <= value <= 1, "a number from 0 to 1"),
    ((f"{_ROLLOUT}.top_p",), lambda value: _real(value) and 0 < value <= 1, "a number above 0, to 1"),
)


def value_errors(config: DictConfig) -> Iterator[str]:
    """What of a composed config no run can have: one line for each field, with its value and the remedy."""
    missing = [name for name in _SECTIONS if not isinstance(OmegaConf.select(config, name), DictConfig)]
    if missing:
        for name in missing:
            value = OmegaConf.select(config, name)
            yield f"{name} = {value!r} must be a mapping; leave it as --config-name multi_attempt has it"
        return
    # Hydra's own section knows things that only a sweep has (hydra.job.num).
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        values = OmegaConf.to_container(ours, resolve=True)
    except OmegaConfBaseException as error:
        yield f"{error.full_key}: {str(error).splitlines()[0]}; give it a value"
        return
    wrong = list(_out_of_range(config))
    yield from (f"{field} = {value!r} must be {wanted}; correct it" for field, value, wanted in wrong)
    named = {field for field, _, _ in wrong}
    for field, value in _numbers(values):
        # Ours are checked where they are read; one of them may be infinite.
        if not math.isfinite(value) and field not in named and not field.startswith(f"{NAME}."):
            yield f"{field} = {value} must be a finite number; correct it"
    yield from _lengths(config)
    yield from _estimator(config)
    yield from _checkpoint_folder(config)


def _out_of_range(config: DictConfig) -> Iterator[tuple[str, Any, str]]:
    for fields, holds, wanted in _RULES:
        for field in fields:
            value = OmegaConf.select(config, field)
            if isinstance(value, bool) or not holds(value):
                yield field, value, wanted


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The floats of a container, by their dotted paths."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{path}[{number}]")
    elif isinstance(value, float):
        yield path, value


def _lengths(config: DictConfig) -> Iterator[str]:
    # verl fills prompts and responses up to the rollout's lengths, and cuts the data by the others.
    for kind in ("prompt", "response"):
        rollout, data = config.actor_rollout_ref.rollout[f"{kind}_length"], config.data[f"max_{kind}_length"]
        if rollout != data:
            yield (
                f"{_ROLLOUT}.{kind}_length = {rollout} contradicts data.max_{kind}_length = {data}; set the second "
                "alone, which the first follows"
            )


def _estimator(config: DictConfig) -> Iterator[str]:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    estimator = config.algorithm.adv_estimator
    if estimator not in ADV_ESTIMATOR_REGISTRY:
        yield (
            f"algorithm.adv_estimator = {estimator!r} is none that verl knows; use gae, as in the paper, or one of "
            f"{', '.join(sorted(set(ADV_ESTIMATOR_REGISTRY) - {'gae'}))}"
        )


# Those that take an episode of several samples for one: grpo by verl's own hand (trainer/ppo/v1/utils.py, line 148),
# gae and reinforce_plus_plus since they compare no samples of a question.
_OF_EPISODES = ("gae", "grpo", "reinforce_plus_plus")


def history_errors(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    """What cannot be had where each attempt is a sample of its own."""
    if not settings.kept.apart:
        return
    kept = f"multi_attempt.history = {settings.history} makes each attempt a sample of its own"
    estimator = config.algorithm.adv_estimator
    if estimator not in _OF_EPISODES:
        yield (
            f"algorithm.adv_estimator = {estimator}: {kept}, and this estimator compares the samples of a question, in "
            f"which an episode would count once for each of its attempts; use {', '.join(_OF_EPISODES[:-1])} or "
            f"{_OF_EPISODES[-1]}, or multi_attempt.history=full"
        )
    if settings.reward.per_attempt != "episode":
        yield (
            f"multi_attempt.reward.per_attempt = {settings.reward.per_attempt!r}: {kept}, and verl gives each of them "
            "the reward of the last; set it to episode, or multi_attempt.history=full"
        )
    if OmegaConf.select(config, "algorithm.filter_groups.enable") and config.actor_rollout_ref.rollout.n == 1:
        yield (
            f"algorithm.filter_groups.enable = True: {kept}, and verl would throw away each question of one episode "
            "with several of them, whose rewards are the same; set it to False, or actor_rollout_ref.rollout.n above 1"
        )
    if OmegaConf.select(config, "distillation.enabled"):
        yield (
            f"distillation.enabled = True: {kept}, and verl asks the teacher about the last sample of an episode "
            "alone; set it to False, or multi_attempt.history=full"
        )


def _checkpoint_folder(config: DictConfig) -> Iterator[str]:
    """Whether checkpoints can be written; leaves nothing behind."""
    folder = config.trainer.default_local_dir
    if not isinstance(folder, str) or not folder:
        yield f"trainer.default_local_dir = {folder!r} is no folder; name the one for checkpoints"
        return
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        yield (
            f"trainer.default_local_dir = {folder}: nothing can be written in {there} ({error.strerror}), so that the "
            "first checkpoint would end the run; name a folder that can be written"
        )
