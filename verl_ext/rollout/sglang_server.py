"""verl's SGLang server, which also says how many tokens of a prompt came from the prefix cache.

vLLM's server reports ``num_cached_tokens``; SGLang counts them too, but verl's server for it does not pass the count on
(verl 0.9.1, ``sglang_rollout/async_sglang_server.py``, line 701). Imports SGLang: only for where it runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.sglang_rollout.async_sglang_server import SGLangHttpServer, SGLangReplica

_meta_info: ContextVar[dict[str, Any]] = ContextVar("meta_info")


class CountingSGLangServer(SGLangHttpServer):
    """verl's server, with ``extra_fields["num_cached_tokens"]``."""

    async def launch_server(self, *args: Any, **kwargs: Any) -> None:
        """Start the engine, and listen to what it says of each request."""
        await super().launch_server(*args, **kwargs)
        if self.node_rank != 0:
            return  # only the first node of a replica is asked for anything
        answer = self.tokenizer_manager.generate_request

        async def listened(request: Any, http_request: Any = None) -> AsyncIterator[dict[str, Any]]:
            async for output in answer(request, http_request):
                _meta_info.set(output["meta_info"])  # in the context of the generate that waits for it
                yield output

        self.tokenizer_manager.generate_request = listened

    async def generate(self, *args: Any, **kwargs: Any) -> TokenOutput:
        """See verl's; None for a request that was aborted before it was scheduled."""
        _meta_info.set({})
        output: TokenOutput = await super().generate(*args, **kwargs)
        output.extra_fields["num_cached_tokens"] = _meta_info.get().get("cached_tokens")
        return output


class CountingSGLangReplica(SGLangReplica):
    """verl's replica, with that server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(CountingSGLangServer)
