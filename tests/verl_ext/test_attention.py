"""Attention for episodes that stand in one row without padding, held against transformers' own."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForTokenClassification,
)
from verl.utils import model as verl_model
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

from verl_ext.model import attention

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LENGTHS = (5, 1, 9, 3)


@pytest.fixture(autouse=True)
def _registered() -> None:
    attention.register()


def model(config: PretrainedConfig, implementation: str) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    return made.eval()


def packed() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and positions of sequences in one row, shape [1, tokens]."""
    torch.manual_seed(1)
    ids = torch.randint(0, SIZES["vocab_size"], (1, sum(LENGTHS)))
    return ids, torch.cat([torch.arange(length) for length in LENGTHS])[None]


def test_each_sequence_of_a_row_is_as_if_it_were_alone() -> None:
    config = LlamaConfig(**SIZES)
    ids, positions = packed()
    row = model(config, attention.NAME)(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    alone = model(config, "sdpa")
    for part, logits in zip(ids[0].split(LENGTHS), row.split(LENGTHS), strict=True):
        torch.testing.assert_close(logits, alone(input_ids=part[None], use_cache=False).logits[0])


def test_gradients_are_those_of_the_masked_row() -> None:
    config = LlamaConfig(**SIZES)
    ids, positions = packed()
    gradients = []
    for implementation in (attention.NAME, "sdpa"):
        network = model(config, implementation)
        network(input_ids=ids, position_ids=positions, use_cache=False).logits.logsumexp(-1).sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_padded_batch_is_masked_as_ever() -> None:
    config = LlamaConfig(**SIZES)
    ids = torch.randint(0, SIZES["vocab_size"], (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    ours, theirs = (
        model(config, implementation)(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]
        for implementation in (attention.NAME, "sdpa")
    )
    torch.testing.assert_close(ours, theirs)


def test_a_sequence_beyond_a_sliding_window_is_refused() -> None:
    ids, positions = packed()
    model(MistralConfig(**SIZES, sliding_window=9), attention.NAME)(input_ids=ids, position_ids=positions)
    with pytest.raises(NotImplementedError, match=r"9 tokens is longer .* window of 8.*cpu.packed=false"):
        model(MistralConfig(**SIZES, sliding_window=8), attention.NAME)(input_ids=ids, position_ids=positions)


# ---- The critic, which verl loads with flash attention whatever it is told ----


@pytest.fixture(scope="module")
def critic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("critic")
    config = Qwen2Config(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=8,
    )
    config.num_labels = 1
    Qwen2ForTokenClassification(config).save_pretrained(folder)
    return folder


def load_critic(folder: Path, implementation: str) -> Any:
    config = Qwen2Config.from_pretrained(folder, num_labels=1, attn_implementation=implementation)
    return verl_model.load_valuehead_model(str(folder), torch.float32, config, False)


@pytest.mark.parametrize("implementation", [attention.NAME, "sdpa", "flex_attention"])
def test_the_critic_has_the_attention_that_is_chosen_and_the_weights_of_its_folder(
    critic_folder: Path, implementation: str
) -> None:
    critic = load_critic(critic_folder, implementation)
    assert critic.config._attn_implementation == implementation
    assert critic.dtype == torch.float32
    saved = Qwen2ForTokenClassification.from_pretrained(critic_folder).state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in critic.state_dict().items())


def test_verl_still_asks_for_flash_attention_and_is_left_to_it_where_it_is_chosen(
    critic_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def record(*_: Any, attn_implementation: str, **__: Any) -> None:
        asked.append(attn_implementation)

    monkeypatch.setattr(AutoModelForTokenClassification, "from_pretrained", record)
    config = Qwen2Config.from_pretrained(critic_folder)
    config._attn_implementation = "sdpa"
    attention._load_with_flash_attention(str(critic_folder), torch.float32, config, False)
    assert asked == ["flash_attention_2"]  # verl's function as it is
    config._attn_implementation = "flash_attention_2"
    verl_model.load_valuehead_model(str(critic_folder), torch.float32, config, False)
    config._attn_implementation = attention.NAME
    verl_model.load_valuehead_model(str(critic_folder), torch.float32, config, False)
    assert asked[1:] == ["flash_attention_2", attention.NAME]


def test_verls_engine_still_looks_the_function_up_when_it_builds() -> None:
    assert "from verl.utils.model import load_valuehead_model" in inspect.getsource(FSDPEngine._build_module)


# ---- The choice, and its check ----

CHOICES = {name: name for name in ("flash_attention_2", "flash_attention_3", "flex_attention")} | {
    "sdpa": attention.NAME
}
MODELS = ("actor_rollout_ref.model", "critic.model")


def composed(*overrides: str, name: str = "multi_attempt") -> DictConfig:
    return compose(name, overrides=list(overrides))


def errors(config: DictConfig, *, installed_here: bool = True) -> list[str]:
    return list(attention.attention_errors(config, installed_here=installed_here))


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize("choice", CHOICES)
def test_one_word_chooses_the_attention_of_all_three(choice: str, model_folder: Path) -> None:
    path = f"actor_rollout_ref.model.path={model_folder}"
    config = composed(f"attention={choice}", path)
    for field in MODELS:
        model_config: Any = omega_conf_to_dataclass(OmegaConf.select(config, field))
        assert model_config.hf_config._attn_implementation == CHOICES[choice]
        assert model_config.use_remove_padding


@pytest.mark.usefixtures("hydra_configs")
def test_flash_attention_is_the_default_on_gpus_and_ours_on_cpu() -> None:
    for name, implementation in (("multi_attempt", "flash_attention_2"), ("multi_attempt_cpu", attention.NAME)):
        config = composed(name=name)
        assert [attention.implementation(OmegaConf.select(config, field)) for field in MODELS] == [implementation] * 2


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize(
    ("choice", "package"), [("flash_attention_2", "flash_attn"), ("flash_attention_3", "flash_attn_interface")]
)
def test_a_package_that_is_missing_is_told_with_the_remedy(
    choice: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(f"attention={choice}")
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    told = errors(config)
    assert len(told) == 2
    for field, error in zip(MODELS, told, strict=True):
        assert f"{field}.override_config.attn_implementation = {choice}: the package {package} is not" in error
        assert "attention=sdpa" in error
    assert errors(config, installed_here=False) == []
    monkeypatch.setattr(attention, "find_spec", lambda name: name if name == package else None)
    assert errors(config) == []
    assert "needs CUDA, and trainer.device = 'cpu'" in errors(composed(f"attention={choice}", "trainer.device=cpu"))[0]


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize("choice", ["sdpa", "flex_attention"])
def test_without_flash_attention_no_sequence_is_split(choice: str) -> None:
    assert errors(composed(f"attention={choice}")) == []
    size = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
    told = errors(composed(f"attention={choice}", f"{size}=2"))
    assert any(f"{size} = 2" in error and "set the size to 1" in error for error in told)


@pytest.mark.usefixtures("hydra_configs")
def test_megatron_is_not_asked_for_an_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: None)
    assert errors(composed("engine=megatron")) == []
