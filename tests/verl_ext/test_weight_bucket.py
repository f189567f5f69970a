"""The start-up check of the weight bucket refuses what verl's sender refuses, and its remedy is one."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose
from omegaconf import DictConfig
from published_models import PUBLISHED, SMOLLM2
from training_memory import engine_of, first_of, write_model
from transformers import PretrainedConfig, Qwen3MoeConfig
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender

from verl_ext.checks.weight_bucket import largest_sent, weight_bucket_errors
from verl_ext.model.model_config import ACTOR_MODEL, load_model_config

FIELD = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"


def errors_of(folder: Path, model: PretrainedConfig, *overrides: str, name: str = "multi_attempt_cpu") -> list[str]:
    model.save_pretrained(folder)
    return list(weight_bucket_errors(compose(name, overrides=[f"actor_rollout_ref.model.path={folder}", *overrides])))


@pytest.mark.usefixtures("hydra_configs")
def test_a_bucket_that_is_too_small_is_named_with_the_tensor_and_the_remedy(tmp_path: Path) -> None:
    [error] = errors_of(tmp_path, SMOLLM2, f"{FIELD}=64")
    tensor = r"model\.embed_tokens\.weight \(49152 x 576 in float32: 108 MB\)"
    assert re.search(rf"^{re.escape(FIELD)} = 64 MB .* {tensor}.* set it to 108 or more$", error)
    assert errors_of(tmp_path, SMOLLM2, f"{FIELD}=107") != []
    assert errors_of(tmp_path, SMOLLM2, f"{FIELD}=108") == []


@pytest.mark.usefixtures("hydra_configs")
def test_the_precision_is_that_of_the_master_weights_and_not_that_of_the_passes(tmp_path: Path) -> None:
    engine = "actor_rollout_ref.actor.fsdp_config"
    passes = f"{engine}.mixed_precision.param_dtype=bf16"
    assert errors_of(tmp_path, SMOLLM2, f"{FIELD}=54", passes, "actor_rollout_ref.rollout.dtype=bfloat16") != []
    assert errors_of(tmp_path, SMOLLM2, f"{FIELD}=54", f"{engine}.model_dtype=bf16") == []
    assert errors_of(tmp_path, SMOLLM2, f"{FIELD}=107", f"{engine}.model_dtype=null") != []  # fp32


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize("name", PUBLISHED)
def test_no_config_for_gpus_and_none_with_sglang_has_a_bound(tmp_path: Path, name: str) -> None:
    model = PUBLISHED[name]  # 7B's embedding has 2079 MB in fp32, and verl's default is 2048
    for rollout in ("vllm", "sglang"):
        assert errors_of(tmp_path, model, f"rollout={rollout}", f"{FIELD}=1", name="multi_attempt") == []
    assert errors_of(tmp_path, model, "rollout=sglang", f"{FIELD}=1") == []


@pytest.mark.usefixtures("hydra_configs")
def test_a_model_without_a_config_is_an_error_and_no_exception() -> None:
    config = compose("multi_attempt_cpu", overrides=["actor_rollout_ref.model.path=/nowhere"])
    [error] = weight_bucket_errors(config)
    assert "actor_rollout_ref.model.path = /nowhere" in error


@pytest.mark.parametrize(
    ("config", "name", "shape"),
    [
        (SMOLLM2, "model.embed_tokens.weight", (49152, 576)),
        # Packed by transformers as 128 x 1536 x 2048, and sent expert by expert.
        (Qwen3MoeConfig(num_hidden_layers=1, vocab_size=100), "model.layers.0.self_attn.q_proj.weight", (2048, 2048)),
    ],
    ids=["dense", "experts"],
)
def test_the_largest_tensor_is_found_without_weights(
    config: PretrainedConfig, name: str, shape: tuple[int, ...]
) -> None:
    found, tensor = largest_sent(config, "bf16")
    assert (found, tuple(tensor.shape), tensor.dtype) == (name, shape, torch.bfloat16)
    assert tensor.is_meta


# ---- Against verl itself ----


@pytest.mark.usefixtures("hydra_configs")
def test_the_largest_tensor_is_that_of_verls_engine(tmp_path: Path) -> None:
    write_model(tmp_path, "19 million weights")
    config: DictConfig = compose("multi_attempt_cpu", overrides=[f"actor_rollout_ref.model.path={tmp_path}"])
    with first_of(1):
        weights, _ = engine_of(config, "actor")[0].get_per_tensor_param()
        sent = {name: (tensor.nbytes, tensor.dtype) for name, tensor in weights}
    name, tensor = largest_sent(load_model_config(config, ACTOR_MODEL), "fp32")
    assert (tensor.nbytes, tensor.dtype) == sent[name]
    assert tensor.nbytes == max(size for size, _ in sent.values())


@pytest.mark.parametrize(("megabytes", "is_sent"), [(2, False), (3, True)])
def test_verls_sender_takes_what_the_check_accepts_and_refuses_what_it_refuses(
    monkeypatch: pytest.MonkeyPatch, megabytes: int, is_sent: bool
) -> None:
    def answer(*_: Any) -> None:
        """Of a receiver that takes all."""

    socket = SimpleNamespace(send_pyobj=answer, recv=answer, close=answer)
    sender = BucketedWeightSender("inproc://nobody", megabytes, use_shm=True)
    monkeypatch.setattr(sender, "_init_socket", lambda: setattr(sender, "socket", socket))
    weights = iter([("first", torch.zeros(10)), ("large", torch.zeros(2 * 2**20 + 1, dtype=torch.uint8))])
    if is_sent:
        asyncio.run(sender.async_send_weights(weights))
    else:
        with pytest.raises(AssertionError, match="is too large to fit in the bucket"):
            asyncio.run(sender.async_send_weights(weights))
