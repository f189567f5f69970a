"""Where the rollout engines differ: what an attempt is asked for, and what verl's servers say of it.

All else that verl's two servers take and give is the same, and ``tests/verl_ext/test_sampling.py`` asks both of them
the same questions: ``max_tokens`` and ``logprobs`` are vLLM's names, which verl translates for SGLang; the token that
ends an attempt is kept; log-probabilities are the model's at the sampling temperature. Two differences stay. With
``top_p`` below 1 or ``top_k`` vLLM's log-probabilities are those of the cut distribution, SGLang's those of the whole
one, which is what the actor computes. And SGLang leaves the last two places of the context free, and refuses a prompt
that comes closer than 7 to its end, where vLLM fills it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from verl.workers.rollout import replica
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

# vLLM's word after verl's translation, and SGLang's own.
_ABORTED = ("aborted", "abort")

# How close to the end of the context SGLang takes no prompt any more; it cuts attempts two places before the end.
_SGLANG_RESERVE = 7

_CPU_ENGINE = "SGLANG_USE_CPU_ENGINE"


def request_parameters(engine: str, end_ids: Collection[int], *, may_abort: bool = False) -> dict[str, Any]:
    """The sampling parameters that every attempt has, beyond verl's own.

    Args:
        engine: ``actor_rollout_ref.rollout.name``.
        end_ids: the tokens that end the model's turn.
        may_abort: whether the trainer aborts attempts that are under way.
    """
    parameters: dict[str, Any] = {"stop_token_ids": sorted(end_ids)}
    if engine == "vllm":
        from vllm.sampling_params import RequestOutputKind

        # verl takes the last output of a request, and only its tokens. Without these two vLLM makes text of every token
        # (v1/engine/detokenizer.py) and an output after each, for each request, in the process that serves them all.
        # SGLang refuses what it does not know, these two among it; verl asks it for tokens only, and for one output.
        parameters["detokenize"] = False
        # An abort waits, for up to a minute, until each request has given an output (vllm_async_server.py, line 970):
        # if the first is the last, nothing is left to abort.
        if not may_abort:
            parameters["output_kind"] = RequestOutputKind.FINAL_ONLY
    return parameters


def was_aborted(output: TokenOutput) -> bool:
    """Whether the engine gave an attempt up, as for a weight update; its tokens, if there are any, are not all."""
    return output.stop_reason in _ABORTED


def was_cut(output: TokenOutput, limit: int, end_ids: Collection[int]) -> bool:
    """Whether a length limit cut an attempt.

    verl's vLLM server says ``completed`` of a stop and of a cut (``vllm_async_server.py``, line 723); an engine that
    gave fewer tokens than it was asked for has stopped by itself, whatever token it stopped at.

    Args:
        output: the attempt, which was not aborted.
        limit: the tokens that it was asked for.
        end_ids: the tokens that end the model's turn.
    """
    if output.token_ids[-1] in end_ids or output.stop_reason == "stop":
        return False
    return output.stop_reason == "length" or len(output.token_ids) >= limit


def usable_context(engine: str, max_model_len: int) -> int:
    """The tokens of a context that prompts and attempts can fill; see above for SGLang."""
    return max_model_len - (_SGLANG_RESERVE if engine == "sglang" else 0)


def register() -> None:
    """Serve ``rollout.name=sglang`` by verl's replica with a server that says what its prefix cache held."""
    RolloutReplicaRegistry.register("sglang", _load_sglang)


def _load_sglang() -> type[RolloutReplica]:
    cpu_engine = os.environ.get(_CPU_ENGINE)
    # verl's loader lets SGLang be imported where there is no GPU, and deletes the variable after it (replica.py, line
    # 377); a process that runs SGLang on a CPU still needs it.
    replica._load_sglang()
    if cpu_engine is not None:
        os.environ[_CPU_ENGINE] = cpu_engine
    from verl_ext.rollout.sglang_server import CountingSGLangReplica

    return CountingSGLangReplica
