"""The memory plan against what verl's own FSDP engine really holds, on the CPU: within a tenth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose
from omegaconf import DictConfig
from tensordict import TensorDict
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import ppo_loss, value_loss

from verl_ext.memory.gpus import named_gpu
from verl_ext.memory.model_shape import read_shape
from verl_ext.memory.passes import Moment, RankModel, greatest
from verl_ext.memory.run_models import read_models

# Two micro-batches of a rank: when the second is under way, the gradients of the first are there.
ROWS, LENGTH, PROMPT = 8, 256, 64
MICRO_BATCH = ROWS * LENGTH // 2


@dataclass(frozen=True)
class Held:
    """Bytes that an engine holds, and the most that its passes allocate beside."""

    weights: int
    gradients: int
    optimizer: int
    update: int
    infer: int


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("ranks") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model of 19 million random weights: enough that what a pass allocates hangs on its sizes."""
    path = tmp_path_factory.mktemp("model")
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def config_of(folder: Path, checkpointing: bool) -> DictConfig:
    settings = [
        f"{model}.enable_gradient_checkpointing={checkpointing}"
        for model in ("actor_rollout_ref.model", "critic.model")
    ]
    return compose("multi_attempt_cpu", overrides=[f"actor_rollout_ref.model.path={folder}", *settings])


def engine_of(config: DictConfig, role: str) -> tuple[Any, Any]:
    """The engine that verl's worker builds for a role (``workers/engine_workers.py``), and its loss."""
    part = omega_conf_to_dataclass(config.critic if role == "critic" else config.actor_rollout_ref.actor)
    model = part.model if role == "critic" else omega_conf_to_dataclass(config.actor_rollout_ref.model)
    model.model_type = "value_model" if role == "critic" else "language_model"
    part.optim.total_training_steps = 10
    engine = EngineRegistry.new(
        model_type=model.model_type,
        backend=part.engine.strategy,
        model_config=model,
        engine_config=part.engine,
        optimizer_config=part.optim,
        checkpoint_config=part.checkpoint,
    )
    engine.initialize()
    return engine, partial(value_loss if role == "critic" else ppo_loss, config=part)


def batch(vocabulary: int, *, entropy: bool) -> TensorDict:
    """What verl's trainer hands to an engine, all rows of one length."""
    random = torch.Generator().manual_seed(0)
    response = LENGTH - PROMPT

    def rows(*shape: int) -> torch.Tensor:
        return torch.nested.as_nested_tensor(list(torch.randn(*shape, generator=random)), layout=torch.jagged)

    ids = torch.randint(0, vocabulary, (ROWS, LENGTH), generator=random)
    nested = {"input_ids": ids, "prompts": ids[:, :PROMPT], "responses": ids[:, PROMPT:]}
    nested["position_ids"] = torch.arange(LENGTH).expand(ROWS, LENGTH)
    nested |= {name: torch.ones(ROWS, response) for name in ("loss_mask", "response_mask")}
    data = {name: torch.nested.as_nested_tensor(list(rows), layout=torch.jagged) for name, rows in nested.items()}
    data |= {
        name: rows(ROWS, response) for name in ("old_log_probs", "ref_log_prob", "advantages", "values", "returns")
    }
    made = TensorDict(data, batch_size=ROWS)
    tu.assign_non_tensor(
        made,
        use_remove_padding=False,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=MICRO_BATCH,
        use_fused_kernels=False,
        temperature=1.0,
        calculate_entropy=entropy,
        global_batch_size=ROWS,
    )
    return made


def peak_of(profiled: profile) -> int:
    """The most bytes that were allocated at once since the profile began."""
    assert profiled.profiler is not None
    results: Any = profiled.profiler.kineto_results
    events = results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    total = most = 0
    for _, change in changes:
        total += change
        most = max(most, total)
    return most


def measure(config: DictConfig, role: str, vocabulary: int) -> Held:
    engine, loss = engine_of(config, role)

    def local(tensor: torch.Tensor) -> int:
        return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).nbytes

    def allocated(work: Any) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            work()
        return peak_of(profiled)

    data = batch(vocabulary, entropy=False)
    with engine.train_mode():
        engine.train_batch(data, loss)  # AdamW makes its state in its first step
        gradients = sum(local(parameter.grad) for parameter in engine.module.parameters())
        engine.optimizer_zero_grad()
        update = allocated(lambda: engine.forward_backward_batch(data, loss))
    with engine.eval_mode():
        data = batch(vocabulary, entropy=True)
        infer = allocated(lambda: engine.infer_batch(data, loss_function=None))
    states = [value for state in engine.optimizer.state.values() for value in state.values()]
    return Held(sum(map(local, engine.module.parameters())), gradients, sum(map(local, states)), update, infer)


def planned(config: DictConfig, role: str, folder: Path) -> RankModel:
    shape = read_shape(str(folder))
    models = read_models(config, shape, shape, named_gpu("h100"))
    model = models.critic if role == "critic" else models.actor
    assert model is not None
    return model


def worst(moments: list[Moment]) -> float:
    return greatest(moments).total


@pytest.mark.usefixtures("hydra_configs", "one_rank")
@pytest.mark.parametrize(("role", "checkpointing"), [("actor", True), ("critic", True), ("critic", False)])
def test_the_plan_is_within_a_tenth_of_what_the_engine_holds(folder: Path, role: str, checkpointing: bool) -> None:
    config = config_of(folder, checkpointing)
    model = planned(config, role, folder)
    held = measure(config, role, model.role.shape.vocabulary)
    assert model.weights == held.weights
    assert model.gradients == held.gradients
    # AdamW counts its steps for each tensor, in a number of its own.
    assert model.optimizer == pytest.approx(held.optimizer, rel=1e-4)
    # The first moments: the optimiser's step comes after the pass.
    passes = [moment for moment in model.update(MICRO_BATCH) if moment.name != "optimiser's step"]
    inference = worst(model.infer(MICRO_BATCH, entropy=True))
    print(f"{role}, {checkpointing=}: measured {held}; planned {worst(passes):.0f} and {inference:.0f}")
    # Without the gradients, which are right and would hide what is not.
    assert worst(passes) - model.gradients == pytest.approx(held.update - held.gradients, rel=0.1)
    assert inference == pytest.approx(held.infer, rel=0.1)
