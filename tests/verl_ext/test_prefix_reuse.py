"""Earlier attempts come from the prefix cache: two vLLM engines behind verl's router, and what they say of it."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from engine import BLOCK, Work, by_agent_loop, cpu_config, open_engine
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.router import GlobalRequestLoadBalancer

pytestmark = pytest.mark.engine

# Attempts of a real model's length.
_EPISODES, _ATTEMPTS, _TOKENS = 8, 3, 500
_ROOM = _ATTEMPTS * (_TOKENS + 40)


class Replicas:
    """Two engines and verl's router in one process, as ``LLMServerClient`` has them by Ray.

    Attributes:
        requests: by request id, of each of its attempts: the engine that was asked, the tokens that there were after
            the attempt before, and how many of them the engine found in its cache.
    """

    def __init__(self, engines: dict[str, Any]) -> None:
        self.router = GlobalRequestLoadBalancer(engines)
        self.tokenizer = next(iter(engines.values())).tokenizer
        self.requests: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
        self._known: dict[str, int] = {}

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        name, engine = self.router.acquire_server(request_id)
        output: TokenOutput = await engine.generate(request_id, prompt_ids=prompt_ids, sampling_params=sampling_params)
        self.router.release_server(name)
        cached = output.extra_fields["num_cached_tokens"]
        self.requests[request_id].append((name, self._known.get(request_id, 0), cached))
        self._known[request_id] = len(prompt_ids) + len(output.token_ids)
        return output


async def test_earlier_attempts_come_from_the_cache_of_one_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    async with AsyncExitStack() as stack:
        engines = {
            name: await stack.enter_async_context(open_engine(tmp_path / name, at_once=_EPISODES, longest=_ROOM + 64))
            for name in ("first", "second")
        }
        replicas = Replicas(engines)
        overrides = [f"data.max_response_length={_ROOM}", "multi_attempt.max_tokens_per_attempt=null"]
        config = cpu_config(tmp_path / "first", *overrides)
        work = Work([[_TOKENS] * _ATTEMPTS] * _EPISODES, _TOKENS)
        outputs = await by_agent_loop("multi_attempt", config, replicas, work)

    assert [len(output.extra_fields["multi_attempt"]["attempts"]) for output in outputs] == [_ATTEMPTS] * _EPISODES
    assert len(replicas.requests) == _EPISODES
    used = [{name for name, _, _ in attempts} for attempts in replicas.requests.values()]
    assert [len(names) for names in used] == [1] * _EPISODES
    assert set().union(*used) == {"first", "second"}
    later = [attempt for attempts in replicas.requests.values() for attempt in attempts[1:]]
    # All but the last block, which was not full; and the token that ended the turn, which the engine never computed.
    assert all(known - cached <= BLOCK for _, known, cached in later)
    known, cached = sum(known for _, known, _ in later), sum(cached for _, _, cached in later)
    assert cached / known >= 0.95
    # The run reports what the engines say.
    assert cached == sum(output.extra_fields["multi_attempt"]["cached_tokens"] for output in outputs)
