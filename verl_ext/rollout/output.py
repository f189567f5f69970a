"""An episode in verl's form, whose rewards stand at the ends of its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PrivateAttr
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput


class AttemptsOutput(AgentLoopOutput):
    """verl's output puts ``reward_score`` at the last token (``AgentLoopOutput.as_dict``); this one spreads it."""

    _rewards: list[tuple[int, float]] = PrivateAttr(default_factory=list)

    def reward_at(self, places: Sequence[int], rewards: Sequence[float]) -> None:
        """Say what stands where.

        Args:
            places: the last token of each attempt, in the response.
            rewards: of each attempt; they sum to what the reward manager will give for the episode.
        """
        self._rewards = list(zip(places, rewards, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """As verl's, with ``rm_scores`` of shape [response_length] at the attempts' last tokens.

        Raises:
            ValueError: the rewards do not sum to the episode's.
        """
        output: dict[str, Any] = super().as_dict()
        if "rm_scores" not in output or not self._rewards:
            return output
        given = float(output["rm_scores"].sum())
        scores = torch.zeros_like(output["rm_scores"])
        for place, reward in self._rewards:
            scores[place] += reward
        if abs(float(scores.sum()) - given) > _ROUNDING * max(1.0, abs(given)):
            raise ValueError(f"the attempts' rewards sum to {float(scores.sum())}, and the episode's is {given}")
        return {**output, "rm_scores": scores}


# Of sums of a few float32.
_ROUNDING = 1.0e-5
