"""The memory plan against what verl's own FSDP 2 engine really holds, on the CPU: the table of docs/memory.md.

    python benchmarks/training_memory.py

The engine is built as verl's worker builds it (``workers/engine_workers.py``), and takes a training step of two
micro-batches with verl's own losses; torch's profiler says what was allocated. Of several ranks one is there: torch's
fake process group stands for the others, so that what is measured is FSDP's own, without the buffers that gloo makes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("VERL_PLATFORM", "cpu")  # verl chooses its platform once, when it is imported

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import ppo_loss, value_loss

from multi_attempt.toy.model import make_model
from multi_attempt.toy.settings import ToySettings
from multi_attempt.toy.tokenizer import make_tokenizer
from verl_ext.checks.check_command import compose_config
from verl_ext.memory.gpus import named_gpu
from verl_ext.memory.model_shape import read_shape
from verl_ext.memory.passes import Moment, greatest
from verl_ext.memory.rollout import make_rollout
from verl_ext.memory.run_models import read_models
from verl_ext.model.model_config import ACTOR_MODEL, CRITIC_MODEL

# The rows of a micro-batch of a rank, of which there are two: when the second is under way, the gradients of the first
# are there. Padded, it has twice as many tokens.
LENGTHS, PROMPT = (256, 128, 64, 64) * 2, 32
MICRO_BATCH = sum(LENGTHS)


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        role: ``actor`` or ``critic``.
        checkpointing: whether activations are computed again in the backward pass.
        packed: whether the rows of a micro-batch come one after the other, without padding.
        attention: by its name; None for the config's own.
        compute: dtype of the passes; the weights are in fp32.
        world: number of ranks.
    """

    role: str
    checkpointing: bool = False
    packed: bool = True
    attention: str | None = None
    compute: str = "fp32"
    world: int = 1

    def __str__(self) -> str:
        words = [self.role, *(["checkpointing"] if self.checkpointing else []), "packed" if self.packed else "padded"]
        words += [*([self.attention] if self.attention else []), self.compute]
        return f"{', '.join(words)}, {self.world} rank{'s' * (self.world > 1)}"


CASES = (
    *(Case(role, checkpointing) for role, checkpointing in product(("actor", "critic"), (True, False))),
    *(Case(role, checkpointing=role == "actor", world=8) for role in ("actor", "critic")),
    *(
        Case(role, packed=False, compute=compute)
        for role, compute in (("actor", "fp32"), ("critic", "fp32"), ("actor", "bf16"))
    ),
    *(Case(role, compute="bf16") for role in ("actor", "critic")),
    *(Case("actor", attention="sdpa", compute=compute) for compute in ("fp32", "bf16")),
)
"""All that are."""


@dataclass(frozen=True)
class Held:
    """Bytes that an engine holds, measured or planned.

    Attributes:
        weights, gradients, optimizer: what it keeps.
        update: the most that a training step's passes allocate beside the gradients.
        infer: the most that a forward pass without gradients allocates.
    """

    weights: float
    gradients: float
    optimizer: float
    update: float
    infer: float


# ---- The models, of random weights ----


def _toy() -> Qwen2ForCausalLM:
    return make_model(make_tokenizer(), ToySettings(), seed=0)


def _larger() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config)


MODELS: dict[str, Callable[[], Qwen2ForCausalLM]] = {"the toy model": _toy, "19 million weights": _larger}
"""The toy task's, and one of which each array is large enough to tell."""


def write_model(folder: Path, name: str) -> None:
    """Write one of :data:`MODELS`, with a tokenizer."""
    MODELS[name]().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def config_of(folder: Path, case: Case) -> DictConfig:
    """The CPU config with this model."""
    settings = [f"actor_rollout_ref.model.path={folder}", f"trainer.n_gpus_per_node={case.world}"]
    settings += [f"data.max_prompt_length={PROMPT}", f"data.max_response_length={max(LENGTHS) - PROMPT}"]
    for model in (ACTOR_MODEL, CRITIC_MODEL):
        settings.append(f"{model}.enable_gradient_checkpointing={case.checkpointing}")
        settings.append(f"{model}.use_remove_padding={case.packed}")
        if case.attention:
            settings.append(f"{model}.override_config.attn_implementation={case.attention}")
    for engine in ("actor_rollout_ref.actor.fsdp_config", "critic.fsdp"):
        settings.append(f"{engine}.mixed_precision.param_dtype={case.compute}")
    return compose_config("multi_attempt_cpu", settings)


# ---- Measured ----


@contextmanager
def first_of(world: int) -> Iterator[None]:
    """A process group of so many ranks, of which this process is the first, and no other is there."""
    torch.distributed.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def measure(config: DictConfig, case: Case) -> Held:
    """What the engine of a role holds, within :func:`first_of`."""
    engine, loss = engine_of(config, case.role)
    vocabulary = read_shape(config, ACTOR_MODEL).vocabulary
    data = _batch(vocabulary, packed=case.packed, entropy=False)
    with engine.train_mode():
        # AdamW makes its state in its first step, which verl leaves out if the gradients are not finite; and where
        # nobody sums them up, they are what the memory held before.
        engine.forward_backward_batch(data, loss)
        for parameter in engine.module.parameters():
            parameter.grad.zero_()
        engine.optimizer_step()
        gradients = sum(_local_bytes(parameter.grad) for parameter in engine.module.parameters())
        engine.optimizer_zero_grad()
        update = allocated(lambda: engine.forward_backward_batch(data, loss))
    with engine.eval_mode():
        data = _batch(vocabulary, packed=case.packed, entropy=True)
        infer = allocated(lambda: engine.infer_batch(data, loss_function=None))
    weights = sum(map(_local_bytes, engine.module.parameters()))
    states = [value for state in engine.optimizer.state.values() for value in state.values()]
    return Held(weights, gradients, sum(map(_local_bytes, states)), update - gradients, infer)


def engine_of(config: DictConfig, role: str) -> tuple[Any, Any]:
    """verl's engine of a role, within :func:`first_of`, and its loss."""
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


def _batch(vocabulary: int, *, packed: bool, entropy: bool) -> TensorDict:
    """What verl's trainer hands to an engine."""
    random = torch.Generator().manual_seed(0)
    lengths = LENGTHS * 2

    def nested(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    ids = [torch.randint(0, vocabulary, (length,), generator=random) for length in lengths]
    data = {"input_ids": nested(ids), "position_ids": nested([torch.arange(length) for length in lengths])}
    data |= {"prompts": nested([row[:PROMPT] for row in ids]), "responses": nested([row[PROMPT:] for row in ids])}
    data |= {name: nested([torch.ones(len(row) - PROMPT) for row in ids]) for name in ("loss_mask", "response_mask")}
    data |= {
        name: nested([torch.randn(len(row) - PROMPT, generator=random) for row in ids])
        for name in ("old_log_probs", "ref_log_prob", "advantages", "values", "returns")
    }
    made = TensorDict(data, batch_size=len(lengths))
    tu.assign_non_tensor(
        made,
        use_remove_padding=packed,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=MICRO_BATCH,
        use_fused_kernels=False,
        temperature=1.0,
        calculate_entropy=entropy,
        global_batch_size=len(lengths),
    )
    return made


def _local_bytes(tensor: Any) -> int:
    """Of this rank's part."""
    size: int = (tensor.to_local() if hasattr(tensor, "to_local") else tensor).nbytes
    return size


def allocated(work: Callable[[], Any]) -> int:
    """The most bytes that are allocated at once while something works, beside those that were there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    results: Any = profiled.profiler.kineto_results
    events = [event for event in _each(results.experimental_event_tree()) if event.tag == _EventType.Allocation]
    sizes: dict[int, int] = {}  # of what was allocated meanwhile, by address
    total = most = 0
    for event in sorted(events, key=lambda event: int(event.start_time_ns)):
        pointer, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0:
            sizes[pointer] = size
            total += size
        else:
            # What is freed of earlier work does not count; torch says of it what its address last held in a profile.
            total -= sizes.pop(pointer, 0)
        most = max(most, total)
    return most


def _each(events: Sequence[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _each(event.children)


# ---- Planned ----


def plan(config: DictConfig, case: Case) -> Held:
    """What the plan says of the same."""
    shape = read_shape(config, ACTOR_MODEL)
    rollout = make_rollout(config, shape, named_gpu("h100"))
    models = read_models(config, shape, shape, rollout, MICRO_BATCH / len(LENGTHS))
    model = models.critic if case.role == "critic" else models.actor
    assert model is not None

    def most(moments: list[Moment]) -> float:
        return greatest(moments).total

    # The optimiser's step comes after the passes.
    passes = [moment for moment in model.update(MICRO_BATCH) if moment.name != "optimiser's step"]
    infer = most(model.infer(MICRO_BATCH, entropy=True))
    return Held(model.weights, model.gradients, model.optimizer, most(passes) - model.gradients, infer)


# ---- The table ----


def main() -> None:
    """Print it, in Markdown; MB."""
    print("| | kept, measured | planned | | update, measured | planned | | forward pass, measured | planned | |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            write_model(Path(folder), name)
            for case in CASES:
                config = config_of(Path(folder), case)
                with first_of(case.world):
                    cells = _cells(measure(config, case), plan(config, case))
                print(f"| {name}: {case} | {' | '.join(cells)} |", flush=True)


def _cells(measured: Held, planned: Held) -> Iterator[str]:
    for found, said in (
        (_kept(measured), _kept(planned)),
        (measured.update, planned.update),
        (measured.infer, planned.infer),
    ):
        yield from (f"{found / 1e6:.1f}", f"{said / 1e6:.1f}", f"{said / found - 1:+.1%}")


def _kept(held: Held) -> float:
    return held.weights + held.gradients + held.optimizer


if __name__ == "__main__":
    main()
