"""The plan: what shares a GPU in each phase of a step, whether it fits, how far the settings can go, and what helps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.memory.gpus import GPU, Device
from verl_ext.memory.model_shape import ModelShape
from verl_ext.memory.passes import Moment, RankModel, greatest
from verl_ext.memory.rollout import make_rollout
from verl_ext.memory.run_models import RunModels, read_models

_TOKEN_STEP = 512
_UTILIZATION_STEP = 0.01
MIB = 1024**2


@dataclass(frozen=True)
class Phase:
    """A phase of a step at its worst moment.

    Attributes:
        name: what the run does then.
        moment: the worst moment of it.
        parts: bytes by what they are.
    """

    name: str
    moment: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """A run on a kind of device.

    Attributes:
        device: what holds it: a GPU one rank, a machine all of its ranks.
        models: what shares it.
        phases: of a step, in order.
        reserve: bytes left for what is not computed: contexts, communication, fragmentation.
        ranks: on the device.
    """

    device: Device
    models: RunModels
    phases: list[Phase]
    reserve: float
    ranks: int = 1

    @property
    def peak(self) -> Phase:
        """The phase that holds most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def generates(self) -> bool:
        """Whether the cache holds a sequence of full length; the engine does not start otherwise."""
        return self.models.rollout.at_once(self.models.rollout.context) >= 1

    @property
    def fits(self) -> bool:
        return self.peak.total <= self.device.memory and self.generates

    def candidates(self) -> Iterator[list[str]]:
        """Settings that may help where it does not fit."""
        yield from _candidates(self)

    def as_dict(self) -> dict[str, Any]:
        """The figures, for JSON; bytes."""
        models = [self.models.actor, self.models.critic, self.models.reference]
        return {
            "gpu": {"name": self.device.name, "memory": self.device.memory},
            "fits": self.fits,
            "peak": self.peak.name,
            "models": {model.role.name: _sizes(model) for model in models if model is not None},
            "phases": {
                phase.name: {"total": phase.total, "moment": phase.moment, **phase.parts} for phase in self.phases
            },
        }


def _sizes(model: RankModel) -> dict[str, float]:
    return {
        "parameters": model.role.parameters,
        "weights": model.weights,
        "gradients": model.gradients,
        "optimizer": model.optimizer,
        "resting": model.resting(),
    }


def make_plan(config: DictConfig, shape: ModelShape, critic_shape: ModelShape, gpu: GPU, reserve: float) -> Plan:
    """Plan a composed config.

    Raises:
        ValueError: as :func:`read_models`.
    """
    models = read_models(config, shape, critic_shape, make_rollout(config, shape, gpu))
    rollout = models.rollout
    # verl/workers/engine_workers.py, update_weights: the rollout's weights are back, its cache is not yet; the actor's
    # tensors are made whole one after the other, and go over in buckets.
    sync = {"rollout": max(rollout.weights, rollout.asleep), "gathered": largest_tensor(models) + bucket_of(config)}
    return Plan(gpu, models, list(phases_of(models, {"reserve": reserve}, sync)), reserve)


def bucket_of(config: DictConfig) -> float:
    """Bytes of the bucket that new weights go over in."""
    return float(config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes * MIB)


def largest_tensor(models: RunModels) -> float:
    """Bytes of the actor's largest weight."""
    return float(models.rollout.shape.embedding * models.actor.weight_bytes)


def phases_of(models: RunModels, fixed: dict[str, float], sync: dict[str, float], ranks: int = 1) -> Iterator[Phase]:
    """The phases of a step.

    Args:
        models: of the run.
        fixed: what is there in each phase, whatever it is.
        sync: what each rank's weight sync holds beside the models.
        ranks: on the device.
    """
    rollout, actor, critic, reference = models.rollout, models.actor, models.critic, models.reference
    resting = {model.role.name: model.resting() for model in (actor, critic, reference) if model is not None}

    def made(name: str, moment: str, parts: dict[str, float]) -> Phase:
        return Phase(name, moment, {part: ranks * size for part, size in parts.items()} | fixed)

    def phase(name: str, model: RankModel, moments: list[Moment], *, training: bool) -> Phase:
        worst = greatest(moments)
        held = resting | {model.role.name: model.loaded(training=training)}
        parts = {"rollout": rollout.asleep, **held, "gradients": worst.gradients, "gathered": worst.gathered}
        return made(name, worst.name, parts | {"activations": worst.activations, "logits": worst.logits})

    def tokens(name: str) -> int:
        return models.tokens[name].tokens

    yield made("generation", "", {"rollout": rollout.share, **resting})
    old = "old log-probs"
    yield phase(old, actor, actor.infer(tokens(old), entropy=True), training=False)
    if reference is not None:
        name = "reference log-probs"
        yield phase(name, reference, reference.infer(tokens(name), entropy=False), training=False)
    if critic is not None:
        yield phase("values", critic, critic.infer(tokens("values"), entropy=False), training=False)
        yield phase("critic update", critic, critic.update(tokens("critic update")), training=True)
    yield phase("actor update", actor, actor.update(tokens("actor update")), training=True)
    yield made("weight sync", "", resting | {"actor": actor.loaded(training=False)} | sync)


# ---- How far the settings can go ----


def greatest_tokens(plan: Plan, name: str) -> int:
    """The most tokens a rank's micro-batch may have in a pass, in steps of 512; 0 if not even one step fits."""
    models = plan.models
    model = models.critic if name in ("values", "critic update") else models.actor
    if name == "reference log-probs":
        model = models.reference
    assert model is not None
    training = name.endswith("update")
    phase = next(phase for phase in plan.phases if phase.name == name)
    now = {"gradients", "gathered", "activations", "logits"}
    room = plan.device.memory - sum(size for part, size in phase.parts.items() if part not in now)

    def fits(tokens: int) -> bool:
        moments = model.update(tokens) if training else model.infer(tokens, entropy=name == "old log-probs")
        return plan.ranks * greatest(moments).total <= room

    return _greatest(fits, _TOKEN_STEP)


def _greatest(fits: Callable[[int], bool], step: int) -> int:
    """The greatest multiple of a step that fits."""
    low, high = 0, 1
    while fits(high * step):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle)
    return low * step


def greatest_utilization(plan: Plan) -> float:
    """The greatest ``gpu_memory_utilization`` beside what rests on the GPU, in steps of 0.01."""
    generation = plan.phases[0]
    on_top = plan.models.rollout.share - plan.device.memory * plan.models.rollout.config.gpu_memory_utilization
    room = plan.device.memory - (generation.total - generation.parts["rollout"]) - on_top
    # A rollout that does not sleep is there in every other phase too.
    if plan.models.rollout.asleep:
        others = [phase.total - phase.parts["rollout"] for phase in plan.phases]
        room = plan.device.memory - max(others) - on_top
    return max(0.0, room / plan.device.memory // _UTILIZATION_STEP * _UTILIZATION_STEP)


# ---- What helps ----


@dataclass(frozen=True)
class Remedy:
    """Settings that lower the peak, and the plan with them."""

    overrides: list[str]
    plan: Plan


def remedies(plan: Plan, config: DictConfig, remake: Callable[[DictConfig], Plan]) -> list[Remedy]:
    """Settings that make a plan fit, or lower its peak; the best first.

    Args:
        plan: one that does not fit.
        config: what it is of.
        remake: makes the plan of a config.
    """
    found = []
    for overrides in plan.candidates():
        changed = copy.deepcopy(config)
        OmegaConf.set_struct(changed, False)
        changed.merge_with_dotlist([override.lstrip("+") for override in overrides])
        try:
            remade = remake(changed)
        except ValueError:  # sizes that this model or cluster does not divide by
            continue
        if remade.fits or (plan.generates and remade.generates and remade.peak.total < plan.peak.total):
            found.append(Remedy(overrides, remade))
    return sorted(found, key=lambda remedy: (not remedy.plan.fits, len(remedy.overrides), remedy.plan.peak.total))


def _candidates(plan: Plan) -> Iterator[list[str]]:
    models = plan.models
    trained = [model.role for model in (models.actor, models.critic) if model is not None]
    weights = [f"{role.field}.param_offload=true" for role in trained if not role.engine.param_offload]
    optimizers = [f"{role.field}.optimizer_offload=true" for role in trained if not role.engine.optimizer_offload]
    yield from (settings for settings in (optimizers, weights, optimizers + weights) if settings)
    utilization = greatest_utilization(plan)
    if 0 < utilization < models.rollout.config.gpu_memory_utilization:
        yield [f"actor_rollout_ref.rollout.gpu_memory_utilization={utilization:.2f}"]
    shorter = list(_shorter_passes(plan))
    if shorter:
        yield shorter
        yield shorter + optimizers + weights
    tensor = models.rollout.tensor
    yield [f"actor_rollout_ref.rollout.tensor_model_parallel_size={2 * tensor}"]
    if not models.rollout.config.free_cache_engine:
        yield ["actor_rollout_ref.rollout.free_cache_engine=true", "actor_rollout_ref.rollout.enable_sleep_mode=true"]
    if models.actor.role.engine.strategy == "megatron":
        for size in (2, 4, 8):
            yield [f"{role.field}.tensor_model_parallel_size={size}" for role in trained]
    elif not models.actor.role.fused_head:
        yield ["actor_rollout_ref.model.use_fused_kernels=true"]


def _shorter_passes(plan: Plan) -> Iterator[str]:
    """The setting of each pass that does not fit, at the most that does."""
    settings: dict[str, int] = {}
    for phase in plan.phases:
        bound = plan.models.tokens.get(phase.name)
        if bound is None or phase.total <= plan.device.memory or "max_token_len" not in bound.field:
            continue
        most = greatest_tokens(plan, phase.name)
        if most >= plan.models.rollout.context:  # verl refuses a bound below the longest sequence
            settings[bound.field] = min(most, settings.get(bound.field, most))
    yield from (f"{field}={tokens}" for field, tokens in settings.items())
