"""One row, up to N attempts: the multi-attempt loop as a state machine (Chung, Du and Fu 2025, equation 3).

Training, validation, evaluation and the tests all run this class, so they agree on when a dialogue ends, what the
model is told, and what each attempt was worth. It knows nothing of tokens or engines, and of what is right only what
the task says: the caller generates a response, asks for its verdict, and hands both over.

    episode = Episode(task, row, attempts=2)
    messages = episode.messages                          # what to show the model first
    verdict = await episode.verdict(response)
    feedback = episode.record(response, verdict)         # a message to append, or None: the episode is over
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from multi_attempt.reflection import Critic, with_critique
from multi_attempt.tasks import Attempt, Message, Reflection, Task, Verdict

__all__ = ["Attempt", "Episode", "Reflection", "StopReason", "Transcript"]


class StopReason(str, Enum):
    """Why an episode ended."""

    CORRECT = "correct"
    """An attempt was correct."""
    EXHAUSTED = "exhausted"
    """The last attempt was wrong."""
    TRUNCATED = "truncated"
    """An attempt was cut by a length limit, or no room was left for another."""
    ABORTED = "aborted"
    """The episode did not run to its end: generation was aborted, or an error occurred. It teaches nothing."""


@dataclass
class Transcript:
    """All that is known of an episode after it ended; plain data, so that it travels between processes.

    Attributes:
        budget: the attempts allowed, N.
        stop: why the episode ended.
        attempts: the attempts made, in order.
        reflections: what was said between them (``multi_attempt.reflect``), in order.
        prompt_tokens: prompt tokens sent to the engine for the second and later attempts, over all of them.
        cached_tokens: how many of those the engine found in its prefix cache.
        seconds: how long the episode waited, by what it waited for: ``generate``, ``grade``, ``tokens``.
        error: what went wrong, for an episode that failed; else empty.
    """

    budget: int
    stop: StopReason = StopReason.ABORTED
    attempts: list[Attempt] = field(default_factory=list)
    reflections: list[Reflection] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def success(self) -> bool:
        """Whether the last attempt was correct: any of them, since a correct one ends an episode that is not blind."""
        return bool(self.attempts) and self.attempts[-1].correct

    def to_dict(self) -> dict[str, Any]:
        """As built-in types only."""
        return {**asdict(self), "stop": self.stop.value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Transcript:
        """The inverse of :meth:`to_dict`."""
        attempts = [Attempt(**{**attempt, "span": tuple(attempt["span"])}) for attempt in data["attempts"]]
        reflections = [Reflection(**{**each, "span": tuple(each["span"])}) for each in data["reflections"]]
        return cls(**{**data, "stop": StopReason(data["stop"]), "attempts": attempts, "reflections": reflections})


class Episode:
    """The dialogue about one row. Single use: once over, it stays over.

    Args:
        task: what is asked, what is right, and what the model is told.
        row: of the task.
        attempts: the attempts allowed, N >= 1.
        reflects: the feedback also asks the model what went wrong; its words go to :meth:`reflect`, before the next
            attempt (``multi_attempt.reflect=self``).
        blind: nothing is said on whether an attempt was right, and a right one does not end the dialogue (evaluation
            protocol ``blind``, ``multi_attempt.tell=blind``; the paper's loop is not). The last attempt counts.

    Raises:
        ValueError: ``attempts`` below 1.
    """

    def __init__(
        self, task: Task[Any], row: Any, attempts: int, *, blind: bool = False, reflects: bool = False
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts = {attempts}: an episode needs at least 1")
        self.task = task
        self.row = row
        self.blind = blind
        self.reflects = reflects
        self.messages: list[Message] = task.opening(row, attempts)
        self.transcript = Transcript(budget=attempts)
        self.done = False

    @property
    def attempts_left(self) -> int:
        """How many more attempts the model has."""
        return 0 if self.done else self.transcript.budget - len(self.transcript.attempts)

    async def verdict(self, response: str) -> Verdict:
        """The task's verdict on a response."""
        return await self.task.verdict(self.row, response)

    def record(
        self, response: str, verdict: Verdict, *, span: tuple[int, int] = (0, 0), truncated: bool = False
    ) -> Message | None:
        """Take the model's next attempt and say how the dialogue goes on.

        Args:
            response: the attempt's own text, without special tokens.
            verdict: the task's.
            span: where its tokens stand in the response.
            truncated: whether a length limit cut it. It is judged on what it holds, but nothing follows it.

        Returns:
            The feedback message to append, or None when the episode is over (see ``transcript.stop``).

        Raises:
            RuntimeError: the episode is already over.
        """
        if self.done:
            raise RuntimeError(f"the episode is over ({self.transcript.stop.value}); it takes no further attempt")
        attempt = Attempt.of(verdict, span, truncated=truncated, repeated=self._repeats(verdict.answer))
        self.transcript.attempts.append(attempt)
        self.messages = [*self.messages, {"role": "assistant", "content": response}]
        if truncated:
            self.finish(StopReason.TRUNCATED)
        elif verdict.correct and not (self.blind and self.attempts_left):
            self.finish(StopReason.CORRECT)
        elif self.attempts_left == 0:
            self.finish(StopReason.EXHAUSTED)
        if self.done:
            return None
        feedback = self._feedback()
        if self.reflects:
            feedback = self.task.asking_to_reflect(feedback, self.row, self.attempts_left)
        self.messages = [*self.messages, feedback]
        return feedback

    def reflect(self, text: str, *, span: tuple[int, int] = (0, 0), truncated: bool = False) -> Message:
        """Take what the model says of its attempt, to which :meth:`record` asked it.

        Args:
            text: its own words, without special tokens.
            span: where its tokens stand in the response.
            truncated: whether a length limit cut it.

        Returns:
            The message to append, behind which the next attempt follows.
        """
        made = len(self.transcript.attempts)
        self.transcript.reflections.append(Reflection(made, "self", text, span, truncated))
        retry = self.task.retry(self.row, self.attempts_left)
        self.messages = [*self.messages, {"role": "assistant", "content": text}, retry]
        return retry

    async def criticise(self, critic: Critic) -> Message:
        """Have a judge say what is wrong with the last attempt, behind the feedback on it.

        Returns:
            The feedback with the judge's words, in place of that which :meth:`record` gave.
        """
        *before, feedback = self.messages
        gold = self.task.gold(self.row) if critic.settings.knows_gold else ""
        words = await critic.words(self.task.question(self.row), before[-1]["content"], gold)
        made = len(self.transcript.attempts)
        self.transcript.reflections.append(Reflection(made, "judge", words, knew_gold=critic.settings.knows_gold))
        feedback = with_critique(feedback, words)
        self.messages = [*before, feedback]
        return feedback

    def _repeats(self, answer: str | None) -> bool:
        """Whether an answer repeats that of an earlier wrong attempt."""
        if answer is None:
            return False
        wrong = [attempt.answer for attempt in self.transcript.attempts if not attempt.correct]
        return any(self.task.repeats(earlier, answer) for earlier in wrong if earlier is not None)

    def _feedback(self) -> Message:
        if self.blind:
            return self.task.neutral(self.row, self.attempts_left)
        return self.task.feedback(self.row, self.transcript.attempts, self.attempts_left)

    def finish(self, stop: StopReason, error: str = "") -> None:
        """End the episode from outside: no room for another attempt, an aborted generation, or an error."""
        self.transcript.stop = stop
        self.transcript.error = error
        self.done = True
