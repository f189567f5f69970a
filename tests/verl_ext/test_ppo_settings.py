"""PPO's settings reach verl's optimisers, schedule, loss and value head; what verl does not read is not set."""

from __future__ import annotations

import math
import re
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import verl
import yaml
from hydra import compose
from omegaconf import OmegaConf
from transformers import AutoModelForTokenClassification, Qwen2Config, Qwen2ForCausalLM
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.config.optimizer import build_optimizer
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

from multi_attempt.toy.tokenizer import make_tokenizer

pytestmark = pytest.mark.usefixtures("hydra_configs")

STEPS = 1280
"""Rollout steps of the paper's run: 160 passes of 8."""

VERL = Path(verl.__file__).parent


@pytest.mark.parametrize(("role", "rate"), [("actor_rollout_ref.actor", 5e-7), ("critic", 1e-5)])
def test_fsdps_optimiser_and_schedule_are_those_of_the_config(role: str, rate: float) -> None:
    optim = omega_conf_to_dataclass(OmegaConf.select(compose("multi_attempt"), f"{role}.optim"))
    optim.total_training_steps = STEPS
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], optim)
    [group] = optimizer.param_groups
    assert (tuple(group["betas"]), group["weight_decay"]) == ((0.9, 0.95), 0.0)
    engine: Any = SimpleNamespace(optimizer_config=optim, rank=1)
    schedule = FSDPEngine._build_lr_scheduler(engine, optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    warm_up = int(0.03 * STEPS)
    # The first step is not lost: it has the first of the warm-up's rates.
    assert rates[0] == pytest.approx(rate / warm_up)
    assert max(rates) == rates[warm_up - 1] == pytest.approx(rate)
    assert rates[-1] == pytest.approx(rate / 10, rel=1e-4)


def test_a_very_bad_token_is_not_clipped_a_second_time() -> None:
    actor = omega_conf_to_dataclass(compose("multi_attempt").actor_rollout_ref.actor)
    ratios = torch.tensor([[0.5, 1.0, 2.0, 50.0, math.exp(19.9)]])
    for advantage in (-1.0, 1.0):
        advantages = torch.full_like(ratios, advantage)
        actor.global_batch_info.update(dp_size=1, batch_num_tokens=ratios.numel(), global_batch_size=1)
        policy_loss: Any = compute_policy_loss_vanilla
        loss, metrics = policy_loss(
            torch.zeros_like(ratios), ratios.log(), advantages, torch.ones_like(ratios), "token-mean", actor
        )
        expected = -torch.minimum(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert metrics["actor/pg_clipfrac_lower"] == 0


def test_the_value_heads_first_weights_are_small_and_the_others_are_the_models(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 260, "hidden_size": 1536, "intermediate_size": 64, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, eos_token_id=258, pad_token_id=256))
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    config = compose("multi_attempt", overrides=[f"critic.model.path={tmp_path}"])
    critic_config = omega_conf_to_dataclass(config.critic.model)
    assert isinstance(critic_config, HFModelConfig)
    critic_config.hf_config.num_labels = 1
    # As verl loads it (verl/utils/model.py, load_valuehead_model), but for the attention.
    critic_config.hf_config._attn_implementation = "sdpa"
    critic = AutoModelForTokenClassification.from_pretrained(tmp_path, config=critic_config.hf_config)
    assert critic.score.weight.std().item() == pytest.approx(1 / (1536 + 1), rel=0.1)
    saved = model.model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in critic.model.state_dict().items())


# ---- What verl 0.9.1's V1 trainer does not read: a setting of it would be a word without a meaning ----

# By the last two words of the key: files of verl that would have to read it, and how.
DEAD = {
    "trainer.balance_batch": (["trainer/ppo/v1"], r"trainer\.(get\(\")?balance_batch"),
    "actor.grad_clip": (["trainer/ppo/v1", "workers/engine", "workers/engine_workers.py"], r"grad_clip"),
    "critic.grad_clip": (["trainer/ppo/v1", "workers/engine", "workers/engine_workers.py"], r"grad_clip"),
    "val_kwargs.do_sample": (
        ["trainer/ppo/v1", "experimental/agent_loop", "workers/rollout"],
        r"val_kwargs\.(get\(\")?do_sample",
    ),
    "critic.use_dynamic_bsz": (
        ["trainer/ppo/v1", "workers/engine_workers.py"],
        r"critic(_cfg|_config)?\.(get\(\")?use_dynamic_bsz",
    ),
}


@pytest.mark.parametrize("key", DEAD)
def test_verl_still_does_not_read(key: str) -> None:
    places, reading = DEAD[key]
    paths = [file for place in places for file in sorted((VERL / place).rglob("*.py")) or [VERL / place]]
    assert len(paths) >= len(places)
    assert [str(path) for path in paths if re.search(reading, path.read_text("utf-8"))] == []


@pytest.mark.parametrize("key", DEAD)
def test_no_config_sets_what_verl_does_not_read(key: str) -> None:
    parent, name = key.split(".")
    for file in config_files():
        for path in leaves(yaml.safe_load(file.read_text("utf-8"))):
            assert path[-2:] != [parent, name], file


def config_files() -> list[Path]:
    return sorted(Path(str(files("verl_ext.config"))).rglob("*.yaml"))


def leaves(node: Any, path: tuple[str, ...] = ()) -> list[list[str]]:
    """The keys of a nested mapping, each as its words."""
    if not isinstance(node, dict):
        return [list(path)]
    return [found for key, value in node.items() for found in leaves(value, (*path, str(key)))]


# Keys of the hydra package and of the plugin's own groups, which verl has no business with.
_OURS = {"multi_attempt", "layout", "cpu", "hydra", "toy", "smollm2", "word_problems", "defaults", "engine"}
# Handed to a library as they are: vLLM, SGLang, Ray, TransferQueue, transformers, Megatron, torch's profiler.
_HANDED_ON = {
    *("engine_kwargs", "override_config", "env_vars", "ray_init", "override_transformer_config"),
    *("override_optimizer_config", "profiler", "global_profiler", "model_engine", "SimpleStorage"),
}
# In verl's sections, by what the plugin registers there (verl_ext/algorithms/feedback_loss.py).
_READ_BY_US = {"feedback_coef"}


def test_verl_reads_every_key_that_is_set() -> None:
    text = "\n".join(path.read_text("utf-8") for path in sorted(VERL.rglob("*.py")) if "/config/" not in str(path))
    words = set(re.findall(r"\w+", text))
    read = {
        path[-1]
        for file in config_files()
        for path in leaves(yaml.safe_load(file.read_text("utf-8")))
        if path[0] not in _OURS and not _HANDED_ON & set(path)
    }
    assert len(read) > 60
    assert sorted(key for key in read - _READ_BY_US if key not in words) == []


def test_the_critics_limit_is_read_by_way_of_another() -> None:
    config = compose("multi_attempt", overrides=["critic.ppo_max_token_len_per_gpu=123"])
    assert config.critic.ppo_infer_max_token_len_per_gpu == 123
    text = (VERL / "trainer/ppo/v1/trainer_base.py").read_text("utf-8")
    assert "critic_cfg.engine.max_token_len_per_gpu = critic_cfg.ppo_infer_max_token_len_per_gpu" in text
    assert "critic_cfg.ppo_max_token_len_per_gpu" not in text


def test_verl_still_hands_megatron_no_betas() -> None:
    # Where it does, config/engine_settings/megatron.yaml has them like FSDP's.
    text = (VERL / "utils/megatron/optimizer.py").read_text("utf-8")
    assert "adam_beta" not in text
    assert 'override_config = optim_config.get("override_optimizer_config", {})' in text
    config = compose("multi_attempt", overrides=["engine=megatron"])
    for optim in (config.actor_rollout_ref.actor.optim, config.critic.optim):
        settings = omega_conf_to_dataclass(optim)
        assert settings.override_optimizer_config == {"adam_beta2": 0.95}
        assert (settings.weight_decay, settings.lr_warmup_init) == (0.0, pytest.approx(settings.lr * 0.011))
