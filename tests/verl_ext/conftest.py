"""What the tests of the plugin share: a readable tokenizer, a composed config, and a scripted rollout engine."""

from __future__ import annotations

import os

# verl chooses its platform once, when it is imported.
os.environ["VERL_PLATFORM"] = "cpu"

import asyncio
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerFast, Qwen2Config
from verl.workers.rollout.replica import TokenOutput

from multi_attempt.toy.tokenizer import make_tokenizer

PAD, START, END = 256, 257, 258
"""The toy tokenizer's special tokens; token b is byte b."""


@dataclass(frozen=True)
class Call:
    """One request to the engine."""

    request_id: str
    prompt_ids: list[int]
    sampling_params: dict[str, Any]


class FakeServer:
    """Stands in for verl's ``LLMServerClient``: answers from a script, and keeps every request.

    It cuts an answer as an engine does: after a stop token, and at ``max_tokens``. The i-th token that it generates
    has log-probability -i, so that a log-probability at the wrong place shows.

    Attributes:
        script: the answers, in order: an attempt's tokens, an output as it is, an exception to raise, or None to hang.
        calls: the requests.
        outputs: the tokens of the attempts that it gave.
        gives_log_probs: whether attempts come with log-probabilities.
    """

    def __init__(self) -> None:
        self.gives_log_probs = True
        self.restart([])

    def restart(self, script: Sequence[list[int] | TokenOutput | Exception | None]) -> None:
        """Begin with a new script, and forget the requests."""
        self.script = list(script)
        self.calls: list[Call] = []
        self.outputs: list[list[int]] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        self.calls.append(Call(request_id, list(prompt_ids), dict(sampling_params)))
        answer = self.script.pop(0)
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, TokenOutput):
            return answer
        assert answer is not None
        return self._attempt(answer, sampling_params)

    def _attempt(self, tokens: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        ends = [number for number, token in enumerate(tokens, 1) if token in sampling_params["stop_token_ids"]]
        tokens = tokens[: min([*ends, sampling_params["max_tokens"]])]
        generated = sum(map(len, self.outputs))
        self.outputs.append(tokens)
        log_probs = [-float(generated + number) for number in range(1, len(tokens) + 1)]
        return TokenOutput(
            token_ids=tokens, log_probs=log_probs if self.gives_log_probs else None, stop_reason="completed"
        )


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model folder without weights: what verl reads when it converts a config, and what the start-up check reads."""
    folder = tmp_path_factory.mktemp("model")
    Qwen2Config(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hydra_configs() -> Iterator[None]:
    """Makes ``hydra.compose`` look where ``verl.trainer.main_ppo`` does."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        yield


@pytest.fixture(scope="session")
def _composed(hydra_configs: None, model_folder: Path) -> DictConfig:
    overrides = ["multi_attempt.prompts=toy", "data.max_response_length=200"]
    return compose("multi_attempt", overrides=[*overrides, f"actor_rollout_ref.model.path={model_folder}"])


@pytest.fixture
def config(_composed: DictConfig) -> DictConfig:
    """The config ``multi_attempt`` with the toy prompts and short responses; a copy of its own for each test."""
    return copy.deepcopy(_composed)
