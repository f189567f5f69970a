"""What an engine is asked for beyond verl's own sampling parameters. Where the engines differ, it stands here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def request_parameters(engine: str, end_ids: Collection[int]) -> dict[str, Any]:
    """The sampling parameters that every attempt has.

    Args:
        engine: ``actor_rollout_ref.rollout.name``.
        end_ids: the tokens that end the model's turn.
    """
    parameters: dict[str, Any] = {"stop_token_ids": sorted(end_ids)}
    if engine == "vllm":
        from vllm.sampling_params import RequestOutputKind

        # verl takes the last output of a request, and only its tokens. Without these two vLLM makes text of every token
        # (v1/engine/detokenizer.py) and an output after each, for each request, in the process that serves them all.
        parameters |= {"detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
    return parameters
