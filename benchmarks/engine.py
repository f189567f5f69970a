"""What the benchmarks of the rollout share: a vLLM engine in this process, and the work that they all give it.

The engine is on a GPU where torch sees one, in bf16 and with CUDA graphs; else on the CPU.

How long an attempt gets is drawn beforehand, so that all rollouts do the same work; a model of random weights fills it
with letters. There is no Ray between an agent loop and the engine: ``benchmarks/steps.py`` measures with it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import torch

# verl and vLLM read these when they are imported.
os.environ.setdefault("VERL_PLATFORM", "nvidia" if torch.cuda.is_available() else "cpu")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # these two as in config/rollout/vllm.yaml
os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not spin, there are more than cores

import hydra
from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopOutput,
    DictConfigWrap,
    ToolListWrap,
    _agent_loop_registry,
)
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings
from multi_attempt.toy.tokenizer import make_tokenizer
from verl_ext.checks.check_command import compose_config

LETTERS = [*range(ord("a"), ord("z") + 1)]
"""The tokens that attempts are made of: text that is the same tokens again, in whatever pieces it is read."""

GOLD = "-1"
"""The gold answer of every question; no attempt gives it."""

BLOCK = 32
"""Tokens in a block of the prefix cache, as in the CPU config."""

LONGEST = 10
"""The longest attempt, in medians."""

# What the engine is on, of which vLLM takes so much memory: what else is there is small.
_GPU_SETTINGS: dict[str, Any] = {"dtype": "bfloat16", "enforce_eager": False, "gpu_memory_utilization": 0.8}
_CPU_SETTINGS: dict[str, Any] = {"dtype": "float32", "enforce_eager": True}


@dataclass(frozen=True)
class Work:
    """What is to be generated.

    Attributes:
        lengths: for each episode the tokens that the engine generates in each of its attempts.
        median: of all possible lengths.
    """

    lengths: Sequence[Sequence[int]]
    median: int

    @property
    def tokens(self) -> int:
        """Tokens to generate in all."""
        return sum(map(sum, self.lengths))


def draw_work(episodes: int, attempts: int, *, median: int, seed: int) -> Work:
    """Lengths as reasoning has them: log-normal, one in a hundred ten times the median, and none longer."""
    generator = random.Random(f"{seed} {episodes} {attempts}")
    longest = LONGEST * median
    return Work(
        [
            [min(longest, max(1, round(median * generator.lognormvariate(0.0, 1.0)))) for _ in range(attempts)]
            for _ in range(episodes)
        ],
        median,
    )


class Engine:
    """A vLLM engine, asked as verl's ``LLMServerClient`` is, whose answers have the lengths that were drawn.

    Attributes:
        engine: the ``AsyncLLM``.
        tokenizer: the model's tokenizer.
        answer: the answer that ends an attempt of so many tokens.
        requests: by request id, which is the episode's: prompt and length of each of its attempts.
    """

    def __init__(self, engine: Any, tokenizer: Any) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self.requests: dict[str, list[tuple[list[int], int]]] = {}
        self.answer = answer_text

    async def reset(self) -> None:
        """Forget requests and cache."""
        self.requests = {}
        await self.engine.reset_prefix_cache()

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """An attempt: as many letters as were drawn, and then an answer, as a model would end it.

        ``sampling_params["lengths"]`` gives the lengths of the episode's attempts, one after the other.
        """
        from vllm import SamplingParams, TokensPrompt

        sampling_params = dict(sampling_params)
        length = next(sampling_params.pop("lengths"))
        self.requests.setdefault(request_id, []).append((list(prompt_ids), length))
        # As verl's server makes them (verl/workers/rollout/vllm_rollout/vllm_async_server.py, generate).
        parameters = SamplingParams(
            **{
                **sampling_params,
                "logprobs": 0 if sampling_params.get("logprobs") else None,
                "max_tokens": length,
                "ignore_eos": True,
                "stop_token_ids": [],
                "allowed_token_ids": LETTERS,
            }
        )
        final = None
        async for output in self.engine.generate(
            TokensPrompt(prompt_token_ids=list(prompt_ids)), parameters, uuid4().hex
        ):
            final = output
        assert final is not None
        answer = final.outputs[0]
        ending = self.ending(length)
        log_probs = None
        if answer.logprobs is not None:
            chosen = [step[token].logprob for step, token in zip(answer.logprobs, answer.token_ids, strict=True)]
            log_probs = [*chosen, *[0.0] * len(ending)]
        return TokenOutput(
            token_ids=[*answer.token_ids, *ending],
            log_probs=log_probs,
            stop_reason="completed",
            extra_fields={"global_steps": 0, "num_cached_tokens": final.num_cached_tokens},
        )

    def ending(self, length: int) -> list[int]:
        """What follows the letters of an attempt: a wrong answer, and the end of the turn."""
        # In the toy tokenizer, byte b is token b: no time is spent here that no rollout spends.
        return [*self.answer(length).encode(), self.tokenizer.eos_token_id]

    async def continue_text(self, text: str, length: int, *, from_cache: bool) -> str:
        """Text in, text out, as the paper's code asks for it."""
        parameters = letters(length, skip_reading_prefix_cache=not from_cache)
        async for output in self.engine.generate(text, parameters, uuid4().hex):
            answer: str = output.outputs[0].text
            return answer
        raise RuntimeError("the engine ended a request without an output")


def letters(length: int, **others: Any) -> Any:
    """vLLM's sampling parameters for so many letters, given at once; the same for every rollout but ours and verl's."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=1.0,
        logprobs=0,
        max_tokens=length,
        ignore_eos=True,
        allowed_token_ids=LETTERS,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **others,
    )


def answer_text(length: int) -> str:
    """A wrong answer, different for attempts of different lengths."""
    return rf"\boxed{{{length}}}"


@asynccontextmanager
async def open_engine(
    folder: Path, *, at_once: int, longest: int, worker: str = "auto", model: Path | None = None
) -> AsyncIterator[Engine]:
    """Start vLLM with a toy model of random weights, or a model of one's own.

    Args:
        folder: where the toy goes.
        at_once: sequences in a pass.
        longest: tokens of the longest sequence.
        worker: the class that makes the passes.
        model: a folder with another model, whose first tokens are the toy tokenizer's.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    settings = ToySettings(steps=0, max_positions=longest)
    build_toy(
        folder, train_questions=8, validation_questions=1, heldout_questions=1, hard_questions=1, settings=settings
    )
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=str(model or folder / "model"),
            max_model_len=longest,
            **(_GPU_SETTINGS if torch.cuda.is_available() else _CPU_SETTINGS),
            enable_prefix_caching=True,
            block_size=BLOCK,
            max_num_seqs=at_once,
            max_num_batched_tokens=max(8192, longest),
            disable_log_stats=True,
            worker_cls=worker,
        )
    )
    try:
        yield Engine(engine, make_tokenizer())
    finally:
        engine.shutdown()


def cpu_config(folder: Path, *overrides: str) -> DictConfig:
    """The CPU config, as ``main_ppo`` has it, with a context for all that prompt and response may have."""
    config = compose_config("multi_attempt_cpu", [f"toy={folder}", *overrides])
    rollout, longest = config.actor_rollout_ref.rollout, config.data.max_prompt_length + config.data.max_response_length
    rollout.max_model_len = max(rollout.max_model_len, longest)
    OmegaConf.resolve(config)  # as verl does (trainer/main_ppo.py)
    return config


SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}
"""Sampling parameters as verl's agent loop worker makes them."""


class Client(Protocol):
    """What an agent loop asks: an :class:`Engine`, or several behind a router."""

    tokenizer: Any

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """See ``verl.workers.rollout.llm_server.LLMServerClient``."""


def make_loop(name: str, config: DictConfig, server: Any, tokenizer: Any) -> AgentLoopBase:
    """An agent loop, as verl makes one for each episode (``AgentLoopWorker._run_agent_loop``)."""
    loop: AgentLoopBase = hydra.utils.instantiate(
        config=_agent_loop_registry[name],
        trainer_config=DictConfigWrap(config=config),
        server_manager=server,
        tokenizer=tokenizer,
        processor=None,
        hf_model_type="qwen2",
        dataset_cls=RLHFDataset,
        data_config=DictConfigWrap(config.data),
        tools=ToolListWrap([]),
    )
    return loop


async def by_agent_loop(name: str, config: DictConfig, client: Client, work: Work) -> list[AgentLoopOutput]:
    """All episodes at once, each in an agent loop of its own."""

    async def episode(row: int, lengths: Sequence[int]) -> AgentLoopOutput:
        return await make_loop(name, config, client, client.tokenizer).run(
            {**SAMPLING, "lengths": iter(lengths)},
            raw_prompt=[{"role": "user", "content": question(row)}],
            reward_model={"ground_truth": GOLD},
            extra_info={"index": row, "attempts": len(lengths)},
            index=row,
            global_steps=0,
        )

    return await asyncio.gather(*(episode(row, lengths) for row, lengths in enumerate(work.lengths)))


def question(row: int) -> str:
    """A question that is no other row's."""
    return f"{row}+{row}="
