"""Which parallel sizes a model and a number of GPUs allow, and what is said of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict
from published_models import PUBLISHED
from transformers import GPT2Config, Qwen2Config, Qwen2MoeConfig

from verl_ext.model.parallel_sizes import parallel_size_errors

pytestmark = pytest.mark.usefixtures("hydra_configs")

SHAPES = {
    **PUBLISHED,
    "experts": Qwen2MoeConfig(
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        intermediate_size=5632,
        num_experts=60,
        vocab_size=151936,
    ),
}
MODELS = list(PUBLISHED)

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders with a ``config.json`` and nothing else."""
    root = tmp_path_factory.mktemp("models")
    for name, shape in SHAPES.items():
        shape.save_pretrained(root / name)
    return {name: root / name for name in SHAPES}


@pytest.fixture(scope="module")
def composed(folders: dict[str, Path], hydra_configs: None) -> Compose:
    """A config of the plugin for a model, with other values of some fields."""

    def composed(model: str, engine: str, *overrides: str, **fields: Any) -> DictConfig:
        group = [f"model={model}"] if model in MODELS else []
        path = f"actor_rollout_ref.model.path={folders[model]}"
        config = compose("multi_attempt", overrides=[*group, f"engine={engine}", path, *overrides])
        with open_dict(config):
            for field, value in fields.items():
                OmegaConf.update(config, field, value, force_add=True)
        return config

    return composed


def only_error(config: DictConfig) -> str:
    [error] = parallel_size_errors(config)
    return error


def assert_tells(error: str, *parts: str) -> None:
    assert [part for part in parts if part not in error] == [], error


@pytest.mark.parametrize("cluster", ["1x8", "4x8"])
@pytest.mark.parametrize("rollout", ["vllm", "sglang"])
@pytest.mark.parametrize("engine", ["fsdp", "megatron"])
@pytest.mark.parametrize("model", MODELS)
def test_the_configs_own_sizes_fit(composed: Compose, model: str, engine: str, rollout: str, cluster: str) -> None:
    assert list(parallel_size_errors(composed(model, engine, f"rollout={rollout}", f"cluster={cluster}"))) == []


# ---- One wrong size, and what is said of it ----

ACTOR, CRITIC, ROLLOUT = "actor_rollout_ref.actor", "critic", "actor_rollout_ref.rollout"
MEGATRON = (f"{ACTOR}.megatron", f"{CRITIC}.megatron")
TENSOR, PIPELINE = "tensor_model_parallel_size", "pipeline_model_parallel_size"
UNEVEN = "override_transformer_config.num_layers_in_first_pipeline_stage"


def on_both(name: str, value: Any) -> dict[str, Any]:
    """A field of Megatron's settings, of actor and critic."""
    return {f"{settings}.{name}": value for settings in MEGATRON}


def megatron(tensor: int = 1, pipeline: int = 1, context: int = 1, **others: Any) -> dict[str, Any]:
    sizes = {TENSOR: tensor, PIPELINE: pipeline, "context_parallel_size": context, **others}
    return {field: size for name in sizes for field, size in on_both(name, sizes[name]).items()}


MEGATRON_ERRORS = [
    ("qwen2_5_math_1_5b", megatron(tensor=8), f"{TENSOR} = 8", ("12 heads", "may be 1, 2 or 4")),
    ("qwen2_5_math_7b", megatron(tensor=8), f"{TENSOR} = 8", ("28 heads, 4 for keys and values", "may be 1, 2 or 4")),
    ("qwen2_5_math_7b", megatron(pipeline=8), f"{PIPELINE} = 8", ("28 layers", "may be 1, 2, 4 or 7")),
    ("qwen3_4b", megatron(pipeline=8), f"{PIPELINE} = 8", ("36 layers", "may be 1, 2, 3, 4 or 6", UNEVEN)),
    ("qwen3_4b", megatron(4, 2, 2), "[4, 2, 2]", ("take 16 GPUs", "= 8", "may be 1, 2, 4 or 8")),
    ("qwen2_5_math_7b", megatron(context=3), "[1, 1, 3]", ("take 3 GPUs", "may be 1, 2, 4 or 8")),
    (
        "qwen2_5_math_7b",
        megatron(pipeline=2, virtual_pipeline_model_parallel_size=4),
        "virtual_pipeline_model_parallel_size = 4",
        ("14 layers of a pipeline stage", "may be null, 1, 2, 7 or 14"),
    ),
    (
        "qwen2_5_math_7b",
        megatron(virtual_pipeline_model_parallel_size=2),
        "virtual_pipeline_model_parallel_size = 2",
        (f"{PIPELINE} above 1", "set it to null"),
    ),
    (
        "qwen2_5_math_7b",
        megatron(expert_model_parallel_size=2),
        "expert_model_parallel_size = 2",
        ("no experts", "set it to 1"),
    ),
    (
        "experts",
        megatron(expert_model_parallel_size=8),
        "expert_model_parallel_size = 8",
        ("60 experts", "may be 1, 2, 3, 4, 5 or 6"),
    ),
    (
        "experts",
        megatron(expert_model_parallel_size=4, expert_tensor_parallel_size=4),
        "expert_model_parallel_size = 4",
        ("takes 16 GPUs", "= 8", "lower one"),
    ),
]


@pytest.mark.parametrize(("model", "fields", "value", "parts"), MEGATRON_ERRORS)
def test_a_size_of_megatron_that_does_not_fit_is_named_for_each_role(
    composed: Compose, model: str, fields: dict[str, Any], value: str, parts: tuple[str, ...]
) -> None:
    errors = list(parallel_size_errors(composed(model, "megatron", **fields)))
    # The reference policy has the actor's sizes.
    roles = (f"{ACTOR}.megatron.", "actor_rollout_ref.ref.megatron.", f"{CRITIC}.megatron.")
    assert len(errors) == len(roles), errors
    for error, role in zip(errors, roles, strict=True):
        assert error.startswith(role)
        assert_tells(error, value, *parts)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        # Heads for keys and values are repeated.
        ("qwen2_5_math_1_5b", megatron(tensor=4)),
        ("qwen2_5_math_7b", megatron(tensor=4, pipeline=2)),
        ("qwen2_5_math_7b", megatron(pipeline=2, virtual_pipeline_model_parallel_size=7)),
        ("qwen3_4b", megatron(2, 2, 2)),
        ("qwen3_4b", megatron(tensor=8)),
        # 36 layers on 8 stages: 1, and 5 on each of the others.
        ("qwen3_4b", {**megatron(pipeline=8), **on_both(UNEVEN, 1)}),
        ("experts", megatron(expert_model_parallel_size=4, expert_tensor_parallel_size=1)),
    ],
)
def test_sizes_of_megatron_that_fit_pass(composed: Compose, model: str, fields: dict[str, Any]) -> None:
    assert list(parallel_size_errors(composed(model, "megatron", **fields))) == []


def test_a_vocabulary_must_split_where_mbridge_pads_none(composed: Compose, folders: dict[str, Path]) -> None:
    shape = Qwen2Config.from_pretrained(folders["qwen2_5_math_7b"], vocab_size=151_667)
    shape.save_pretrained(folders["qwen2_5_math_7b"].with_name("odd"))
    path = {"actor_rollout_ref.model.path": str(folders["qwen2_5_math_7b"].with_name("odd"))}
    fields = {**path, **megatron(tensor=4)}
    errors = list(parallel_size_errors(composed("qwen2_5_math_7b", "megatron", **fields)))
    assert len(errors) == 3
    assert_tells(errors[0], f"{TENSOR} = 4", "151667 tokens in the vocabulary", "it may be 1")
    others = composed("qwen2_5_math_7b", "megatron", **fields, **on_both("vanilla_mbridge", False))
    assert list(parallel_size_errors(others)) == []


def test_the_critic_cannot_have_other_sizes_than_the_actor(composed: Compose) -> None:
    fields = {**megatron(tensor=4), f"{CRITIC}.megatron.{TENSOR}": 2}
    error = only_error(composed("qwen2_5_math_7b", "megatron", **fields))
    assert error.startswith(f"{CRITIC}.megatron.{TENSOR} = 2")
    assert_tells(error, f"{ACTOR}.megatron.{TENSOR} = 4", "same")


def test_a_critic_that_is_another_model_is_checked_by_its_own_shape(
    composed: Compose, folders: dict[str, Path]
) -> None:
    fields = {**megatron(tensor=8), "critic.model.path": str(folders["qwen2_5_math_7b"])}
    error = only_error(composed("qwen3_4b", "megatron", **fields))
    assert_tells(error, f"{CRITIC}.megatron.{TENSOR} = 8", "28 heads")


def test_without_a_critic_its_sizes_do_not_matter(composed: Compose) -> None:
    fields = {f"{CRITIC}.megatron.{TENSOR}": 5, "algorithm.adv_estimator": "grpo"}
    assert list(parallel_size_errors(composed("qwen2_5_math_7b", "megatron", **fields))) == []


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        (
            {f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 8},
            (f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size = 8", "28 heads", "it may be 1, 2 or 4"),
        ),
        (
            {"actor_rollout_ref.ref.ulysses_sequence_parallel_size": 3},
            ("actor_rollout_ref.ref.ulysses_sequence_parallel_size = 3", "it may be 1, 2 or 4"),
        ),
        (
            {f"{CRITIC}.fsdp.ulysses_sequence_parallel_size": 7},
            (f"{CRITIC}.fsdp.ulysses_sequence_parallel_size = 7", "= 8", "it may be 1, 2 or 4"),
        ),
        (  # 7 divides the 28 heads, and fits with 4 for keys and values no way
            {f"{CRITIC}.fsdp.ulysses_sequence_parallel_size": 7, "trainer.n_gpus_per_node": 7},
            (f"{CRITIC}.fsdp.ulysses_sequence_parallel_size = 7", "= 7; it may be 1"),
        ),
        (
            {f"{CRITIC}.ulysses_sequence_parallel_size": 2},
            (f"{CRITIC}.ulysses_sequence_parallel_size = 2", f"set {CRITIC}.fsdp.ulysses_sequence_parallel_size"),
        ),
        ({f"{ACTOR}.fsdp_config.fsdp_size": 3}, (f"{ACTOR}.fsdp_config.fsdp_size = 3", "-1 (all), 1, 2, 4 or 8")),
        ({f"{ROLLOUT}.{TENSOR}": 8}, (f"{ROLLOUT}.{TENSOR} = 8", "28 heads", "it may be 1, 2 or 4")),
        ({f"{ROLLOUT}.{PIPELINE}": 3}, ("[1, 1, 3]", "replica of 3 GPUs", "it may have 1, 2, 4 or 8")),
        ({f"{ROLLOUT}.data_parallel_size": 4, f"{ROLLOUT}.{TENSOR}": 4}, ("[4, 4, 1]", "replica of 16 GPUs")),
    ],
)
def test_a_size_of_fsdp_or_the_rollout_that_does_not_fit_is_named(
    composed: Compose, fields: dict[str, Any], parts: tuple[str, ...]
) -> None:
    assert_tells(only_error(composed("qwen2_5_math_7b", "fsdp", **fields)), *parts)


@pytest.mark.parametrize(
    "fields",
    [
        {f"{ACTOR}.ulysses_sequence_parallel_size": 4},
        {f"{CRITIC}.fsdp.ulysses_sequence_parallel_size": 2},
        {f"{ACTOR}.fsdp_config.fsdp_size": 4},
        {f"{ACTOR}.fsdp_config.fsdp_size": 100},
        {f"{ROLLOUT}.{TENSOR}": 4, f"{ROLLOUT}.data_parallel_size": 2},
    ],
)
def test_sizes_of_fsdp_and_the_rollout_that_fit_pass(composed: Compose, fields: dict[str, Any]) -> None:
    assert list(parallel_size_errors(composed("qwen2_5_math_7b", "fsdp", **fields))) == []


# ---- The tokens of a micro-batch ----

TOKENS = "max_token_len_per_gpu"
LONGEST = {"data.max_prompt_length": 1000, "data.max_response_length": 3001}


@pytest.mark.parametrize(
    ("field", "others"),
    [
        (
            f"{ACTOR}.ppo_{TOKENS}",
            {f"{ROLLOUT}.log_prob_{TOKENS}": 4001, f"actor_rollout_ref.ref.log_prob_{TOKENS}": 4001},
        ),
        (f"{ROLLOUT}.log_prob_{TOKENS}", {}),
        (f"actor_rollout_ref.ref.log_prob_{TOKENS}", {}),
        (f"{CRITIC}.ppo_infer_{TOKENS}", {}),
    ],
)
@pytest.mark.parametrize("engine", ["fsdp", "megatron"])
def test_a_micro_batch_holds_the_longest_sequence(
    composed: Compose, engine: str, field: str, others: dict[str, int]
) -> None:
    fields = {**LONGEST, **others, field: 4000}
    error = only_error(composed("qwen2_5_math_7b", engine, **fields))
    assert_tells(error, f"{field} = 4000", "a sequence on 1 GPU,", "a sequence of 4001 tokens", "at least 4001")
    assert list(parallel_size_errors(composed("qwen2_5_math_7b", engine, **{**fields, field: 4001}))) == []


def test_a_sequence_is_no_longer_than_the_rollouts_context(composed: Compose) -> None:
    fields = {**LONGEST, f"{CRITIC}.ppo_infer_{TOKENS}": 4000, f"{ROLLOUT}.max_model_len": 4000}
    assert list(parallel_size_errors(composed("qwen2_5_math_7b", "fsdp", **fields))) == []


def test_gpus_that_share_a_sequence_share_its_tokens(composed: Compose) -> None:
    fields = {**LONGEST, f"{ACTOR}.ppo_{TOKENS}": 2000}
    on_two = {"fsdp": {f"{ACTOR}.ulysses_sequence_parallel_size": 2}, "megatron": megatron(context=2)}
    for engine, sizes in on_two.items():
        errors = list(parallel_size_errors(composed("qwen2_5_math_7b", engine, **fields, **sizes)))
        assert len(errors) == 3  # the limits for log-probabilities are the actor's
        assert_tells(errors[0], f"{ACTOR}.ppo_{TOKENS} = 2000", "2 GPUs", "at least 2001")


def test_micro_batches_of_a_number_of_sequences_have_no_such_limit(composed: Compose) -> None:
    fields = {**LONGEST, f"{ACTOR}.ppo_{TOKENS}": 10, f"{CRITIC}.ppo_infer_{TOKENS}": 10}
    fixed = {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 1}
    assert list(parallel_size_errors(composed("qwen2_5_math_7b", "fsdp", **fields, **fixed))) == []


@pytest.mark.parametrize(
    ("model", "roles"), [("actor_rollout_ref.model", [ACTOR, "actor_rollout_ref.ref"]), ("critic.model", [CRITIC])]
)
def test_a_model_is_known_by_the_configuration_that_verl_takes(
    composed: Compose, folders: dict[str, Path], model: str, roles: list[str]
) -> None:
    other = {f"{model}.hf_config_path": str(folders["qwen2_5_math_7b"])}
    errors = list(parallel_size_errors(composed("qwen3_4b", "megatron", **other, **megatron(tensor=8))))
    assert len(errors) == len(roles), errors
    for error, role in zip(errors, roles, strict=True):
        assert_tells(error, f"{role}.megatron.{TENSOR} = 8", "28 heads")


def test_a_model_without_a_feed_forward_width_is_split_by_its_heads(composed: Compose, tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    path = {"actor_rollout_ref.model.path": str(tmp_path)}
    assert list(parallel_size_errors(composed("qwen3_4b", "fsdp", **path))) == []


def test_a_model_without_a_configuration_is_named(composed: Compose, tmp_path: Path) -> None:
    config = composed("qwen2_5_math_7b", "fsdp", **{"actor_rollout_ref.model.path": str(tmp_path)})
    assert_tells(
        only_error(config),
        f"actor_rollout_ref.model.path = {tmp_path}",
        "no config.json could be loaded",
        "name a model's folder",
    )
