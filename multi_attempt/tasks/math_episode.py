"""Episodes of the math task about a bare question, whose answers the caller grades."""

from __future__ import annotations

from collections.abc import Sequence

from multi_attempt.episode import Episode
from multi_attempt.grading import NO_ANSWER, Verdict
from multi_attempt.prompts import Message, PromptSet
from multi_attempt.tasks.math import Math, Problem
from multi_attempt.tasks.task import Words


class MathEpisode(Episode):
    """A dialogue that is played without a dataset, as demonstrations and measurements are.

    Args:
        question: the question's text.
        attempts: the attempts allowed.
        prompts: the wording.
        parts: what feedback is made of (``multi_attempt.feedback``); empty for what the prompt set says.
        blind: as of :class:`Episode`.
    """

    task: Math

    def __init__(
        self, question: str, attempts: int, prompts: PromptSet, parts: Sequence[str] = (), *, blind: bool = False
    ) -> None:
        words = Words(prompts, tuple(parts))
        super().__init__(Math(words=words), Problem(question, ""), attempts, blind=blind)

    def extract(self, response: str) -> str | None:
        """The answer in a response, to be graded."""
        return self.task.words.prompts.extract(response)

    def record(  # type: ignore[override]  # a grade of the answer, not a verdict on the response
        self, response: str, grade: Verdict = NO_ANSWER, *, span: tuple[int, int] = (0, 0), truncated: bool = False
    ) -> Message | None:
        """As of :class:`Episode`, with the grade of the answer in the response."""
        verdict = self.task.judged(response, self.extract(response), grade)
        return super().record(response, verdict, span=span, truncated=truncated)
