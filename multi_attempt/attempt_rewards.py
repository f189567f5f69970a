"""What an episode is worth, attempt by attempt (``multi_attempt.reward.per_attempt``)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from multi_attempt.episode import StopReason, Transcript
from multi_attempt.rewards import RewardRule


def attempt_rewards(rule: RewardRule, transcript: Transcript) -> list[float]:
    """The reward at the end of each attempt; their sum is the episode's. All 0 for an episode that was aborted.

    With W the reward that ``rule`` gives for an episode of these attempts, of K attempts:

    - ``episode``: nothing, and W(1..K) at the last: they sum to W(1..K);
    - ``difference``: W(1..k) - W(1..k-1), with W of none 0: they sum to W(1..K) as well, so that the objective is the
      same, and each attempt is told what it changed;
    - ``each``: W of attempt k alone, with ``correct`` discounted by its place, and ``progress`` times what it is worth
      more than the attempt before: they sum to another objective, unless wrong attempts are worth 0.
    """
    attempts = transcript.attempts
    if transcript.stop is StopReason.ABORTED or not attempts:
        return [0.0] * len(attempts)
    if rule.per_attempt == "episode":
        return [*[0.0] * (len(attempts) - 1), rule(transcript)]
    if rule.per_attempt == "each":
        alone = [rule(replace(transcript, attempts=[attempt])) for attempt in attempts]
        discounts = [rule.attempt_discount**k if attempt.correct else 1.0 for k, attempt in enumerate(attempts)]
        worths = [reward * discount for reward, discount in zip(alone, discounts, strict=True)]
        return [worths[0], *(after + rule.progress * (after - before) for before, after in pairwise(worths))]
    worths = [rule(replace(transcript, attempts=attempts[:made])) for made in range(1, len(attempts) + 1)]
    return [worths[0], *(after - before for before, after in pairwise(worths))]


def episode_reward(rule: RewardRule, transcript: Transcript) -> float:
    """The sum of :func:`attempt_rewards`."""
    return sum(attempt_rewards(rule, transcript)) if rule.per_attempt == "each" else rule(transcript)
