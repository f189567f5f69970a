"""Models and episodes for the tests of Megatron, and the processes that train on them.

They take some minutes and packages of their own: they run when asked for, by ``make test-megatron``.
"""

from __future__ import annotations

import asyncio
import os

# verl chooses its platform once, when it is imported.
os.environ["VERL_PLATFORM"] = "cpu"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import SAMPLING, make_loop
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from ranks import MEGATRON, Ranks
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.trainer.ppo.core_algos import compute_gae_advantage_return
from verl.workers.rollout.replica import TokenOutput

from multi_attempt.toy.tokenizer import make_tokenizer

if not os.environ.get("TEST_MEGATRON"):
    collect_ignore_glob = ["test_*.py"]

_EPISODES = 8

# What the plugin's recipe has (config/multi_attempt.yaml).
_GAMMA, _LAMBDA = 1.0, 0.99


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    if not MEGATRON.is_dir():
        pytest.fail(f"{MEGATRON} is not there: `make test-megatron` installs Megatron into it")
    ranks = Ranks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


# ---- Models: small, in the shapes of the real ones ----


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders in bf16, by name; random weights."""
    sizes: dict[str, Any] = {
        "vocab_size": 260,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 256,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": 258,
        "pad_token_id": 256,
    }
    torch.manual_seed(0)
    qwen2_tied = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=False))
    # Qwen3's heads have a size of their own.
    qwen3 = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=64, tie_word_embeddings=True))
    folder = tmp_path_factory.mktemp("models")
    saved = {
        "Qwen2.5-Math-1.5B": _save(qwen2_tied, folder / "qwen2-tied"),
        "Qwen2.5-Math-7B": _save(qwen2, folder / "qwen2"),
        # In several files, as the real one.
        "Qwen3-4B": _save(qwen3, folder / "qwen3", max_shard_size="300KB"),
    }
    assert len(list(saved["Qwen3-4B"].glob("*.safetensors"))) > 1
    return saved


def _save(model: Any, folder: Path, **options: Any) -> Path:
    # The norms and biases start as ones and zeros, which would hide a mistake in their order.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(folder, **options)
    make_tokenizer().save_pretrained(folder)
    return folder


# ---- Episodes ----


class _Server:
    """Stands in for verl's ``LLMServerClient``: wrong answers of letters that were drawn, and at last the right one."""

    def __init__(self, attempts: int, seed: int) -> None:
        self._left = attempts
        self._generator = torch.Generator().manual_seed(seed)

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict, **_: Any) -> TokenOutput:
        self._left -= 1
        letters = torch.randint(97, 123, (12,), generator=self._generator).tolist()
        ids = [*letters, *(b"\\boxed{4}" if self._left == 0 else b"\\boxed{5}"), 258]
        return TokenOutput(token_ids=ids, log_probs=[-1.0] * len(ids), stop_reason="completed")


async def _play(config: DictConfig, attempts: int, row: int) -> AgentLoopOutput:
    loop = make_loop("multi_attempt", config, _Server(attempts, seed=row), make_tokenizer())
    return await loop.run(
        dict(SAMPLING),
        # Prompts of different lengths, as a batch has them.
        raw_prompt=[{"role": "user", "content": f"{row * ' '}2+2=?"}],
        reward_model={"ground_truth": "4"},
        extra_info={"index": row, "attempts": 5},
        index=row,
        global_steps=0,
    )


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """Episodes of the plugin's agent loop, of one to four attempts, as the trainer has them before it updates models.

    Log-probabilities, values and rewards are drawn; advantages and returns are verl's, from them. What stands at
    feedback tokens is what verl puts there, drawn or computed, and not zero.
    """
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("multi_attempt", overrides=["multi_attempt.prompts=toy", "data.max_response_length=300"])
    episodes = [asyncio.run(_play(config, attempts=1 + row % 4, row=row)) for row in range(_EPISODES)]
    generator = torch.Generator().manual_seed(0)
    return [_row(episode, generator) for episode in episodes]


def _row(episode: AgentLoopOutput, generator: torch.Generator) -> dict[str, Any]:
    length = len(episode.response_ids)
    mask = torch.tensor(episode.response_mask)

    def drawn(mean: float, spread: float) -> torch.Tensor:
        return mean + spread * torch.randn(length, generator=generator)

    # A random model of 260 tokens gives each of them this log-probability, more or less.
    old, reference = (drawn(-5.56, 0.1) for _ in range(2))
    values, rewards = drawn(0.0, 0.5), torch.zeros(length)
    rewards[-1] = 1.0 if len(mask) % 2 else -1.0
    advantages, returns = compute_gae_advantage_return(rewards[None], values[None], mask[None], _GAMMA, _LAMBDA)
    return {
        "prompts": episode.prompt_ids,
        "responses": episode.response_ids,
        "response_mask": episode.response_mask,
        "old_log_probs": old.tolist(),
        "ref_log_prob": reference.tolist(),
        "values": values.tolist(),
        "advantages": advantages[0].tolist(),
        "returns": returns[0].tolist(),
    }
