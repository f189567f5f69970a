"""The reward of an episode, through verl's reward loop."""

from __future__ import annotations

from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from multi_attempt.attempt_rewards import episode_reward
from multi_attempt.config import load_settings
from multi_attempt.episode import Transcript
from multi_attempt.metrics import episode_metrics
from verl_ext.names import NAME
from verl_ext.rollout.agent_loop import TRANSCRIPT_KEY


@register(NAME)
class MultiAttemptRewardManager(RewardManagerBase):
    """Turns the transcript that the agent loop wrote into a reward, and into measures for validation.

    The attempts were graded while the episode ran, since their grades decide how it goes on; here nothing is decoded
    or graded again.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **_: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        self._reward = load_settings(config.get(NAME)).reward

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """The reward and the measures of one episode.

        Returns:
            ``reward_score``, and ``reward_extra_info`` with the same keys for every episode: ``acc``, which makes
            success verl's headline metric (``val-core/.../acc``), and those of
            :func:`multi_attempt.metrics.episode_metrics`.
        """
        extra_fields = data[-1:].non_tensor_batch["tool_extra_fields"][0]
        if TRANSCRIPT_KEY not in extra_fields:
            raise ValueError(
                f"reward.reward_manager.name = {NAME}: the episode has no transcript; it needs "
                f"actor_rollout_ref.rollout.agent.default_agent_loop = {NAME} (and no agent_name in the rows)"
            )
        transcript = Transcript.from_dict(extra_fields[TRANSCRIPT_KEY])
        measures = episode_metrics(transcript)
        return {
            "reward_score": episode_reward(self._reward, transcript),
            "reward_extra_info": {"acc": float(transcript.success), **measures},
        }
