"""``multi-attempt check``: whether a config is sound, and whether its run fits a GPU, or a machine without one."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from multi_attempt.evaluation.protocols import PROTOCOLS

if TYPE_CHECKING:
    from verl_ext.memory.gpus import Device
    from verl_ext.memory.plan import Plan

DOES_NOT_FIT = 1
"""Exit status when the plan says so, or the start-up check finds a problem: then no run may follow."""

_DEFAULT_GPU = "h100"

# CUDA contexts of the trainer's and the engine's process, NCCL's buffers, graphs that a sleeping engine keeps, and
# memory that the allocator holds in pieces: not computed, but left free. On a machine without GPUs it is mostly the
# last: after 20 steps the process that trains SmolLM2 held 3 GiB more than its tensors.
_RESERVE_GIB = 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config, as for verl.trainer.main_ppo")
    add("--config-name", default="multi_attempt", help="the config (default multi_attempt)")
    add("--model-config", metavar="PATH", help="a folder with the model's config.json, where the hub cannot be reached")
    add("--json", action="store_true", help="the plan as one JSON object, in bytes")
    gpu = parser.add_argument_group("the GPU: by name, or by its figures")
    gpu.add_argument("--gpu", metavar="NAME", help=f"of verl_ext/memory/gpus.yaml (default {_DEFAULT_GPU})")
    gpu.add_argument("--gpu-memory", type=float, metavar="GIB", help="memory that torch reports")
    gpu.add_argument("--gpu-tflops", type=float, metavar="N", help="dense bf16 TFLOPS")
    gpu.add_argument("--gpu-bandwidth", type=float, metavar="GB/S", help="memory bandwidth")
    machine = parser.add_argument_group("the machine, with trainer.device=cpu")
    machine.add_argument("--memory", type=float, metavar="GIB", help="that it has (default this machine's)")
    add(
        "--reserve",
        type=float,
        metavar="GIB",
        default=_RESERVE_GIB,
        help=f"left for contexts, communication and fragmentation (default {_RESERVE_GIB:g})",
    )
    evaluation = parser.add_argument_group("an evaluation instead of the run, by `multi-attempt eval --replicas all`")
    evaluation.add_argument(
        "--evaluation", action="store_true", help="how long the paper's five benchmarks take at the least, on one node"
    )
    evaluation.add_argument(
        "--protocols", nargs="+", choices=[*PROTOCOLS, "all"], metavar="NAME", help="as for eval (default the paper's)"
    )
    evaluation.add_argument("--samples", type=int, metavar="N", help="dialogues of a kind a question (default 1)")
    evaluation.add_argument(
        "--solved",
        type=float,
        metavar="SHARE",
        help="of dialogues, right at the first attempt (default the paper's accuracy with one)",
    )
    cost = parser.add_argument_group("what tokens and hours rest on")
    cost.add_argument(
        "--steps", type=int, help="of the run (default trainer.total_training_steps, or the paper's 1280)"
    )
    cost.add_argument("--prompt-tokens", type=float, metavar="N", help="mean of a question (default 256)")
    cost.add_argument(
        "--attempt-tokens",
        type=float,
        metavar="N",
        help="mean of an attempt (default data.max_response_length / multi_attempt.max_attempts)",
    )
    cost.add_argument(
        "--attempts",
        type=float,
        metavar="N",
        help="mean of an episode (default the mean of those drawn); with --evaluation 1 to N (default 7)",
    )
    cost.add_argument("--mfu", type=float, help="share of the GPU's operations that training reaches (default 0.35)")
    cost.add_argument(
        "--decode-efficiency",
        type=float,
        metavar="SHARE",
        help="of its bandwidth that generation reaches (default 0.5)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check and plan; 0 if the run can start and fits, 1 if not.

    Raises:
        ValueError: an argument, an override or a setting that cannot be planned with; the message names it.
    """
    # verl names each engine that is not installed, and the platform that this machine has not: it need not have one.
    warnings.filterwarnings("ignore", message=".* engine is not available")
    logging.getLogger("verl.plugin.platform.platform_manager").addFilter(lambda record: record.levelno >= logging.ERROR)
    if arguments.model_config:
        # Said to be needed without a network: then nothing waits for one.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    config = compose_config(arguments.config_name, arguments.overrides)
    if not arguments.reserve >= 0:
        raise ValueError(f"--reserve = {arguments.reserve} must not be negative")
    if arguments.model_config:
        _use_model_config(config, arguments.model_config)
    _check_flags(arguments)
    if arguments.evaluation:
        print(_evaluation(config, arguments))
        return 0
    problems = _startup_problems(config)
    try:
        plan, text = _plan(config, arguments, problems)
    except Exception as error:
        # A plan of values that no run can have fails anyhow: the problems say why.
        if problems:
            print(_without_plan(arguments, problems))
        if not problems or isinstance(error, ValueError):
            raise
        return DOES_NOT_FIT
    print(text)
    return DOES_NOT_FIT if problems or not plan.fits else 0


def _check_flags(arguments: argparse.Namespace) -> None:
    of_runs, of_evaluations = ("steps", "mfu", "decode_efficiency"), ("protocols", "samples", "solved")
    for name in of_runs if arguments.evaluation else of_evaluations:
        if getattr(arguments, name) is not None:
            flag = f"--{name.replace('_', '-')} = {getattr(arguments, name)}"
            raise ValueError(
                f"{flag} has no part in the plan of an evaluation; leave it out, or leave out --evaluation"
                if arguments.evaluation
                else f"{flag} is of the plan of an evaluation; give --evaluation too"
            )


def _evaluation(config: DictConfig, arguments: argparse.Namespace) -> str:
    """What is printed of the plan of an evaluation."""
    from verl_ext.memory.evaluation import Asked, default_asked, evaluation_report, plan_evaluation
    from verl_ext.memory.gpus import GPU
    from verl_ext.memory.model_shape import read_shape
    from verl_ext.model.model_config import ACTOR_MODEL

    device = _device(config, arguments)
    if not isinstance(device, GPU):
        raise ValueError(
            f"--evaluation with trainer.device = {config.trainer.device!r}: the plan is by a GPU's bandwidth and "
            "operations; give another --config-name"
        )
    if arguments.protocols and "all" in arguments.protocols:
        arguments.protocols = list(PROTOCOLS)
    given = {
        field.name: value
        for field in dataclasses.fields(Asked)
        if (value := getattr(arguments, field.name)) is not None
    }
    plan = plan_evaluation(config, read_shape(config, ACTOR_MODEL), device, default_asked(config, given))
    return json.dumps(plan.as_dict()) if arguments.json else evaluation_report(plan)


def _without_plan(arguments: argparse.Namespace, problems: Sequence[str]) -> str:
    if arguments.json:
        return json.dumps({"config": arguments.config_name, "problems": list(problems)})
    lines = (f"- {problem}" for problem in problems)
    return "\n".join(["The run cannot start, and there is nothing to plan:", *lines])


def _plan(config: DictConfig, arguments: argparse.Namespace, problems: Sequence[str]) -> tuple[Plan, str]:
    """The plan of a config, and what is printed of it."""
    from verl_ext.memory.cost import check_assumptions, default_assumptions, run_cost
    from verl_ext.memory.gpus import GIB, GPU
    from verl_ext.memory.machine import make_machine_plan
    from verl_ext.memory.model_shape import read_shape
    from verl_ext.memory.plan import make_plan
    from verl_ext.memory.report import report
    from verl_ext.model.model_config import ACTOR_MODEL, CRITIC_MODEL

    device, reserve = _device(config, arguments), arguments.reserve * GIB
    given = {
        field.name: value
        for field in dataclasses.fields(default_assumptions(config))
        if (value := getattr(arguments, field.name)) is not None
    }
    assumed = dataclasses.replace(default_assumptions(config), **given)
    check_assumptions(assumed)
    shape, critic_shape = read_shape(config, ACTOR_MODEL), read_shape(config, CRITIC_MODEL)

    def plan_of(changed: DictConfig) -> Plan:
        if isinstance(device, GPU):
            return make_plan(changed, shape, critic_shape, device, reserve)
        mean_tokens = assumed.prompt_tokens + assumed.response(config)
        return make_machine_plan(changed, shape, critic_shape, device, reserve, mean_tokens)

    plan = plan_of(config)
    cost = run_cost(plan, config, assumed) if isinstance(device, GPU) else None
    if arguments.json:
        costs = {} if cost is None else {"cost": dataclasses.asdict(cost) | {"hours": cost.hours}}
        return plan, json.dumps({"config": arguments.config_name, "problems": problems, **plan.as_dict(), **costs})
    return plan, report(plan, assumed, cost, config, plan_of, problems)


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """The config that ``python -m verl.trainer.main_ppo --config-name NAME OVERRIDES`` has.

    Raises:
        ValueError: there is no such config, or an override is wrong.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # A process that has opened the configs keeps them open.
    is_open = GlobalHydra.instance().is_initialized()
    try:
        with nullcontext() if is_open else initialize_config_module("verl.trainer.config", version_base=None):
            return compose(name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"--config-name {name} {' '.join(overrides)}: {error}") from error


def _device(config: DictConfig, arguments: argparse.Namespace) -> Device:
    from verl_ext.memory.gpus import custom_gpu, named_gpu
    from verl_ext.memory.machine import given_machine, this_machine

    figures = (arguments.gpu_memory, arguments.gpu_tflops, arguments.gpu_bandwidth)
    if config.trainer.device == "cpu":
        if arguments.gpu or figures != (None, None, None):
            raise ValueError("--gpu stands beside trainer.device = 'cpu', a run on no GPU; give --memory, or nothing")
        return this_machine() if arguments.memory is None else given_machine(arguments.memory)
    if arguments.memory is not None:
        raise ValueError(
            f"--memory = {arguments.memory} is of a machine without GPUs, and trainer.device = "
            f"{config.trainer.device!r}; give --gpu, or another --config-name"
        )
    if figures == (None, None, None):
        return named_gpu(arguments.gpu or _DEFAULT_GPU)
    if arguments.gpu:
        raise ValueError(f"--gpu = {arguments.gpu!r} stands beside figures of a GPU; give the one or the others")
    if None in figures:
        raise ValueError("--gpu-memory, --gpu-tflops and --gpu-bandwidth are needed together")
    return custom_gpu("as given", *figures)


def _use_model_config(config: DictConfig, path: str) -> None:
    """Take the actor's config.json from a path; the critic's too, unless it starts from another model."""
    from verl_ext.model.model_config import ACTOR_MODEL, CRITIC_MODEL

    actor, critic = OmegaConf.select(config, ACTOR_MODEL), OmegaConf.select(config, CRITIC_MODEL)
    if not isinstance(actor, DictConfig) or not isinstance(critic, DictConfig):
        return  # which the start-up check tells
    for model in (actor, critic) if critic.path == actor.path else (actor,):
        model.hf_config_path = path


def _startup_problems(config: DictConfig) -> list[str]:
    """What the run's own start-up check says here and now: on the run's machine it may say less, or more."""
    from verl_ext.checks.startup import StartupError, check

    if OmegaConf.select(config, "trainer.device") == "cpu":
        from verl_ext.cpu import platform

        platform.select()
    try:
        check(config)
    except StartupError as error:
        return error.reasons
    except Exception as error:  # as in StartupCheck: what the check itself does not survive, no run may follow
        return [f"the start-up check itself failed: {type(error).__name__}: {error}"]
    return []
