"""The plan of a run on CPU: one machine's memory, every process, and what was measured of real runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from published_models import SMOLLM2
from transformers import LlamaConfig
from verl.workers.config import FSDPEngineConfig

from multi_attempt import cli
from verl_ext.checks import check_command, startup
from verl_ext.memory import machine
from verl_ext.memory.activations import TokenMemory
from verl_ext.memory.fsdp import FSDPModel
from verl_ext.memory.gpus import GIB
from verl_ext.memory.machine import MachinePlan, Process, given_machine, make_machine_plan, this_machine
from verl_ext.memory.model_shape import ModelShape, shape_of
from verl_ext.memory.passes import Moment, Role
from verl_ext.memory.plan import MIB, Phase, greatest_tokens, remedies

CACHE = "ray_kwargs.ray_init.runtime_env.env_vars.VLLM_CPU_KVCACHE_SPACE"
ACTOR_TOKENS = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
MEAN_TOKENS = 400.0

# What a training worker holds, as parts of a phase.
WORKER = ("actor", "critic", "reference", "gradients", "gathered", "activations", "logits")

PlanOf = Callable[..., MachinePlan]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan reads vLLM's and Ray's variables, which another test may have left."""
    for name in (machine.CACHE_SPACE, machine._THRESHOLD_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return shape_of(SMOLLM2, "SmolLM2")


def config_of(*overrides: str) -> DictConfig:
    return compose("multi_attempt_cpu", overrides=["model=smollm2_135m", *overrides])


@pytest.fixture
def plan_of(hydra_configs: None, shape: ModelShape) -> PlanOf:
    """The plan of SmolLM2 with overrides, on a machine of so many GiB."""

    def make(*overrides: str, gib: float = 24, model: ModelShape = shape) -> MachinePlan:
        return make_machine_plan(config_of(*overrides), model, model, given_machine(gib), GIB, MEAN_TOKENS)

    return make


def phase(plan: MachinePlan, name: str) -> Phase:
    [found] = [phase for phase in plan.phases if phase.name == name]
    return found


# ---- What real runs held ----

# By each process's proportional share of memory (PSS). Two steps in fp32, packed, with torch's own attention, 2,048
# tokens a pass, and SmolLM2's shape with 12 layers; then one process of a run with all 30.
FP32 = (
    *("cpu.dtype=float32", "cpu.packed=true", "cpu.tokens_per_pass=2048", f"{CACHE}='1'"),
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=128",
    *(f"{model}.override_config.attn_implementation=sdpa" for model in ("actor_rollout_ref.model", "critic.model")),
)
WORKER_OF_12_LAYERS, ROLLOUT_WORKER_OF_12_LAYERS, ALL_OF_12_LAYERS = 4912 * MIB, 2674 * MIB, 12_325 * MIB
WORKER_OF_30_LAYERS = 9.5e9

# In bfloat16, as `model=smollm2_135m` is: the training worker at the end of the first step and after 17, and vLLM's
# worker in the third weight sync.
WORKER_IN_BF16, LATE_WORKER_IN_BF16, ROLLOUT_WORKER_IN_BF16 = 8800 * MIB, 10_419 * MIB, 3144 * MIB
RESERVE_GIB = 4.0


def process(plan: MachinePlan, name: str) -> Process:
    [found] = [process for process in plan.processes if process.name == name]
    return found


def worker(plan: MachinePlan) -> float:
    """Bytes of the training worker at its worst."""
    held = max(sum(phase.parts.get(part, 0.0) for part in WORKER) for phase in plan.phases)
    return process(plan, "training worker").size + held


def rollout_worker(plan: MachinePlan) -> float:
    """Bytes of vLLM's worker at its worst."""
    return process(plan, "rollout worker").size + phase(plan, "weight sync").parts["rollout"]


def test_the_plan_is_no_less_than_runs_in_fp32_held_and_not_much_more(plan_of: PlanOf) -> None:
    twelve = shape_of(LlamaConfig(**{**SMOLLM2.to_dict(), "num_hidden_layers": 12}), "12 layers")
    plan = plan_of(*FP32, model=twelve)
    assert 1.0 < worker(plan) / WORKER_OF_12_LAYERS < 1.15
    assert 1.0 < rollout_worker(plan) / ROLLOUT_WORKER_OF_12_LAYERS < 1.15
    assert 1.0 < (plan.peak.total - plan.reserve) / ALL_OF_12_LAYERS < 1.15
    assert 1.0 < worker(plan_of(*FP32)) / WORKER_OF_30_LAYERS < 1.1


def test_what_the_allocator_kept_in_bf16_is_within_the_reserve(plan_of: PlanOf) -> None:
    planned = worker(plan_of())
    assert planned < WORKER_IN_BF16 < LATE_WORKER_IN_BF16 < planned + RESERVE_GIB * GIB
    assert check_command._RESERVE_GIB == RESERVE_GIB
    assert rollout_worker(plan_of()) == pytest.approx(ROLLOUT_WORKER_IN_BF16, rel=0.1)


# ---- What a pass holds ----


def role(shape: ModelShape, **settings: object) -> FSDPModel:
    engine = FSDPEngineConfig(mixed_precision={"param_dtype": "fp32"})
    object.__setattr__(engine, "strategy", "fsdp2")
    return FSDPModel(Role("actor", "field", shape, engine, on_cpu=True, checkpointing=False, **settings), world=1)  # type: ignore[arg-type]


def moment(moments: list[Moment], name: str) -> Moment:
    [found] = [moment for moment in moments if moment.name == name]
    return found


def test_a_mask_grows_with_the_square_of_the_row_and_ours_has_none(shape: ModelShape) -> None:
    def activations(tokens: int, *, by_sequence: bool) -> float:
        return moment(role(shape, by_sequence=by_sequence).update(tokens), "loss").activations

    assert activations(4096, by_sequence=True) == 2 * activations(2048, by_sequence=True)
    masks = [30 * 4 * tokens**2 for tokens in (2048, 4096)]
    without_masks = [
        activations(tokens, by_sequence=False) - mask for tokens, mask in zip((2048, 4096), masks, strict=True)
    ]
    assert without_masks[1] == pytest.approx(2 * without_masks[0])


def test_padding_is_computed_and_costs_copies_of_the_logits(shape: ModelShape) -> None:
    array = 1000 * 49152 * 4
    packed, padded = role(shape, by_sequence=True), role(shape, packed=False, padding=2.0, longest=500)
    assert moment(packed.update(1000), "loss").logits == 3 * array
    assert moment(padded.update(1000), "loss").logits == 5 * array
    assert moment(packed.infer(1000, entropy=False), "log-probs").logits == array
    assert moment(padded.infer(1000, entropy=False), "log-probs").logits == 3 * array
    assert moment(packed.infer(1000, entropy=True), "log-probs").logits == 3 * array
    assert moment(padded.infer(1000, entropy=True), "log-probs").logits == 6 * array
    layers = 30 * TokenMemory(shape, 4, mask=500).layer
    assert moment(padded.update(1000), "backward, last layer").activations > 2000 * layers


def test_another_temperature_takes_another_array(shape: ModelShape) -> None:
    one, other = (
        moment(role(shape, temperature_is_one=is_one).update(1000), "loss").logits for is_one in (True, False)
    )
    assert other - one == 1000 * 49152 * 4


# ---- The plan ----


def test_every_process_is_in_every_phase(plan_of: PlanOf) -> None:
    plan = plan_of()
    counts = {process.name: process.count for process in plan.processes}
    assert counts == {
        **dict.fromkeys(("command", "trainer", "training worker", "rollout server", "rollout engine"), 1),
        **dict.fromkeys(("rollout worker", "request router", "agent loop worker", "grader worker", "reward worker"), 1),
        **{"TransferQueue": 2, "Ray": 1},
    }
    together = sum(process.total for process in plan.processes)
    assert 5 * GIB < together < 8 * GIB
    for each in plan.phases:
        assert each.parts["processes"] == together
        assert each.parts["reserve"] == GIB
        assert each.total == sum(each.parts.values())


def test_more_workers_and_ranks_are_more_processes(plan_of: PlanOf) -> None:
    more = ("actor_rollout_ref.rollout.agent.num_workers=3", "reward.num_workers=2", "multi_attempt.grader.workers=2")
    counts = {process.name: process.count for process in plan_of(*more, "trainer.n_gpus_per_node=2").processes}
    assert [counts[name] for name in ("training worker", "rollout server", "rollout worker")] == [2, 2, 2]
    assert [counts[name] for name in ("agent loop worker", "grader worker", "reward worker")] == [3, 6, 2]


def test_two_ranks_share_the_weights_and_each_has_its_own_pass_and_cache(plan_of: PlanOf) -> None:
    one, two = (phase(plan_of(f"trainer.n_gpus_per_node={ranks}"), "actor update") for ranks in (1, 2))
    assert two.parts["actor"] == pytest.approx(one.parts["actor"])
    assert two.parts["rollout"] == 2 * one.parts["rollout"]
    assert two.parts["logits"] == 2 * one.parts["logits"]


def test_the_rollout_holds_its_cache_and_the_weights_that_it_was_sent(plan_of: PlanOf, shape: ModelShape) -> None:
    small, large = (plan_of(f"{CACHE}='{gib}'") for gib in (1, 4))
    assert large.peak.total - small.peak.total == 3 * GIB
    rollout = small.models.rollout
    sent = (shape.policy_parameters + shape.embedding) * 4
    assert rollout.share == rollout.weights + rollout.forward + GIB + sent == rollout.asleep
    # Without the variable vLLM takes a share of the memory.
    by_share = plan_of(f"{CACHE}=null", "actor_rollout_ref.rollout.gpu_memory_utilization=0.5").models.rollout
    assert by_share.cache == 0.5 * by_share.device.memory - by_share.weights
    # SGLang's is given in tokens, and it collects nothing.
    sglang = plan_of("rollout=sglang").models.rollout
    assert sglang.cache == 65536 * sglang.cache_per_token
    assert sglang.share == sglang.weights + sglang.forward + sglang.cache


def test_the_mini_batch_bounds_a_pass_with_its_padding(plan_of: PlanOf) -> None:
    plan = plan_of("cpu.packed=false", "cpu.tokens_per_pass=100000")
    actor, bound = plan.models.actor, plan.models.tokens["actor update"]
    assert actor.role.padding == 768 / MEAN_TOKENS
    assert bound.tokens == 16 * 400
    assert actor.role.computed(bound.tokens) == pytest.approx(16 * 768)


def test_what_is_said_to_help_does_on_a_machine(plan_of: PlanOf, shape: ModelShape) -> None:
    settings = ("cpu.packed=false", "cpu.tokens_per_pass=8192", f"{CACHE}='4'")
    plan, config = plan_of(*settings, gib=18), config_of(*settings)
    assert not plan.fits
    before = copy.deepcopy(config)

    def remake(changed: DictConfig) -> MachinePlan:
        return make_machine_plan(changed, shape, shape, given_machine(18), GIB, MEAN_TOKENS)

    found = remedies(plan, config, remake)
    assert config == before
    assert found[0].plan.fits
    said = " ".join(setting for remedy in found for setting in remedy.overrides)
    for part in (ACTOR_TOKENS, "enable_gradient_checkpointing=true", "use_remove_padding=true", "KVCACHE_SPACE"):
        assert part in said
    for remedy in found:  # as Hydra reads them
        assert plan_of(*settings, *remedy.overrides, gib=18).peak.total == remedy.plan.peak.total < plan.peak.total


def test_a_smaller_cache_is_said_as_the_text_that_ray_takes(plan_of: PlanOf) -> None:
    [remedy] = [
        override for settings in plan_of(f"{CACHE}='4'").candidates() for override in settings if CACHE in override
    ][:1]
    assert OmegaConf.select(config_of(remedy), CACHE) == "1"


def test_the_greatest_settings_fit_a_machine_and_more_does_not(plan_of: PlanOf) -> None:
    most = greatest_tokens(plan_of(), "critic update")
    settings = ("actor_rollout_ref.actor.ppo_mini_batch_size=64", "data.train_batch_size=64")
    most = greatest_tokens(plan_of(*settings), "actor update")
    assert phase(plan_of(*settings, f"{ACTOR_TOKENS}={most}"), "actor update").total <= given_machine(24).memory
    assert phase(plan_of(*settings, f"{ACTOR_TOKENS}={most + 512}"), "actor update").total > given_machine(24).memory
    cache = plan_of().greatest_cache
    assert plan_of(f"{CACHE}='{cache}'").fits
    assert not plan_of(f"{CACHE}='{cache + 1}'").fits


def test_a_cache_without_room_for_one_sequence_does_not_fit(plan_of: PlanOf) -> None:
    plan = plan_of("rollout=sglang", "actor_rollout_ref.rollout.engine_kwargs.sglang.max_total_tokens=512")
    assert plan.peak.total < plan.device.memory
    assert not plan.generates
    assert not plan.fits


def test_a_wrong_size_of_the_cache_is_named(plan_of: PlanOf) -> None:
    with pytest.raises(ValueError, match=r"VLLM_CPU_KVCACHE_SPACE = '1.5' must be a whole number of GiB"):
        plan_of(f"{CACHE}='1.5'")


def test_the_machine_is_this_one_or_the_container_and_ray_keeps_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_LIMITS", (str(limit), str(tmp_path / "none")))
    monkeypatch.delenv("RAY_memory_usage_threshold", raising=False)
    limit.write_text("max\n")
    whole = this_machine().memory
    assert whole > GIB
    limit.write_text(f"{GIB}\n")
    assert this_machine().memory == 0.95 * GIB
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.5")
    assert this_machine().memory == 0.5 * GIB


# ---- The command ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SMOLLM2.save_pretrained(tmp_path)
    return tmp_path


def check(folder: Path, *arguments: str) -> int:
    command = ["check", "--config-name", "multi_attempt_cpu", "--model-config", str(folder), "model=smollm2_135m"]
    return cli.main([*command, *arguments])


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_prints_the_plan_of_a_machine(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "check", lambda _: None)  # there are no data here
    assert check(folder, "--memory", "24") == 0
    text = capsys.readouterr().out
    for part in (
        *("a machine of 24.0 GiB", "agent loop worker", "phase, GiB on the machine", "It fits.", "134,515,008"),
        *("VLLM_CPU_KVCACHE_SPACE", ACTOR_TOKENS),
    ):
        assert part in text
    assert "MFU" not in text


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_says_what_helps_on_a_small_machine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        check(
            folder,
            "--memory",
            "16",
            "--reserve",
            "1",
            "cpu.tokens_per_pass=8192",
            "data.train_batch_size=64",
            "actor_rollout_ref.actor.ppo_mini_batch_size=64",
        )
        == check_command.DOES_NOT_FIT
    )
    text = capsys.readouterr().out
    assert "It does not fit: the actor update" in text
    assert f"{ACTOR_TOKENS}=" in text
    assert "GPU" not in text.split("What helps:")[1].split("Rollout:")[0]


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_gives_json_of_a_machine(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "check", lambda _: None)
    assert check(folder, "--memory", "24", "--reserve", "2", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is True
    assert plan["machine"]["memory"] == pytest.approx(0.95 * 24 * GIB)
    assert plan["processes"]["TransferQueue"] == {"count": 2, "size": 290 * MIB}
    assert plan["phases"]["generation"]["reserve"] == 2 * GIB
    assert "cost" not in plan


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--memory", "0"), ("--memory = 0.0", "positive")),
        (("--gpu", "h100"), ("--gpu", "trainer.device = 'cpu'", "--memory")),
        (("--gpu-memory", "80"), ("--gpu", "trainer.device = 'cpu'", "--memory")),
        (("--memory", "24", "trainer.device=cuda"), ("--memory = 24.0", "trainer.device = 'cuda'", "--gpu")),
    ],
)
def test_the_wrong_kind_of_device_is_named(
    folder: Path, arguments: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(folder, *arguments) == 2
    message = capsys.readouterr().err
    assert [part for part in parts if part not in message] == [], message
