"""What an episode is worth (Chung, Du and Fu 2025, section 3: +1, -0.5, -1, no discount for attempts used)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from multi_attempt.episode import Attempt, StopReason, Transcript


@dataclass
class RewardRule:
    """The reward of an episode.

    Attributes:
        correct: reward when any attempt is correct; in an episode that is blind, when the last one is.
        well_formed: reward when none is, but the format is right.
        otherwise: reward when the format is wrong too.
        attempt_discount: factor on ``correct`` for each attempt before the correct one; 1 is the paper's. It does not
            touch the other two: a discounted penalty would pay for wasting attempts.
        score: what share of the way from a failed episode's reward to ``correct`` is paid for the score of its best
            attempt: all of the share for 1, nothing for 0.
        repeat: what each attempt costs whose answer is that of an earlier wrong attempt.
        repeat_share: what an episode costs whose answers are all one; half as much where half of its answers repeat an
            earlier wrong one: lambda (1 - distinct / valid), the penalty of UFO (arXiv 2507.14295).
        format_attempts: whose format counts when no attempt is correct: the ``last`` attempt's, or ``any`` attempt's,
            which is what the paper's code does; its text does not say.
        progress: what share of what an attempt is worth more than the one before it is paid beside, or costs if it is
            worth less; with ``per_attempt = each``. It is SCoRe's bonus (arXiv 2409.12917): alpha (r2 - r1).
        per_attempt: what stands at the end of each attempt: see :func:`multi_attempt.attempt_rewards.attempt_rewards`.
    """

    correct: float = 1.0
    well_formed: float = -0.5
    otherwise: float = -1.0
    attempt_discount: float = 1.0
    format_attempts: str = "last"
    score: float = 0.0
    repeat: float = 0.0
    repeat_share: float = 0.0
    progress: float = 0.0
    per_attempt: str = "episode"

    def __post_init__(self) -> None:
        for name in ("correct", "well_formed", "otherwise"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"multi_attempt.reward.{name} = {getattr(self, name)} must be a finite number")
        if not self.correct >= self.well_formed >= self.otherwise:
            raise ValueError(
                f"multi_attempt.reward: correct = {self.correct}, well_formed = {self.well_formed}, otherwise = "
                f"{self.otherwise} must not increase in this order"
            )
        if not 0 < self.attempt_discount <= 1:
            raise ValueError(f"multi_attempt.reward.attempt_discount = {self.attempt_discount} must lie in (0, 1]")
        if not 0 <= self.score <= 1:
            raise ValueError(f"multi_attempt.reward.score = {self.score} must lie in [0, 1]")
        if not 0 <= self.progress < math.inf:
            raise ValueError(f"multi_attempt.reward.progress = {self.progress} must be 0 or more, and finite")
        if self.progress and self.per_attempt != "each":
            raise ValueError(
                f"multi_attempt.reward.progress = {self.progress} is of attempts that are worth something by "
                f"themselves; set multi_attempt.reward.per_attempt = {self.per_attempt!r} to each"
            )
        for name in ("repeat", "repeat_share"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"multi_attempt.reward.{name} = {getattr(self, name)} must be 0 or more: it is what repeating costs"
                )
        if self.format_attempts not in ("last", "any"):
            raise ValueError(f"multi_attempt.reward.format_attempts = {self.format_attempts!r}; use 'last' or 'any'")
        if self.per_attempt not in ("episode", "difference", "each"):
            raise ValueError(
                f"multi_attempt.reward.per_attempt = {self.per_attempt!r}; use 'episode', 'difference' or 'each'"
            )

    def __call__(self, transcript: Transcript) -> float:
        """The reward of an episode; 0 for one that was aborted, whose outcome nobody knows."""
        if transcript.stop is StopReason.ABORTED:
            return 0.0
        return self._outcome(transcript) - self._repeating(transcript.attempts)

    def _outcome(self, transcript: Transcript) -> float:
        if transcript.success:
            return self.correct * self.attempt_discount ** (len(transcript.attempts) - 1)
        counted = transcript.attempts[-1:] if self.format_attempts == "last" else transcript.attempts
        failed = self.well_formed if any(attempt.well_formed for attempt in counted) else self.otherwise
        best = max((attempt.score for attempt in transcript.attempts), default=0.0)
        return failed + self.score * best * (self.correct - failed)

    def _repeating(self, attempts: Sequence[Attempt]) -> float:
        answers = sum(attempt.answer is not None for attempt in attempts)
        repeats = sum(attempt.repeated for attempt in attempts)
        return self.repeat * repeats + (self.repeat_share * repeats / answers if answers else 0.0)
