"""What the ranks do: build verl's workers by the plugin's configs, and train them.

Each function runs in all processes of :class:`ranks.Ranks` at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import verl.utils.tensordict_utils as tu
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from safetensors.torch import load_file
from tensordict import TensorDict
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.utils.losses import value_loss
from verl.workers.utils.padding import response_from_nested

from verl_ext.memory.gpus import named_gpu
from verl_ext.memory.megatron import BF16, MegatronModel
from verl_ext.memory.model_shape import read_shape
from verl_ext.memory.rollout import make_rollout
from verl_ext.memory.run_models import read_models
from verl_ext.model.model_config import ACTOR_MODEL

# What the trainer adds to a batch (verl/trainer/ppo/v1/trainer_base.py, _compute_old_log_prob and _update_actor).
_INFERENCE = {"calculate_entropy": False, "compute_loss": False, "temperature": 1.0}
_TRAINING = {
    "calculate_entropy": False,
    "distillation_use_topk": False,
    "distillation_only": False,
    "temperature": 1.0,
    "seed": 42,
    "dataloader_kwargs": {"shuffle": False},
}


@dataclass(frozen=True)
class Setup:
    """How a model is trained.

    Attributes:
        engine: ``megatron`` or ``fsdp``.
        model: the model's folder.
        tensor: Megatron's tensor parallel size; the ranks that are left are data parallel.
        pipeline: Megatron's pipeline parallel size.
        precision: ``bf16``, or ``fp32`` on FSDP: what Megatron and FSDP in bf16 both stand for.
        plugin: whether the critic's engine is the plugin's or verl's own.
    """

    engine: str
    model: Path
    tensor: int = 1
    pipeline: int = 1
    precision: str = "bf16"
    plugin: bool = True


@dataclass
class Training:
    """What a rank saw of a training run; a rank without the model's output has nothing.

    Attributes:
        output: log-probability or value of each response token before the training, a list for each of its rows.
        metrics: verl's metrics, each a list with one number a step.
    """

    output: list[list[float]] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Exported weights beside those of a checkpoint, by their Hugging Face names."""

    equal: list[str]
    different: list[str]
    missing: list[str]
    unknown: list[str]


@dataclass(frozen=True)
class Kept:
    """Bytes that a rank keeps of a model between its passes."""

    weights: float
    gradients: float
    optimizer: float


@dataclass(frozen=True)
class Resumption:
    """A model that was trained and saved; and that went on, as it was, and as a new one that loaded it.

    Attributes:
        files: the checkpoint's model in Hugging Face format.
        weights: those that were loaded, beside the ones in the files.
        before: verl's metrics of the next step, of the one that was saved.
        after: the same of the one that loaded it.
    """

    files: Path
    weights: Comparison
    before: dict[str, list[float]]
    after: dict[str, list[float]]


def compare_weights(role: str, setup: Setup) -> Comparison:
    """Load a checkpoint into Megatron, export it as a rollout gets it, and compare bit by bit."""
    _begin(setup)
    return _compare(_worker(role, setup).engine, setup.model)


def refusal(role: str, setup: Setup) -> str:
    """What building a model says when it fails, on every rank by itself."""
    _begin(setup)
    try:
        _worker(role, setup)
    except (KeyError, ValueError) as error:  # of a checkpoint in several files, or in one
        return str(error)
    return ""


def train(role: str, setup: Setup, rows: list[dict[str, Any]], steps: int) -> Training:
    """What the model says of the rows, then steps on all of them at once."""
    _begin(setup)
    worker = _worker(role, setup)
    return Training(_infer(worker, rows), _train(worker, rows, steps))


def optimizer_settings(role: str, setup: Setup) -> list[dict[str, Any]]:
    """What the parameter groups of a worker's optimizer say of Adam."""
    _begin(setup)
    engine: Any = _worker(role, setup).engine
    optimizer = engine.optimizer
    return [{key: group[key] for key in ("betas", "weight_decay")} for group in optimizer.param_groups]


def resume(role: str, setup: Setup, rows: list[dict[str, Any]], folder: Path) -> Resumption:
    """Train a model, in a process with actor and critic as verl has them, save it, and go on from there twice."""
    _begin(setup)
    worker = _worker(role, setup)
    _worker("actor" if role == "critic" else "critic", setup)
    _train(worker, rows, steps=1)
    worker.save_checkpoint(str(folder), global_step=1)
    before = _train(worker, rows, steps=1)
    resumed = _worker(role, setup)
    resumed.load_checkpoint(str(folder))
    files = next(folder.rglob("*.safetensors")).parent
    weights = _compare(resumed.engine, files)
    return Resumption(files.relative_to(folder), weights, before, _train(resumed, rows, steps=1))


# ---- Workers ----


def _config(setup: Setup) -> DictConfig:
    overrides = [
        f"engine={setup.engine}",
        f"actor_rollout_ref.model.path={setup.model}",
        f"trainer.n_gpus_per_node={torch.distributed.get_world_size()}",
        # No Transformer Engine and no flash attention, so no packed sequences.
        "actor_rollout_ref.model.use_remove_padding=false",
        "critic.model.use_remove_padding=false",
        # So small that a step takes several micro-batches, each with room for an episode.
        "data.max_prompt_length=64",
        "data.max_response_length=448",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=512",
        "critic.ppo_max_token_len_per_gpu=512",
        # Enough for a step to change the next one's loss.
        "actor_rollout_ref.actor.optim.lr=1e-4",
        "critic.optim.lr=1e-4",
        "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0",
        "critic.optim.lr_warmup_steps_ratio=0",
        "actor_rollout_ref.actor.optim.total_training_steps=100",
        "critic.optim.total_training_steps=100",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("multi_attempt", overrides=overrides + list(_engine_overrides(setup)))


def _engine_overrides(setup: Setup) -> Iterable[str]:
    if setup.engine == "megatron":
        for role in ("actor_rollout_ref.actor", "critic"):
            yield f"{role}.megatron.tensor_model_parallel_size={setup.tensor}"
            yield f"{role}.megatron.pipeline_model_parallel_size={setup.pipeline}"
            yield f"{role}.megatron.override_transformer_config.attention_backend=local"
            # Megatron's optimizer cannot be loaded where torch's Adam stands in for Transformer Engine's.
            yield f"{role}.checkpoint.load_contents=[model]"
        return
    for role in ("actor_rollout_ref.model", "critic.model"):
        yield f"{role}.override_config.attn_implementation=sdpa"
    for role, key in (("actor_rollout_ref.actor", "fsdp_config"), ("critic", "fsdp")):
        yield f"{role}.strategy=fsdp2"
        yield f"{role}.{key}.use_torch_compile=false"
        if setup.precision == "fp32":
            yield f"{role}.{key}.dtype=float32"
            yield f"+{role}.{key}.mixed_precision={{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}}"


def _begin(setup: Setup) -> None:
    """Make the process as good as new: no groups of other sizes, and no names of another model's weights."""
    for name in ("VERL_ENGINE_DEVICE", "VERL_ENGINE_VENDOR"):
        os.environ.pop(name, None)
    if setup.engine != "megatron":
        return
    from mbridge.models.qwen2 import Qwen2Bridge
    from megatron.core import parallel_state

    from verl_ext.training import megatron_critic  # noqa: F401 - registers itself

    # verl's registry knows Megatron's engines by a GPU; the plugin's critic by the GPU's vendor.
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"
    if setup.plugin:
        os.environ["VERL_ENGINE_VENDOR"] = "nvidia"
    if parallel_state.is_initialized():
        parallel_state.destroy_model_parallel()
    Qwen2Bridge._DIRECT_MAPPING["output_layer.weight"] = "lm_head.weight"


def _worker(role: str, setup: Setup) -> TrainingWorker:
    """The worker of the ``actor`` or the ``critic``, with its model loaded."""
    config = _config(setup)
    if role == "critic":
        return _critic(config)
    outer = ActorRolloutRefWorker(config.actor_rollout_ref, role="actor")
    outer.init_model()
    assert outer.actor is not None
    return outer.actor


def _critic(trainer_config: DictConfig) -> TrainingWorker:
    """As the trainer makes it (verl/trainer/ppo/v1/trainer_base.py, line 265)."""
    config = omega_conf_to_dataclass(trainer_config.critic)
    config.engine.infer_max_token_len_per_gpu = config.ppo_infer_max_token_len_per_gpu
    config.engine.max_token_len_per_gpu = config.ppo_infer_max_token_len_per_gpu
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="value_model",
            model_config=config.model,
            engine_config=config.engine,
            optimizer_config=config.optim,
            checkpoint_config=config.checkpoint,
            profiler_config=None,  # type: ignore[arg-type]
        )
    )
    worker.reset()
    worker.set_loss_fn(partial(value_loss, config=config))
    return worker


# ---- Batches ----


def _batch(worker: TrainingWorker, rows: list[dict[str, Any]], **extra: Any) -> TensorDict:
    """This rank's part of the rows, as the trainer hands it to a worker."""
    count = len(rows) // worker.engine.get_data_parallel_size()
    start = count * worker.engine.get_data_parallel_rank()
    batch = tu.list_of_dict_to_tensordict([_tensors(row) for row in rows[start : start + count]])
    tu.assign_non_tensor(batch, **extra)
    return batch


def _tensors(row: dict[str, Any]) -> dict[str, Any]:
    # As verl/trainer/ppo/v1/agent_loop_tq.py, _agent_loop_postprocess, makes them.
    fields = {name: torch.tensor(values) for name, values in row.items()}
    fields["loss_mask"] = fields["response_mask"]
    fields["input_ids"] = torch.cat([fields["prompts"], fields["responses"]])
    fields["position_ids"] = torch.arange(len(fields["input_ids"]))
    return fields


def _infer(worker: TrainingWorker, rows: list[dict[str, Any]]) -> list[list[float]]:
    batch = _batch(worker, rows, **_INFERENCE)
    output = worker.infer_batch(batch)
    if output is None:
        return []
    name = "values" if "values" in output else "log_probs"
    return [row.tolist() for row in response_from_nested(output[name], batch["response_mask"]).unbind()]


def _train(worker: TrainingWorker, rows: list[dict[str, Any]], steps: int) -> dict[str, list[float]]:
    extra = {**_TRAINING, "global_batch_size": len(rows), "mini_batch_size": len(rows), "epochs": steps}
    output = worker.train_mini_batch(_batch(worker, rows, **extra))
    if output is None:
        return {}
    return {name: [float(value) for value in values] for name, values in output["metrics"].items()}


# ---- Weights ----


def _compare(engine: Any, folder: Path) -> Comparison:
    exported, _ = engine.get_per_tensor_param()
    weights = {name: weight.detach().clone() for name, weight in exported}
    expected: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        expected.update(load_file(file))
    both = sorted(weights.keys() & expected.keys())
    equal = [name for name in both if torch.equal(weights[name], expected[name])]
    return Comparison(
        equal=equal,
        different=[name for name in both if name not in equal],
        missing=sorted(expected.keys() - weights.keys()),
        unknown=sorted(weights.keys() - expected.keys()),
    )


# ---- Memory ----


def keep(role: str, setup: Setup, rows: list[dict[str, Any]]) -> tuple[Kept, Kept]:
    """What this rank keeps of a model that has taken a step, and what the memory plan says of it."""
    from megatron.core import parallel_state

    _begin(setup)
    worker = _worker(role, setup)
    _train(worker, rows, steps=1)
    engine: Any = worker.engine
    chunks = list(engine.module)
    buffers = [buffer for chunk in chunks for buffer in chunk.buffers]
    inner = [each.optimizer for each in engine.optimizer.chained_optimizers]
    arrays = [array for each in inner for group in each.param_groups for array in group["params"]]
    moments = [each.state[array][name] for each in inner for array in each.state for name in ("exp_avg", "exp_avg_sq")]
    measured = Kept(
        weights=sum(parameter.nbytes for chunk in chunks for parameter in chunk.parameters()),
        gradients=sum(buffer.grad_data.nbytes for buffer in buffers),
        optimizer=sum(array.nbytes for array in (*arrays, *moments)),
    )
    return measured, _planned(role, _config(setup), parallel_state.get_pipeline_model_parallel_rank())


def _planned(role: str, config: DictConfig, stage: int) -> Kept:
    shape = read_shape(config, ACTOR_MODEL)
    models = read_models(config, shape, shape, make_rollout(config, shape, named_gpu("h100")))
    model = models.critic if role == "critic" else models.actor
    assert isinstance(model, MegatronModel)
    # The plan is of the stage that holds most.
    share = model.stage_parameters(stage) * BF16 / model.weights
    return Kept(share * model.weights, share * model.gradients, share * model.optimizer)
