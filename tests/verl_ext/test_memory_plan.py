"""The memory plan: known sizes, what follows from them, and `multi-attempt check`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from published_models import PUBLISHED
from transformers import GPT2Config, PretrainedConfig, Qwen2Config
from verl.workers.config import FSDPEngineConfig, McoreEngineConfig

from multi_attempt import cli
from verl_ext.checks import check_command, startup
from verl_ext.memory.activations import TokenMemory
from verl_ext.memory.cost import default_assumptions, run_cost
from verl_ext.memory.fsdp import FSDPModel
from verl_ext.memory.gpus import GIB, custom_gpu, gpu_names, named_gpu
from verl_ext.memory.megatron import MegatronModel
from verl_ext.memory.model_shape import ModelShape, read_shape, shape_of
from verl_ext.memory.passes import Role, greatest
from verl_ext.memory.plan import Plan, greatest_tokens, greatest_utilization, make_plan, remedies

QWEN_1_5B, QWEN_7B, QWEN3_4B = (PUBLISHED[name] for name in ("qwen2_5_math_1_5b", "qwen2_5_math_7b", "qwen3_4b"))
H100 = named_gpu("h100")
RESERVE = 4.0 * GIB


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    """Of the 7B model."""
    return shape_of(QWEN_7B, "7B")


# ---- The model ----


@pytest.mark.parametrize(
    ("config", "policy", "critic"),
    [
        # The policies' totals are those that the models' cards and safetensors indices give.
        (QWEN_7B, 7_615_616_512, 7_615_616_512 - 152064 * 3584 + 3584 + 1),
        (QWEN_1_5B, 1_543_714_304, 1_543_714_304 + 1536 + 1),
        (QWEN3_4B, 4_022_468_096, 4_022_468_096 + 2560 + 1),
    ],
    ids=["Qwen2.5-Math-7B", "Qwen2.5-Math-1.5B", "Qwen3-4B"],
)
def test_parameters_are_counted_exactly(config: PretrainedConfig, policy: int, critic: int) -> None:
    shape = shape_of(config, "model")
    assert (shape.policy_parameters, shape.critic_parameters) == (policy, critic)


def test_a_model_that_the_plan_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.path = 'x': a model of type 'gpt2' has no num_key_value_heads"):
        shape_of(GPT2Config(), "x")


# ---- What is kept ----


def role(shape: ModelShape, engine: Any, name: str = "actor", **changes: Any) -> Role:
    return Role(name, f"actor_rollout_ref.{name}.engine", shape, engine, trains=name != "reference", **changes)


def test_fsdp_shards_sum_up_to_the_whole_model(shape: ModelShape) -> None:
    model = FSDPModel(role(shape, FSDPEngineConfig()), world=8)
    assert model.weights * 8 == shape.policy_parameters * 4
    assert model.gradients * 8 == shape.policy_parameters * 4
    assert model.optimizer * 8 == shape.policy_parameters * 8


@pytest.mark.parametrize(("fsdp_size", "shards"), [(-1, 32), (8, 8), (64, 32)])
def test_fsdp_shards_within_its_group(shape: ModelShape, fsdp_size: int, shards: int) -> None:
    model = FSDPModel(role(shape, FSDPEngineConfig(fsdp_size=fsdp_size)), world=32)
    assert model.weights * shards == shape.policy_parameters * 4


def test_what_is_offloaded_leaves_the_gpu_between_passes(shape: ModelShape) -> None:
    def resting(**settings: Any) -> float:
        return FSDPModel(role(shape, FSDPEngineConfig(**settings)), world=8).resting()

    weights = shape.policy_parameters * 4 / 8
    assert resting() == 3 * weights
    assert resting(param_offload=True) == 2 * weights
    assert resting(optimizer_offload=True) == weights
    assert resting(param_offload=True, optimizer_offload=True) == 0


def test_fsdp_keeps_the_reference_off_the_gpu_and_megatron_does_not(shape: ModelShape) -> None:
    assert FSDPModel(role(shape, FSDPEngineConfig(forward_only=True), "reference"), world=8).resting() == 0
    megatron = MegatronModel(role(shape, McoreEngineConfig(forward_only=True), "reference"), world=8)
    assert megatron.resting() == shape.policy_parameters * 2


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 1), (1, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("config", [QWEN_7B, QWEN_1_5B], ids=["untied", "tied"])
@pytest.mark.parametrize("name", ["actor", "critic"])
def test_megatrons_parts_sum_up_to_the_whole_model(config: Qwen2Config, name: str, tensor: int, pipeline: int) -> None:
    shape = shape_of(config, "model")
    engine = McoreEngineConfig(tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline)
    model = MegatronModel(role(shape, engine, name), world=32)
    total = tensor * sum(model.stage_parameters(stage) for stage in range(pipeline))
    # What every tensor parallel rank has whole, and the embedding that a tied head needs on the last stage.
    whole = shape.layers * shape.layer_vectors + shape.final_norm + (shape.value_head if name == "critic" else 0)
    copy = shape.embedding if shape.tied and pipeline > 1 and name == "actor" else 0
    assert total == pytest.approx(model.role.parameters + (tensor - 1) * whole + copy)


def test_megatrons_optimizer_is_split_over_the_ranks_with_the_same_part(shape: ModelShape) -> None:
    engine = McoreEngineConfig(tensor_model_parallel_size=2, context_parallel_size=2)
    model = MegatronModel(role(shape, engine), world=16)
    assert model.weights == pytest.approx(shape.policy_parameters, rel=1e-3)  # two bytes, two parts
    assert model.gradients == 2 * model.weights
    assert model.optimizer == pytest.approx(6 * model.weights / 8)
    whole = replace(engine, use_distributed_optimizer=False)
    assert MegatronModel(role(shape, whole), world=16).optimizer == 6 * model.weights


def test_stages_of_different_numbers_of_layers_are_refused(shape: ModelShape) -> None:
    engine = McoreEngineConfig(override_transformer_config={"num_layers_in_first_pipeline_stage": 4})
    with pytest.raises(ValueError, match=r"num_layers_in_first_pipeline_stage = 4: the plan knows .* leave it out"):
        MegatronModel(role(shape, engine), world=8)


# ---- Passes ----


@pytest.mark.parametrize(
    "model",
    [
        lambda shape, **changes: FSDPModel(role(shape, FSDPEngineConfig(), **changes), world=8),
        lambda shape, **changes: MegatronModel(role(shape, McoreEngineConfig(), **changes), world=8),
    ],
    ids=["fsdp", "megatron"],
)
def test_more_tokens_take_more(shape: ModelShape, model: Callable[..., Any]) -> None:
    sizes = [(greatest(model(shape).update(tokens)).total) for tokens in (4096, 8192, 16384)]
    sizes += [greatest(model(shape).infer(tokens, entropy=True)).total for tokens in (4096, 8192, 16384)]
    assert sizes[:3] == sorted(set(sizes[:3]))
    assert sizes[3:] == sorted(set(sizes[3:]))


def test_checkpointing_keeps_a_hidden_state_for_a_layer(shape: ModelShape) -> None:
    memory = TokenMemory(shape, compute=2)
    more = replace(shape, layers=shape.layers + 1)
    assert memory.training_layers(29, True) - memory.training_layers(28, True) == 2 * shape.hidden
    assert memory.training_layers(29, False) - memory.training_layers(28, False) == memory.layer
    assert memory.training_layers(more.layers, True) < memory.training_layers(more.layers, False) / 5


def test_tensor_parallelism_splits_what_a_layer_keeps(shape: ModelShape) -> None:
    whole = TokenMemory(shape, compute=2, fused=True)
    split = TokenMemory(shape, compute=2, parts=4, sequence_parts=4, fused=True)
    assert split.layer * 4 == pytest.approx(whole.layer)
    only_heads = TokenMemory(shape, compute=2, parts=4, fused=True)
    assert split.layer < only_heads.layer < whole.layer


def test_logits_of_a_great_vocabulary_are_in_the_plan(shape: ModelShape) -> None:
    model = FSDPModel(role(shape, FSDPEngineConfig()), world=8)
    [loss] = [moment for moment in model.update(16384) if moment.name == "loss"]
    assert loss.logits == 16384 * 152064 * 2
    fused = FSDPModel(role(shape, FSDPEngineConfig(), fused_head=True), world=8)
    [loss] = [moment for moment in fused.update(16384) if moment.name == "loss"]
    assert loss.logits < 16384 * 152064 * 2 / 5
    critic = FSDPModel(role(shape, FSDPEngineConfig(), "critic"), world=8)
    assert {moment.logits for moment in critic.update(16384)} == {0.0}


# ---- Generation ----


@pytest.fixture
def plan_of(hydra_configs: None, shape: ModelShape) -> Callable[..., Plan]:
    """The plan of the 7B model with overrides."""

    def make(*overrides: str, gpu: Any = H100, reserve: float = RESERVE) -> Plan:
        return make_plan(config_of(*overrides), shape, shape, gpu, reserve)

    return make


def config_of(*overrides: str) -> DictConfig:
    is_group = [override.split("=")[0] in ("model", "engine", "rollout", "cluster") for override in overrides]
    groups = [override for override, chooses in zip(overrides, is_group, strict=True) if chooses]
    config = copy.deepcopy(_composed(*groups))
    OmegaConf.set_struct(config, False)
    config.merge_with_dotlist([override.lstrip("+") for override in overrides if override not in groups])
    return config


@cache
def _composed(*groups: str) -> DictConfig:
    return compose("multi_attempt", overrides=["model=qwen2_5_math_7b", *groups])


def test_the_cache_is_what_vllm_makes_of_the_same_memory(plan_of: Callable[..., Plan]) -> None:
    interface = pytest.importorskip("vllm.v1.kv_cache_interface")
    utils = pytest.importorskip("vllm.v1.core.kv_cache_utils")
    for tensor in (1, 2, 4):
        rollout = plan_of(f"actor_rollout_ref.rollout.tensor_model_parallel_size={tensor}").models.rollout
        spec = interface.FullAttentionSpec(block_size=16, num_kv_heads=4 // tensor, head_size=128, dtype=torch.bfloat16)
        assert rollout.cache_per_token * 16 == 28 * spec.page_size_bytes
        no_override = type("Config", (), {"cache_config": type("Cache", (), {"num_gpu_blocks_override": None})})
        blocks = utils.get_num_blocks(no_override, 28, int(rollout.cache), spec.page_size_bytes)
        assert rollout.cached_tokens == blocks * 16


def test_a_replica_of_more_gpus_has_more_sequences(plan_of: Callable[..., Plan]) -> None:
    at_once = [
        plan_of(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={tensor}",
            "actor_rollout_ref.rollout.max_num_seqs=10000",
        ).models.rollout.at_once(4096)
        for tensor in (1, 2, 4)
    ]
    assert at_once == sorted(set(at_once))
    assert plan_of().models.rollout.at_once(1) == 256  # max_num_seqs


def test_the_longest_sequence_is_the_models_or_the_runs(plan_of: Callable[..., Plan]) -> None:
    assert plan_of().models.rollout.context == 4096
    assert plan_of("data.max_prompt_length=100").models.rollout.context == 3100
    assert plan_of("actor_rollout_ref.rollout.max_model_len=2048").models.rollout.context == 2048


@pytest.mark.parametrize(("name", "asleep"), [("vllm", 0.0), ("sglang", 0.0)])
def test_a_rollout_that_sleeps_leaves_the_gpu(plan_of: Callable[..., Plan], name: str, asleep: float) -> None:
    assert plan_of(f"rollout={name}").models.rollout.asleep == asleep
    awake = plan_of(f"rollout={name}", "actor_rollout_ref.rollout.free_cache_engine=false")
    assert awake.models.rollout.asleep == awake.models.rollout.share
    assert {phase.parts["rollout"] for phase in awake.phases} == {awake.models.rollout.share}


# ---- The plan ----

TOO_MUCH = ("layout.offload=false", "actor_rollout_ref.rollout.gpu_memory_utilization=0.75")


def test_7b_fits_eight_gpus_of_80_gb_and_without_offload_only_beside_a_smaller_rollout(
    plan_of: Callable[..., Plan],
) -> None:
    assert plan_of().fits
    assert plan_of("layout.offload=false").fits
    refused = plan_of(*TOO_MUCH)
    assert not refused.fits
    assert refused.peak.name == "generation"


def test_every_phase_says_what_its_sum_is_of(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    assert [phase.name for phase in plan.phases] == [
        *("generation", "old log-probs", "reference log-probs", "values"),
        *("critic update", "actor update", "weight sync"),
    ]
    for phase in plan.phases:
        assert phase.total == sum(phase.parts.values())
        assert phase.parts["reserve"] == RESERVE


def test_a_run_without_critic_or_reference_has_no_phase_of_it(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("critic.enable=false", "actor_rollout_ref.actor.use_kl_loss=false")
    assert [phase.name for phase in plan.phases] == ["generation", "old log-probs", "actor update", "weight sync"]


def test_the_critics_micro_batches_have_the_setting_that_verl_reads(plan_of: Callable[..., Plan]) -> None:
    assert plan_of().models.tokens["critic update"].tokens == 32768
    # Which verl does not read, but our config ties the other to it: see verl's trainer_base.py, line 267.
    changed = plan_of("critic.ppo_max_token_len_per_gpu=16384")
    assert changed.models.tokens["critic update"].tokens == 16384
    changed = plan_of("critic.ppo_infer_max_token_len_per_gpu=8192")
    assert changed.models.tokens["critic update"].tokens == 8192


def test_a_rank_has_no_more_tokens_than_its_part_of_the_mini_batch(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("actor_rollout_ref.actor.ppo_mini_batch_size=8")
    assert plan.models.tokens["actor update"].tokens == 4096
    assert plan.models.tokens["old log-probs"].tokens == 16384


def test_the_greatest_settings_fit_and_a_step_more_does_not(plan_of: Callable[..., Plan]) -> None:
    field = "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu"
    most = greatest_tokens(plan_of(), "old log-probs")
    assert plan_of(f"{field}={most}").fits
    assert plan_of(f"{field}={most + 512}").peak.name == "old log-probs"
    assert not plan_of(f"{field}={most + 512}").fits
    most_share = greatest_utilization(plan_of())
    assert plan_of(f"actor_rollout_ref.rollout.gpu_memory_utilization={most_share}").fits
    assert not plan_of(f"actor_rollout_ref.rollout.gpu_memory_utilization={most_share + 0.01}").fits


@pytest.mark.parametrize("engine", ["fsdp", "megatron"])
def test_what_is_said_to_help_does(plan_of: Callable[..., Plan], engine: str) -> None:
    overrides = (*TOO_MUCH, f"engine={engine}")
    plan, config = plan_of(*overrides), config_of(*overrides)
    shape = plan.models.rollout.shape
    before = copy.deepcopy(config)
    found = remedies(plan, config, lambda changed: make_plan(changed, shape, shape, H100, RESERVE))
    assert config == before
    assert found[0].plan.fits
    for remedy in found:
        assert plan_of(*overrides, *remedy.overrides).peak.total == remedy.plan.peak.total < plan.peak.total


def test_a_rollout_without_room_for_one_sequence_does_not_fit(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("actor_rollout_ref.rollout.gpu_memory_utilization=0.2")
    assert plan.peak.total < H100.memory
    assert not plan.generates
    assert not plan.fits


def test_settings_that_the_plan_does_not_know_are_refused(plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(ValueError, match=r"actor_rollout_ref\.model\.lora_rank = 8"):
        plan_of("actor_rollout_ref.model.lora_rank=8")
    with pytest.raises(ValueError, match=r"log_prob_micro_batch_size_per_gpu = None"):
        plan_of("actor_rollout_ref.actor.use_dynamic_bsz=false")
    # Sizes that the run itself would refuse.
    with pytest.raises(ValueError, match=r"rollout\.tensor_model_parallel_size = 3 does .* may be 1, 2 or 4"):
        plan_of("actor_rollout_ref.rollout.tensor_model_parallel_size=3")


@pytest.mark.parametrize("engine", ["fsdp", "megatron"])
@pytest.mark.parametrize("groups", [("rollout=vllm", "cluster=1x8"), ("rollout=sglang", "cluster=4x8")], ids=" ".join)
@pytest.mark.parametrize(
    ("model", "config"), [("qwen2_5_math_1_5b", QWEN_1_5B), ("qwen2_5_math_7b", QWEN_7B), ("qwen3_4b", QWEN3_4B)]
)
@pytest.mark.usefixtures("hydra_configs")
def test_every_shipped_model_fits_80_gb(
    model: str, config: PretrainedConfig, groups: tuple[str, ...], engine: str
) -> None:
    shape = shape_of(config, model)
    composed = compose("multi_attempt", overrides=[f"model={model}", f"engine={engine}", *groups])
    for gpu in ("h100", "a100-80gb"):
        plan = make_plan(composed, shape, shape, named_gpu(gpu), RESERVE)
        assert plan.fits, (plan.peak, greatest_utilization(plan))


# ---- Tokens and hours ----


def test_the_papers_run_is_of_the_right_order(hydra_configs: None) -> None:
    config, shape = compose("multi_attempt"), shape_of(QWEN_1_5B, "1.5B")
    plan = make_plan(config, shape, shape, named_gpu("a100-80gb"), RESERVE)
    assumed = default_assumptions(config)
    cost = run_cost(plan, config, assumed)
    assert (assumed.steps, assumed.attempts, assumed.attempt_tokens) == (1280, 3.0, 600.0)
    assert cost.step_tokens == 1024 * (256 + 1800)
    # Trained: actor and critic at six operations a parameter and token; and three forward passes.
    operations = cost.step_tokens * (8 * 2 * shape.policy_parameters + 2 * shape.policy_parameters)
    assert sum(cost.seconds.values()) - cost.seconds["generation"] == pytest.approx(
        operations / (8 * 312e12 * 0.35), rel=1e-3
    )
    # It took four days, with an engine of another kind; ours must not promise a tenth, nor more than it took.
    assert 96 / 10 < cost.hours < 96


@pytest.mark.parametrize(("name", "value"), [("mfu", 1.5), ("mfu", 0), ("attempt_tokens", -1), ("steps", 0)])
def test_an_impossible_assumption_is_named(
    plan_of: Callable[..., Plan], hydra_configs: None, name: str, value: Any
) -> None:
    config = config_of()
    with pytest.raises(ValueError, match=rf"--{name.replace('_', '-')} = {value} must be"):
        run_cost(plan_of(), config, replace(default_assumptions(config), **{name: value}))


# ---- GPUs ----


def test_every_named_gpu_has_its_figures() -> None:
    for name in gpu_names():
        gpu = named_gpu(name)
        assert 10 * GIB < gpu.memory < 1000 * GIB
        assert 1e14 < gpu.flops < 1e16
        assert 1e11 < gpu.bandwidth < 1e14


def test_wrong_gpus_are_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"--gpu = 'v1' is none of a100-40gb, .*--gpu-memory"):
        named_gpu("v1")
    with pytest.raises(ValueError, match=r"--gpu-tflops = 0 must be positive"):
        custom_gpu("mine", 80, 0, 1)


# ---- The command ----


@pytest.fixture
def folder(tmp_path: Path, shape: ModelShape) -> Path:
    QWEN_7B.save_pretrained(tmp_path)
    return tmp_path


def check(*arguments: str) -> int:
    return cli.main(["check", *arguments])


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_prints_a_plan_that_fits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--model-config", str(folder), "model=qwen2_5_math_7b") == check_command.DOES_NOT_FIT
    text = capsys.readouterr().out
    assert "7,615,616,512" in text
    assert "It fits. Most is held in the generation" in text
    # What the run's own check finds is told, and keeps nobody from the plan, but from a run: there are no data here.
    assert "The start-up check says, here and now:" in text


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_ends_well_where_the_check_finds_nothing_and_it_fits(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "check", lambda _: None)
    assert check("--model-config", str(folder), "model=qwen2_5_math_7b") == 0
    assert "The start-up check says" not in capsys.readouterr().out


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("multi_attempt.max_attempts=0", "multi_attempt.max_attempts = 0"),
        ("multi_attempt=null", "--config-name multi_attempt"),
        ("trainer.n_gpus_per_node=0", "trainer.n_gpus_per_node = 0 must be a whole number of at least 1"),
        ("trainer.n_gpus_per_node=null", "trainer.n_gpus_per_node = None"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=0", "tensor_model_parallel_size = 0"),
        ("actor_rollout_ref.actor.optim.lr=nan", "actor_rollout_ref.actor.optim.lr = nan"),
        ("data.max_response_length=many", "data.max_response_length = 'many'"),
        ("trainer=null", "trainer = None must be a mapping"),
        ("data.train_batch_size=0", "data.train_batch_size = 0"),
    ],
)
@pytest.mark.parametrize("form", ["--json", ""])
def test_a_value_that_no_run_can_have_is_told_before_anything_is_planned(
    folder: Path, capsys: pytest.CaptureFixture[str], override: str, part: str, form: str
) -> None:
    """And the status keeps `multi-attempt check && sbatch` from going on."""
    assert check(*filter(None, [form]), "--model-config", str(folder), override) != 0
    text = capsys.readouterr().out
    problems = json.loads(text)["problems"] if form else [text]
    assert [problem for problem in problems if part in problem], text


@pytest.mark.usefixtures("hydra_configs")
def test_what_the_check_does_not_survive_is_a_problem_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: DictConfig) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(startup, "check", fail)
    assert check("--model-config", str(folder), "model=qwen2_5_math_7b") == check_command.DOES_NOT_FIT
    assert "the start-up check itself failed: KeyError: 'a bug'" in capsys.readouterr().out


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_says_what_helps_when_it_does_not_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--model-config", str(folder), "model=qwen2_5_math_7b", *TOO_MUCH) == check_command.DOES_NOT_FIT
    text = capsys.readouterr().out
    assert "It does not fit: the generation takes" in text
    assert "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true" in text


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_gives_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = ("--gpu-memory", "64", "--gpu-tflops", "500", "--gpu-bandwidth", "2000")
    options = ("--json", *figures, "--model-config", str(folder))
    # Overrides stand anywhere, as for Hydra.
    assert check("model=qwen2_5_math_7b", *options, "cluster=4x8", "--steps", "10", "trainer.nnodes=2") != 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"] is True
    assert plan["problems"]  # there are no data here
    assert plan["gpu"]["memory"] == 64 * GIB
    assert plan["models"]["actor"]["parameters"] == 7_615_616_512
    assert plan["phases"]["generation"]["total"] == pytest.approx(0.6 * 64 * GIB + RESERVE)
    assert plan["models"]["actor"]["weights"] == pytest.approx(4 * 7_615_616_512 / 16)
    assert plan["cost"]["assumptions"]["steps"] == 10


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--gpu", "v1"), ("--gpu = 'v1'", "--gpu-memory")),
        (("--gpu-memory", "80"), ("--gpu-tflops", "together")),
        (("--gpu", "h100", "--gpu-memory", "80"), ("--gpu = 'h100'", "one or the others")),
        (("--reserve", "-1"), ("--reserve = -1.0",)),
        (("--config-name", "nothing"), ("--config-name nothing", "Cannot find primary config")),
        (("data.nothing=1",), ("data.nothing=1", "nothing")),
        (("actor_rollout_ref.model.path=/nowhere",), ("actor_rollout_ref.model.path = /nowhere", "--model-config")),
        (("--model-config", "/nowhere"), ("actor_rollout_ref.model.hf_config_path = /nowhere", "config.json")),
    ],
)
def test_bad_input_is_named_with_the_remedy(
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["check", *arguments]) == 2
    message = capsys.readouterr().err
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize("file", ["", "config.json"])
def test_a_model_is_read_from_its_folder_or_its_config_file(folder: Path, shape: ModelShape, file: str) -> None:
    field = "actor_rollout_ref.model"
    assert read_shape(config_of(f"{field}.path=7B", f"{field}.hf_config_path={folder / file}"), field) == shape
