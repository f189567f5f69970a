"""The same questions to verl's server of either engine, asked through the agent loop, and checked against the model.

Runs on the engine that is installed: vLLM in the CPU set-up, SGLang in that of ``make test-sglang``.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
import ray
import torch
from engine import BLOCK, SAMPLING, cpu_config, make_loop
from omegaconf import DictConfig, OmegaConf
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.rollout.replica import RolloutMode, RolloutReplicaRegistry, TokenOutput

from multi_attempt.toy.tokenizer import make_tokenizer
from verl_ext.names import COLOCATE_ASYNC
from verl_ext.rollout.agent_loop import MultiAttemptAgentLoop
from verl_ext.rollout.sampling import request_parameters, was_aborted, was_cut

ENGINE = "vllm" if importlib.util.find_spec("vllm") else "sglang"

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

END = 258
_GREEDY = {**SAMPLING, "temperature": 0.0}
_QUESTION = [257, *b"user\nIs this more than one block of the prefix cache?", END, 10, 257, *b"assistant\n"]
_CONTEXT = 1024

# In fp32 an engine and transformers differ by the order of their sums.
_TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Qwen2ForCausalLM]:
    """The folder with ``model``, and the model: it has learned nothing, and ends its turn every fifth token or so."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=260,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,  # of width 32, which vLLM's attention on CPU asks for
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=_CONTEXT,
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=256,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        # Some tokens are far more likely than others. One feature is the same for all tokens, and speaks for the end.
        model.lm_head.weight *= 2.5
        model.lm_head.weight[END] = 0.0
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[END, 0] = 2.0
    folder = tmp_path_factory.mktemp("toy")
    model.save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    return folder, model


class Client:
    """Asks a server as verl's ``LLMServerClient`` does, and keeps what it says."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.outputs: list[TokenOutput] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        output: TokenOutput = await self.server.generate.remote(
            request_id=uuid4().hex, prompt_ids=prompt_ids, sampling_params=sampling_params
        )
        self.outputs.append(output)
        return output


@contextmanager
def ray_as_in_a_run(config: DictConfig) -> Iterator[None]:
    settings: Any = OmegaConf.to_container(config.ray_kwargs.ray_init)
    ray.init(**settings)
    try:
        yield
    finally:
        ray.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loop(model: tuple[Path, Qwen2ForCausalLM]) -> AsyncIterator[MultiAttemptAgentLoop]:
    """An agent loop whose server is the one that a run of this engine has."""
    folder, _ = model
    settings = [f"rollout={ENGINE}", f"actor_rollout_ref.rollout.max_model_len={_CONTEXT}"]
    settings.append("actor_rollout_ref.rollout.load_format=auto")
    config = cpu_config(folder, *settings)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    with ray_as_in_a_run(config):
        replica: Any = RolloutReplicaRegistry.get(ENGINE)(
            0, rollout, omega_conf_to_dataclass(config.actor_rollout_ref.model, dataclass_type=HFModelConfig)
        )
        server = replica.server_class.remote(
            config=rollout,
            model_config=replica.model_config,
            rollout_mode=RolloutMode.STANDALONE,
            workers=[],
            replica_rank=0,
            node_rank=0,
            nnodes=1,
            cuda_visible_devices="0",
            **{"base_gpu_id": 0} if ENGINE == "sglang" else {"gpus_per_node": 1},
        )
        await server.launch_server.remote()
        yield made_loop(config, Client(server))


def made_loop(config: DictConfig, client: Client) -> MultiAttemptAgentLoop:
    loop = make_loop("multi_attempt", config, client, make_tokenizer())
    assert isinstance(loop, MultiAttemptAgentLoop)
    return loop


def model_logits(model: Qwen2ForCausalLM, prompt: list[int], response: list[int]) -> torch.Tensor:
    """What transformers gives the tokens of a response, shape [response_length, vocabulary]."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([prompt + list(response)])).logits
    return logits[0, len(prompt) - 1 : -1]


def log_probs_of(logits: torch.Tensor, response: list[int]) -> list[float]:
    """The log-probabilities of the response's own tokens, [response_length]."""
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).squeeze(-1).tolist()


async def ask(loop: MultiAttemptAgentLoop, prompt: list[int], limit: int, **parameters: Any) -> TokenOutput:
    return await loop.generate(uuid4().hex, prompt, {**SAMPLING, **parameters, "max_tokens": limit})


async def test_an_attempt_ends_with_the_token_that_ends_it(loop: MultiAttemptAgentLoop) -> None:
    outputs = await asyncio.gather(*(ask(loop, _QUESTION, 200) for _ in range(16)))
    for output in outputs:
        assert output.token_ids.index(END) == len(output.token_ids) - 1
        assert not was_cut(output, 200, loop.chat.end_ids)
    assert len({len(output.token_ids) for output in outputs}) > 1


async def test_every_stop_token_ends_an_attempt(loop: MultiAttemptAgentLoop) -> None:
    free = await loop.server_manager.generate(
        "", prompt_ids=_QUESTION, sampling_params={**_GREEDY, "max_tokens": 16, "ignore_eos": True}
    )
    stop = free.token_ids[4]
    stopped = await loop.server_manager.generate(
        "",
        prompt_ids=_QUESTION,
        sampling_params={**_GREEDY, **request_parameters(ENGINE, {END, stop}), "max_tokens": 16},
    )
    first = min(number for number, token in enumerate(free.token_ids) if token in (END, stop))
    assert stopped.token_ids == free.token_ids[: first + 1]


async def test_an_attempt_is_cut_at_its_limit(loop: MultiAttemptAgentLoop) -> None:
    outputs = await asyncio.gather(*(ask(loop, _QUESTION, 2) for _ in range(16)))
    cut = [output for output in outputs if output.token_ids[-1] != END]
    assert {len(output.token_ids) for output in cut} == {2}
    assert all(was_cut(output, 2, loop.chat.end_ids) and not was_aborted(output) for output in cut)


async def test_an_attempt_is_cut_at_the_end_of_the_context(loop: MultiAttemptAgentLoop) -> None:
    output = await loop.server_manager.generate(
        "",
        prompt_ids=(_QUESTION * 20)[: _CONTEXT - 7],  # the longest that SGLang takes
        sampling_params={**_GREEDY, "max_tokens": 200, "ignore_eos": True},
    )
    # SGLang keeps the last two places free.
    assert len(output.token_ids) == (7 if ENGINE == "vllm" else 5)


async def test_the_greedy_attempt_is_the_models(
    loop: MultiAttemptAgentLoop, model: tuple[Path, Qwen2ForCausalLM]
) -> None:
    output = await loop.server_manager.generate(
        "", prompt_ids=_QUESTION, sampling_params={**_GREEDY, "max_tokens": 24, "ignore_eos": True}
    )
    assert list(output.token_ids) == model_logits(model[1], _QUESTION, output.token_ids).argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
async def test_each_token_has_the_models_log_probability_at_the_temperature(
    loop: MultiAttemptAgentLoop, model: tuple[Path, Qwen2ForCausalLM], temperature: float
) -> None:
    outputs = await asyncio.gather(*(ask(loop, _QUESTION, 48, temperature=temperature) for _ in range(8)))
    for output in outputs:
        expected = log_probs_of(model_logits(model[1], _QUESTION, output.token_ids) / temperature, output.token_ids)
        assert output.log_probs == pytest.approx(expected, abs=_TOLERANCE)


async def test_the_engine_says_how_much_of_a_prompt_its_cache_held(loop: MultiAttemptAgentLoop) -> None:
    fresh = list(range(100, 100 + 2 * BLOCK))  # no other prompt begins like it, nor a health check, which is one 0
    first = await ask(loop, fresh, 48)
    assert first.extra_fields["num_cached_tokens"] == 0
    known = fresh + list(first.token_ids)
    second = await ask(loop, [*known, *b"and on"], 48)
    # Whole blocks only; and the last token of an attempt is never computed.
    assert len(known) - BLOCK <= second.extra_fields["num_cached_tokens"] < len(known)


async def test_an_aborted_attempt_is_asked_for_again(
    loop: MultiAttemptAgentLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = loop.server_manager
    assert isinstance(client, Client)
    config = copy.deepcopy(loop.config)
    config.trainer.v1.trainer_mode = COLOCATE_ASYNC  # the trainer that aborts
    loop = made_loop(config, client)
    # Long enough to be under way when it is aborted.
    long = {"max_tokens": 900, "temperature": 0.0, "ignore_eos": True}
    whole = await loop.server_manager.generate("", prompt_ids=_QUESTION, sampling_params={**SAMPLING, **long})
    client.outputs.clear()
    monkeypatch.setattr(loop, "_request_parameters", {**loop._request_parameters, "stop_token_ids": []})
    attempt = asyncio.create_task(loop.generate(uuid4().hex, _QUESTION, {**SAMPLING, **long}))
    await asyncio.sleep(0.5)
    await client.server.abort_all_requests.remote()
    try:
        async with asyncio.timeout(60):
            while not client.outputs:
                await asyncio.sleep(0.05)
        assert not attempt.done()
    finally:
        await client.server.resume_generation.remote()
    output = await attempt
    given_up, asked_again = client.outputs
    assert was_aborted(given_up)
    assert len(given_up.token_ids) < 900
    assert output is asked_again
    assert list(output.token_ids) == list(whole.token_ids)


async def test_an_episode_is_what_the_model_would_say(
    loop: MultiAttemptAgentLoop, model: tuple[Path, Qwen2ForCausalLM]
) -> None:
    output = await loop.run(
        dict(SAMPLING),
        raw_prompt=[{"role": "user", "content": "2+2=?"}],
        reward_model={"ground_truth": "4"},
        extra_info={"index": 0, "attempts": 4},
        index=0,
        global_steps=3,
    )
    transcript = output.extra_fields["multi_attempt"]
    assert transcript["error"] == ""
    assert len(transcript["attempts"]) > 1
    expected = log_probs_of(model_logits(model[1], output.prompt_ids, output.response_ids), output.response_ids)
    assert output.response_logprobs == pytest.approx(
        [log_prob * generated for log_prob, generated in zip(expected, output.response_mask, strict=True)],
        abs=_TOLERANCE,
    )
    assert transcript["prompt_tokens"] > transcript["cached_tokens"] > 0
