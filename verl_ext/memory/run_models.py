"""Reads a composed config: which models each rank holds under which engine, and how many tokens their passes have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import CriticConfig

from verl_ext.memory.fsdp import FSDPModel
from verl_ext.memory.megatron import MegatronModel
from verl_ext.memory.model_shape import ModelShape
from verl_ext.memory.passes import RankModel, Role
from verl_ext.memory.rollout import Rollout
from verl_ext.model import attention
from verl_ext.model.parallel_sizes import size_errors


@dataclass(frozen=True)
class PassTokens:
    """Tokens of a micro-batch on a rank, and the setting that bounds them."""

    tokens: int
    field: str


@dataclass(frozen=True)
class Lengths:
    """Tokens of an episode, prompt included.

    Attributes:
        mean: over the episodes; an assumption. Where batches are padded, each row of it is as long as the longest.
        longest: at most.
    """

    mean: float
    longest: int


@dataclass(frozen=True)
class RunModels:
    """All that shares a GPU, or a machine without one.

    Attributes:
        world: ranks of the run.
        rollout: the engine that generates.
        actor, critic, reference: the models; None where the run has none.
        tokens: for each pass (``actor update``, ``old log-probs``, ...) its micro-batches.
    """

    world: int
    rollout: Rollout
    actor: RankModel
    critic: RankModel | None
    reference: RankModel | None
    tokens: dict[str, PassTokens]


def read_models(
    config: DictConfig, shape: ModelShape, critic_shape: ModelShape, rollout: Rollout, mean_tokens: float | None = None
) -> RunModels:
    """The models of a composed config.

    Args:
        config: it.
        shape: of the actor's model.
        critic_shape: of the critic's.
        rollout: the engine that generates.
        mean_tokens: of an episode, prompt included; as many as the longest has, where it is not given.

    Raises:
        ValueError: a setting that the plan does not know, or sizes that do not fit each other; it is named.
    """
    errors = list(size_errors(config, shape, critic_shape if need_critic(config) else None))
    if errors:
        raise ValueError("\n".join(errors))
    hybrid = config.actor_rollout_ref
    lengths = Lengths(min(mean_tokens or rollout.context, rollout.context), rollout.context)
    _refuse_lora(hybrid.model, "actor_rollout_ref.model")
    _refuse_lora(config.critic.model, "critic.model")
    actor = _model("actor", hybrid.actor, "actor_rollout_ref.actor", shape, config, lengths)
    reference = critic = None
    if need_reference_policy(config):
        reference = _model("reference", hybrid.ref, "actor_rollout_ref.ref", shape, config, lengths)
    if need_critic(config):
        critic = _model("critic", config.critic, "critic", critic_shape, config, lengths)
    passes = _pass_tokens(config, actor, critic, lengths.longest)
    return RunModels(rollout.world, rollout, actor, critic, reference, passes)


def _refuse_lora(model: Any, field: str) -> None:
    if model.get("lora_rank", 0) or (model.get("lora") or {}).get("rank", 0):
        raise ValueError(f"{field}.lora_rank = {model.lora_rank}: the plan knows full training only; set it to 0")


def _model(name: str, node: Any, field: str, shape: ModelShape, config: DictConfig, lengths: Lengths) -> RankModel:
    strategy = node.strategy
    is_megatron = strategy == "megatron"
    if not is_megatron and strategy not in ("fsdp", "fsdp2"):
        raise ValueError(f"{field}.strategy = {strategy!r}: the plan knows fsdp, fsdp2 and megatron")
    key = "megatron" if is_megatron else "fsdp" if name == "critic" else "fsdp_config"
    engine = omega_conf_to_dataclass(node[key])
    if not is_megatron:
        # As verl does it (workers/config/actor.py, line 325).
        object.__setattr__(engine, "strategy", strategy)
    model = config.critic.model if name == "critic" else config.actor_rollout_ref.model
    actor = config.actor_rollout_ref.actor
    on_cpu = config.trainer.device == "cpu"
    packed = model.use_remove_padding or not on_cpu
    implementation = attention.implementation(model)
    role = Role(
        name=name,
        field=f"{field}.{key}",
        shape=shape,
        engine=engine,
        trains=name != "reference",
        checkpointing=model.enable_gradient_checkpointing,
        fused_head=bool(model.get("use_fused_kernels", False)),
        temperature_is_one=config.actor_rollout_ref.rollout.temperature == 1,
        entropy_in_update=actor.calculate_entropy or actor.entropy_coeff != 0,
        on_cpu=on_cpu,
        packed=packed,
        by_sequence=packed and implementation == attention.NAME,
        flash=attention.is_flash(implementation),
        padding=1.0 if packed else lengths.longest / lengths.mean,
        longest=lengths.longest,
    )
    world = config.trainer.nnodes * config.trainer.n_gpus_per_node
    return MegatronModel(role, world) if is_megatron else FSDPModel(role, world)


def _pass_tokens(config: DictConfig, actor: RankModel, critic: RankModel | None, context: int) -> dict[str, PassTokens]:
    hybrid = config.actor_rollout_ref
    # What is given to a pass; where it pads, the rows of a micro-batch are as long as the longest only then.
    given = round(context / actor.role.padding)
    passes = {
        "old log-probs": _tokens(hybrid.rollout, "actor_rollout_ref.rollout", "log_prob_", given),
        "actor update": _tokens(hybrid.actor, "actor_rollout_ref.actor", "ppo_", given),
    }
    if need_reference_policy(config):
        passes["reference log-probs"] = _tokens(hybrid.ref, "actor_rollout_ref.ref", "log_prob_", given)
    if critic is not None:
        # verl's trainer takes this setting for both passes of the critic, and leaves ppo_max_token_len_per_gpu and
        # use_dynamic_bsz unread (trainer/ppo/v1/trainer_base.py, line 267). Our configs tie it to the former.
        name = "ppo_infer_max_token_len_per_gpu"
        bound = PassTokens(config.critic.get(name) or getattr(CriticConfig, name), f"critic.{name}")
        passes |= {"values": bound, "critic update": bound}
    for name, model, mini_batch in (
        ("actor update", actor, hybrid.actor.ppo_mini_batch_size),
        ("critic update", critic, config.critic.ppo_mini_batch_size),
    ):
        if model is not None:
            most = _mini_batch_tokens(config, model, mini_batch, round(context / model.role.padding))
            passes[name] = PassTokens(min(passes[name].tokens, most), passes[name].field)
    return passes


def _tokens(node: Any, field: str, prefix: str, context: int) -> PassTokens:
    is_dynamic = node.log_prob_use_dynamic_bsz if prefix == "log_prob_" else node.use_dynamic_bsz
    if is_dynamic:
        return PassTokens(node[f"{prefix}max_token_len_per_gpu"], f"{field}.{prefix}max_token_len_per_gpu")
    name = f"{field}.{prefix}micro_batch_size_per_gpu"
    rows = node[f"{prefix}micro_batch_size_per_gpu"]
    if not rows:
        raise ValueError(f"{name} = {rows}: set it, or use_dynamic_bsz to True")
    return PassTokens(rows * context, name)


def _mini_batch_tokens(config: DictConfig, model: RankModel, mini_batch: int, context: int) -> int:
    """Tokens that a rank's part of a mini-batch has at most."""
    engine = model.role.engine
    world = config.trainer.nnodes * config.trainer.n_gpus_per_node
    if isinstance(model, MegatronModel):
        copies, split = world // (model.tensor * model.pipeline), engine.context_parallel_size
    else:
        copies, split = world, engine.ulysses_sequence_parallel_size
    rows = mini_batch * config.actor_rollout_ref.rollout.n / (copies / split)
    return max(1, round(rows * context / split))
