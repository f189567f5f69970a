"""One question, up to N attempts: the multi-attempt task as a state machine (Chung, Du and Fu 2025, equation 3).

Training, validation, evaluation and the tests all run this class, so they agree on when a dialogue ends, what the
model is told, and what each attempt was worth. It knows nothing of tokens or engines: the caller generates a response,
has its answer graded, and hands both over.

    episode = Episode("What is 6 times 7?", attempts=2, prompts=load_prompt_set("boxed"))
    messages = episode.messages                          # what to show the model first
    feedback = episode.record(response, verdict)         # a message to append, or None: the episode is over
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from multi_attempt.grading import NO_ANSWER, Verdict, normalize
from multi_attempt.prompts import Message, PromptSet


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


@dataclass(frozen=True)
class Attempt:
    """The record of one attempt.

    Attributes:
        span: where its tokens stand in the response, ``[start, stop)``; (0, 0) where there are no tokens.
        answer: the extracted answer, or None: the model was then told that none was found, if the prompt set has
            words for that.
        correct: whether the answer is right.
        well_formed: whether the text has the format that the prompt asks for.
        truncated: whether it was cut by a length limit.
        repeated: whether the answer equals the answer of an earlier wrong attempt.
        method: how the grader decided.
        reason: why the grader could not decide, e.g. ``timeout``; else empty.
    """

    span: tuple[int, int]
    answer: str | None
    correct: bool
    well_formed: bool
    truncated: bool
    repeated: bool
    method: str
    reason: str


@dataclass
class Transcript:
    """All that is known of an episode after it ended; plain data, so that it travels between processes.

    Attributes:
        budget: the attempts allowed, N.
        stop: why the episode ended.
        attempts: the attempts made, in order.
        prompt_tokens: prompt tokens sent to the engine for the second and later attempts, over all of them.
        cached_tokens: how many of those the engine found in its prefix cache.
        seconds: how long the episode waited, by what it waited for: ``generate``, ``grade``, ``tokens``.
        error: what went wrong, for an episode that failed; else empty.
    """

    budget: int
    stop: StopReason = StopReason.ABORTED
    attempts: list[Attempt] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def success(self) -> bool:
        """Whether any attempt was correct."""
        return any(attempt.correct for attempt in self.attempts)

    def to_dict(self) -> dict[str, Any]:
        """As built-in types only."""
        return {**asdict(self), "stop": self.stop.value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Transcript:
        """The inverse of :meth:`to_dict`."""
        attempts = [Attempt(**{**attempt, "span": tuple(attempt["span"])}) for attempt in data["attempts"]]
        return cls(**{**data, "stop": StopReason(data["stop"]), "attempts": attempts})


class Episode:
    """The dialogue about one question. Single use: once over, it stays over.

    Args:
        question: the question's text.
        attempts: the attempts allowed, N >= 1.
        prompts: the wording.
        repeat_question: whether feedback shows the question again.
        blind: nothing is said on whether an attempt was right, and a right one does not end the dialogue (evaluation
            protocol ``blind``; the paper's task is not).

    Raises:
        ValueError: ``attempts`` below 1.
    """

    def __init__(
        self, question: str, attempts: int, prompts: PromptSet, repeat_question: bool = False, *, blind: bool = False
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts = {attempts}: an episode needs at least 1")
        self.question = question
        self.prompts = prompts
        self.repeat_question = repeat_question
        self.blind = blind
        self.messages: list[Message] = prompts.opening(question, attempts)
        self.transcript = Transcript(budget=attempts)
        self.done = False

    @property
    def attempts_left(self) -> int:
        """How many more attempts the model has."""
        return 0 if self.done else self.transcript.budget - len(self.transcript.attempts)

    def extract(self, response: str) -> str | None:
        """The answer in a response, to be graded."""
        return self.prompts.extract(response)

    def record(
        self, response: str, verdict: Verdict = NO_ANSWER, *, span: tuple[int, int] = (0, 0), truncated: bool = False
    ) -> Message | None:
        """Take the model's next attempt and say how the dialogue goes on.

        Args:
            response: the attempt's own text, without special tokens.
            verdict: the grade of its answer.
            span: where its tokens stand in the response.
            truncated: whether a length limit cut it. It is graded on what it holds, but nothing follows it.

        Returns:
            The feedback message to append, or None when the episode is over (see ``transcript.stop``).

        Raises:
            RuntimeError: the episode is already over.
        """
        if self.done:
            raise RuntimeError(f"the episode is over ({self.transcript.stop.value}); it takes no further attempt")
        answer = self.extract(response)
        wrong = [attempt for attempt in self.transcript.attempts if not attempt.correct]
        earlier = {normalize(attempt.answer) for attempt in wrong if attempt.answer is not None}
        self.transcript.attempts.append(
            Attempt(
                span=span,
                answer=answer,
                correct=verdict.correct,
                well_formed=self.prompts.is_well_formed(response),
                truncated=truncated,
                repeated=answer is not None and normalize(answer) in earlier,
                method=verdict.method,
                reason=verdict.reason,
            )
        )
        self.messages = [*self.messages, {"role": "assistant", "content": response}]
        if truncated:
            self.finish(StopReason.TRUNCATED)
        elif verdict.correct and not (self.blind and self.attempts_left):
            self.finish(StopReason.CORRECT)
        elif self.attempts_left == 0:
            self.finish(StopReason.EXHAUSTED)
        if self.done:
            return None
        feedback = self._feedback(answered=answer is not None)
        self.messages = [*self.messages, feedback]
        return feedback

    def _feedback(self, *, answered: bool) -> Message:
        if self.blind:
            return self.prompts.after_unjudged(self.question, self.attempts_left)
        return self.prompts.after_wrong(self.question, self.attempts_left, self.repeat_question, answered=answered)

    def finish(self, stop: StopReason, error: str = "") -> None:
        """End the episode from outside: no room for another attempt, an aborted generation, or an error."""
        self.transcript.stop = stop
        self.transcript.error = error
        self.done = True
