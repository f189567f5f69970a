"""What a task says of a response, and what an episode keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_BY_CORRECT: Any = None


@dataclass(frozen=True)
class Verdict:
    """What a task says of a response: all that rewards, metrics and reports ever see of how it was judged.

    Attributes:
        correct: whether it is right, which ends the episode.
        answer: what counts as its answer, which reports show and repeats are found by; None: none was found in it.
        well_formed: whether it has the format that was asked for.
        score: how good it is, in [0, 1]; by default 1 if it is right, else 0. The reward pays for it by
            ``multi_attempt.reward.score``.
        note: what the feedback may tell the model of it: the failing test, the judge's word.
        method: how it was decided.
        reason: why it could not be decided and counts as wrong, e.g. ``timeout`` or ``memory``; else empty.

    Raises:
        ValueError: ``correct`` is no truth value, or ``score`` lies outside [0, 1].
    """

    correct: bool
    answer: str | None = None
    well_formed: bool = True
    score: float = _BY_CORRECT
    note: str = ""
    method: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.correct, bool):
            raise ValueError(f"Verdict: correct = {self.correct!r} must be True or False")
        if self.score is None:
            object.__setattr__(self, "score", float(self.correct))
        if not 0 <= self.score <= 1:
            raise ValueError(f"Verdict: score = {self.score} must lie in [0, 1]")


@dataclass(frozen=True)
class Reflection:
    """What was said of a wrong attempt before the next; plain data.

    Attributes:
        attempt: the number of the attempt that it is about, from 1.
        by: ``self``, the model, or ``judge``, a model on a server.
        text: the words.
        span: where the model's own tokens stand in the response, ``[start, stop)``; (0, 0) for a judge's words.
        truncated: whether a length limit cut it.
        knew_gold: whether the judge was told the right answer.
    """

    attempt: int
    by: str
    text: str
    span: tuple[int, int] = (0, 0)
    truncated: bool = False
    knew_gold: bool = False


@dataclass(frozen=True)
class Attempt:
    """The record of one attempt; plain data.

    Attributes:
        span: where its tokens stand in the response, ``[start, stop)``; (0, 0) where there are no tokens.
        answer: of its verdict, as are ``correct``, ``well_formed``, ``method``, ``reason``, ``score`` and ``note``.
        truncated: whether it was cut by a length limit.
        repeated: whether the answer repeats that of an earlier wrong attempt, as the task sees it.
    """

    span: tuple[int, int]
    answer: str | None
    correct: bool
    well_formed: bool
    truncated: bool
    repeated: bool
    method: str
    reason: str
    score: float = 0.0
    note: str = ""

    @classmethod
    def of(
        cls, verdict: Verdict, span: tuple[int, int] = (0, 0), *, truncated: bool = False, repeated: bool = False
    ) -> Attempt:
        """The record of an attempt with this verdict."""
        return cls(
            span=span,
            answer=verdict.answer,
            correct=verdict.correct,
            well_formed=verdict.well_formed,
            truncated=truncated,
            repeated=repeated,
            method=verdict.method,
            reason=verdict.reason,
            score=verdict.score,
            note=verdict.note,
        )
